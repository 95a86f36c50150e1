"""Families that scale in both, with the refinement loop outside."""
