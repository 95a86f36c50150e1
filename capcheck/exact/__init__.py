"""Exact laws and densities of a procedure, found by running it on chosen random numbers.

This folder knows no probe: a procedure is a function of random numbers here (`sampler.py`). It
imports `networks` and the folders below; `procedures` and every folder above may import it.
"""
