"""Families that scale in neither budget: one call makes the whole sequence."""
