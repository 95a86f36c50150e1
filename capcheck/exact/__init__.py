"""Exact laws and densities of what a procedure samples, found from its random numbers alone.

The folder knows no probe: it is given functions of random numbers. It imports `networks` and what
lies below; `procedures` and every folder above may import it.
"""
