"""Families that scale in both, with the loop over the length outside."""
