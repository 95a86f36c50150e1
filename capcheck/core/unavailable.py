"""`Unavailable`: the reason why a number cannot be had, in place of the number."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Unavailable:
    """The reason why a number cannot be had.

    Attributes:
        reason: One clause, to follow "unavailable:".
    """

    reason: str
