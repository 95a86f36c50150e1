"""Laws built from rows of data: one component for each row, or a law that is fitted to them.

The folder imports `continuous` and `categorical`; `capcheck.data` brings rows from files to it.
"""
