"""A sparkline is a profile in one line: a block for each number of model calls, by rising calls.

The height of a block is the divergence in multiples of its tolerance, on a logarithmic scale from 1
to `FAR`. The lowest block is kept for cells that pass within the tolerance, so that no colour is
needed to see them; the colour of a block is that of the cell's verdict.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.text import Text

from capcheck.judging.profile import ProfilePoint
from capcheck.results.measurement import Outcome

__all__ = ["ASCII", "BLOCKS", "COLOURS", "FAR", "LONGEST", "sparkline"]

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII = "_.:-=+*#"  # for consoles whose encoding has no blocks
FAR = 100.0  # multiple of the tolerance from which on blocks have their full height
LONGEST = 8  # points of a sparkline; of more, evenly spaced ones are shown

COLOURS = {
    Outcome.REPRESENTABLE: "green",
    Outcome.NOT_REPRESENTABLE: "red",
    Outcome.INCONCLUSIVE: "yellow",
}


def sparkline(points: Sequence[ProfilePoint], *, blocks: str = BLOCKS) -> Text:
    """A profile as coloured blocks, or as other characters of rising weight."""
    text = Text()
    for point in _thinned(points):
        text.append(blocks[_level(point)], style=COLOURS[point.outcome])
    return text


def _level(point: ProfilePoint) -> int:
    """Index of a point's block: 0 within the tolerance, 7 from `FAR` tolerances on."""
    if point.multiple <= 1:
        return 0 if point.outcome is Outcome.REPRESENTABLE else 1
    if point.multiple >= FAR:
        return 7
    return math.ceil(6 * math.log(point.multiple) / math.log(FAR))


def _thinned(points: Sequence[ProfilePoint]) -> list[ProfilePoint]:
    """The first, the last and evenly spaced points between them, `LONGEST` at most."""
    if len(points) <= LONGEST:
        return list(points)
    last = len(points) - 1
    return [points[round(i * last / (LONGEST - 1))] for i in range(LONGEST)]
