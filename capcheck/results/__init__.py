"""Results are records of a run's settings, its measurements and its verdicts.

This folder holds data only: it neither measures, judges, stores nor prints. `judging` and every
folder above may import it.
"""
