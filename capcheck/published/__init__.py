"""Published numbers, recomputed by the code that the verdicts of users come from.

`reproduce` returns them beside the printed ones, `capcheck reproduce` prints them, and
`reports/handbook/published.md` keeps them.
"""

from capcheck.published.claim import Claim
from capcheck.published.reproduce import Reproduced, reproduce, reproduce_each
from capcheck.published.sources import SOURCES, Source

__all__ = ["SOURCES", "Claim", "Reproduced", "Source", "reproduce", "reproduce_each"]
