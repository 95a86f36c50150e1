"""Judging turns measured divergences into verdicts, causes, parts of a gap and sentences.

This folder neither measures nor stores anything. `runs`, `cli` and the reports may import it.
"""
