"""The pipeline: checks that stay beside a training script, from one call to a file of checks.

`gate` is one call before the first batch, `capcheck.callbacks` puts it into trainers, and a spec
(`capcheck run`) lists the checks of a project with what is expected of each. This package stands
on the whole of capcheck but for its command line.
"""
