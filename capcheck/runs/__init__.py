"""Runs: options, cells, the store of cells, and the engine that measures missing cells.

This folder may import every folder below it; `api` and `cli` may import it.
"""
