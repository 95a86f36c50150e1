"""Core defines the concepts that all other folders use: budget, sequence, randomness and error.

Every folder may import this folder; it imports no other folder.
"""
