"""Whether the draws of a run fit into memory, told before any is made."""

from __future__ import annotations

import math

from capcheck.core.memory import available_memory, require_memory
from capcheck.results.settings import MIN_SAMPLES
from capcheck.targets.target import Target

__all__ = ["COPIES", "require_room", "room_of_draws"]

COPIES = 12  # arrays of the size of all draws that a run holds at once, as measured


def require_room(target: Target, samples: int) -> None:
    """Raise InputError if the draws of a run would not fit into memory.

    A GPU tells by itself what does not fit, and its memory is not the one that is looked at here.

    Args:
        target: Target of the run, on its device.
        samples: Number of sequences of a cell.
    """
    if target.device.type != "cpu":
        return
    each = room_of_draws(target)
    fit = (available_memory() or math.inf) / each
    cure = f"give at most --samples {fit:.0f}" if fit > MIN_SAMPLES else "choose fewer tokens"
    require_memory(each * samples, f"a run of {samples:,} samples", cure)


def room_of_draws(target: Target) -> float:
    """Bytes that a run holds for each of a cell's samples, the arithmetic on them not counted."""
    return 8.0 * COPIES * target.spec.tokens * math.prod(target.spec.token_shape)
