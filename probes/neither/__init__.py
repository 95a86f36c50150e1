"""Families that use neither budget: one network call makes the whole sequence."""
