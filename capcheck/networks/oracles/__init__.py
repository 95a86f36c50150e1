"""Closed forms and numerical optima from which the oracles of signatures are built.

This folder imports `targets` and the folders below it.
"""
