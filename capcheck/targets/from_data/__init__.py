"""Laws built from rows of data: one component for each row, or a law fitted to the rows.

This package imports `continuous` and `categorical`; `capcheck.data` reads rows from files.
"""
