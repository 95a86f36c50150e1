"""Exact laws: what a procedure samples, with no sampling error, where that can be had."""
