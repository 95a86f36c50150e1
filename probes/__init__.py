"""The families' inference procedures, in folders named after the rows of the paper's table."""
