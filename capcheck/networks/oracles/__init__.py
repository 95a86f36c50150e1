"""Closed forms and optima that the oracles of signatures are made of.

The folder imports `targets` and what lies below; `signatures` alone imports it.
"""
