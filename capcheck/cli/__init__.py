"""The command line, one file for each command; tables, progress and failures beside them.

It imports `api` and every folder below; nothing imports it.
"""
