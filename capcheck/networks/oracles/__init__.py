"""Closed forms and optima that the oracles of signatures are made of."""
