"""Families that scale in sequence length."""
