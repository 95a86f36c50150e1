"""Lists of levels as options of families: falling from 1 (noise) to 0 (clean), or strictly between.

A list on the command line is written with slashes, as in 1/0.7/0.3/0.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field

__all__ = ["InnerLevels", "Levels", "resampled"]


def _separate(value: object) -> object:
    """Splits a text such as 1/0.7/0.3/0, the form of a list on the command line."""
    return value.split("/") if isinstance(value, str) else value


def _falling(levels: tuple[float, ...]) -> tuple[float, ...]:
    if not all(s < t for t, s in itertools.pairwise(levels)):  # NaN falls nowhere
        raise ValueError("levels must fall from one to the next")
    return levels


def _from_noise_to_data(levels: tuple[float, ...]) -> tuple[float, ...]:
    if len(levels) < 2 or (levels[0], levels[-1]) != (1, 0):
        raise ValueError("levels must go from 1 (noise) to 0 (clean)")
    return _falling(levels)


Levels = Annotated[
    tuple[float, ...], BeforeValidator(_separate), AfterValidator(_from_noise_to_data)
]
"""The type of an option that lists falling levels from 1 to 0, as a sequence or as text with /."""

InnerLevels = Annotated[
    tuple[Annotated[float, Field(gt=0, lt=1)], ...],
    BeforeValidator(_separate),
    AfterValidator(_falling),
]
"""The type of an option that lists falling levels strictly between 1 and 0, in the same forms."""


def resampled(levels: Sequence[float], steps: int) -> list[float]:
    """Resamples a list of levels to a number of steps, by linear interpolation between its entries.

    A list that has this number of steps is returned unchanged.

    Args:
        levels: At least two falling levels.
        steps: Number of steps, at least 1; the result has one level more.

    Example:
        >>> resampled([1, 0.5, 0], 2), resampled([1, 0.2, 0], 4)
        ([1, 0.5, 0], [1.0, 0.6, 0.2, 0.1, 0.0])
    """
    if len(levels) == steps + 1:
        return list(levels)
    at = np.linspace(0, len(levels) - 1, steps + 1)
    found: list[float] = np.interp(at, np.arange(len(levels)), levels).tolist()
    return found
