"""Results as data: what was asked for, what was measured and what was found.

Nothing here measures, judges, stores or prints. `judging` and every folder above may import it.
"""
