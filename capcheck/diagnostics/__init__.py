"""Diagnostics: tests of a sampler's draws that are never a verdict, and the witness.

The witness says where draws differ from the target's. The folder imports `divergences` and what
lies below; `results` and every folder above may import it.
"""
