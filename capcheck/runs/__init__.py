"""Runs: options, cells, their store, and the engine that measures what the store lacks.

It imports every folder below; `api` and `cli` may import it.
"""
