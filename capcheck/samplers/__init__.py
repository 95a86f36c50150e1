"""Samplers of other libraries and of users, run unchanged with the oracle as their network."""
