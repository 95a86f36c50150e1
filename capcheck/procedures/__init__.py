"""Inference procedures: their description (`Probe`) and their run on a target (`Procedure`).

This folder imports `exact`, `networks` and the folders below; every folder above may import it.
"""
