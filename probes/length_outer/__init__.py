"""Families that use both budgets, with the loop over the length outside."""
