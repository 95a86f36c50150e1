"""The pace of a long loop tells early that it will take too long.

A loop of known length within `time_limit` is given up as soon as its pace shows that it would take
longer than the limit, if all turns to come took what the fastest one did: the first turns may also
prepare what later ones use. What it would have cost is told in place of its result. Nothing that is
measured depends on the limit.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from contextvars import ContextVar

from capcheck.core.errors import UnfitError

__all__ = ["FEWEST", "GRACE", "Pace", "duration", "time_limit"]

GRACE = 3.0  # seconds after which the pace of a loop counts
FEWEST = 4  # turns after which it counts

_LIMIT: ContextVar[float] = ContextVar("seconds of a loop", default=math.inf)


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Have loops that would take longer than some seconds be given up early."""
    before = _LIMIT.set(seconds)
    try:
        yield
    finally:
        _LIMIT.reset(before)


class Pace:
    """The pace of a loop, whose time starts now.

    Args:
        total: Number of turns of the loop, about.
        what: What the loop makes, the subject of the error's sentence.
        remedy: What the caller can do, as a clause of that sentence.
    """

    def __init__(self, total: int, what: str, remedy: str) -> None:
        self._total, self._what, self._remedy = total, what, remedy
        self._began = self._last = time.monotonic()
        self._done, self._fastest = 0, math.inf

    def turn(self) -> None:
        """Count a turn as done.

        Raises:
            UnfitError: All turns would take longer than the limit.
        """
        now, limit = time.monotonic(), _LIMIT.get()
        self._done += 1
        self._fastest, self._last = min(self._fastest, now - self._last), now
        passed = now - self._began
        expected = passed + max(0, self._total - self._done) * self._fastest
        if passed > GRACE and expected > limit and self._done >= FEWEST:
            raise UnfitError(
                f"{self._what} would take {duration(expected)} or more, longer than the "
                f"{duration(limit)} of --seconds-per-run; {self._remedy}, or raise it."
            )


def duration(seconds: float) -> str:
    """A duration in words of two digits, in the largest unit that fits.

    Example:
        >>> duration(42.4), duration(600), duration(30_000), duration(1e6)
        ('42 s', '10 min', '8.3 h', '12 days')
    """
    for unit, size in (("days", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{float(f'{seconds / size:.2g}'):g} {unit}"
    return f"{float(f'{seconds:.2g}'):g} s"
