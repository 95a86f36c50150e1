"""Families that use the length budget only: they place tokens one group after another."""
