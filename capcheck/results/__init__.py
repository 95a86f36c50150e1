"""Results as data: what was asked for, what was measured and what was found.

Nothing here measures, judges, stores or prints. Folders from `judging` upwards may import it.
"""
