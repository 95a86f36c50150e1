"""Noise paths define how tokens become noise; their probability flow carries noise back to data.

This folder imports `core`; every folder above may import it.
"""
