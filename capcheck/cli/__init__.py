"""The command line: one file for each command, and files for tables, progress and failures.

This folder may import `api` and every folder below; no other folder imports it.
"""
