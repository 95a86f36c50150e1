"""Noise paths and their probability flow: how tokens become noise, and the way back.

It imports `core`; every folder above may import it.
"""
