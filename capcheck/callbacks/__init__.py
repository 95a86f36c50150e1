"""Callbacks: a gate before the first batch, and the live network beside its oracle every n steps.

`capcheck.callbacks.lightning` and `capcheck.callbacks.transformers` put both into trainers, and
`capcheck.callbacks.LiveCheck` serves loops of your own. With and without them the weights after a
training are bit-identical.
"""

from capcheck.callbacks.live import LiveCheck, LiveGap

__all__ = ["LiveCheck", "LiveGap"]
