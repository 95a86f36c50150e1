"""Judging: from numbers to verdicts, causes, parts and sentences.

Nothing here measures or stores. `runs`, `cli` and the reports may import it.
"""
