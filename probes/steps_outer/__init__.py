"""Families that use both budgets, with the loop over refinement steps outside."""
