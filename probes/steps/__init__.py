"""Families that scale in refinement steps."""
