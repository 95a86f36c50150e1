"""Core: the words that every other folder says, such as budget, sequence, randomness and error.

Every folder may import it; it imports none of them.
"""
