"""Families that use the steps budget only: they refine the whole sequence at once."""
