"""`Unavailable` takes the place of a number or law that cannot be computed, and says why."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Unavailable"]


@dataclass(frozen=True, kw_only=True)
class Unavailable:
    """The reason why a number or law is not available.

    Attributes:
        reason: One clause that can follow "unavailable:".
    """

    reason: str
