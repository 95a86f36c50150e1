"""Procedures: how an inference procedure is described (`Probe`), and run on a target (`Procedure`).

It imports `exact`, `networks` and what lies below; every folder above may import it.
"""
