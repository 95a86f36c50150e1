"""Recomputes the numbers of sources, one source after the other."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from capcheck.published.claim import Claim
from capcheck.published.sources import Source, chosen_sources

__all__ = ["Reproduced", "reproduce", "reproduce_each"]


@dataclass(frozen=True, kw_only=True)
class Reproduced:
    """A source that was recomputed.

    Attributes:
        source: The source.
        claims: Its numbers; a single one without digits if a package is missing.
        seconds: Seconds that it took.
    """

    source: Source
    claims: tuple[Claim, ...]
    seconds: float

    def count(self, status: str) -> int:
        """The number of claims of a status."""
        return sum(claim.status == status for claim in self.claims)

    @property
    def sentence(self) -> str:
        """What was found, in one sentence."""
        if self.source.missing and self.count("unavailable"):
            return f"{self.source.name}: unavailable, {self.source.missing}"
        counts = [
            f"{self.count(status)} {status}"
            for status in ("matched", "explained", "contradicted")
            if self.count(status) or status == "matched"
        ]
        return f"{self.source.name}: {', '.join(counts)} of {len(self.claims)}"


def reproduce_each(sources: Iterable[str] | None = None) -> Iterator[Reproduced]:
    """Recompute sources, and yield each as soon as it is done.

    Args:
        sources: Names of sources, of `capcheck.published.SOURCES`; all by default.

    Raises:
        InputError: There is no source of a name.
    """
    for source in chosen_sources(sources):
        began = time.monotonic()
        if source.missing:
            claims = (_unavailable(source),)
        else:
            claims = tuple(importlib.import_module(source.module).claims())
        yield Reproduced(source=source, claims=claims, seconds=time.monotonic() - began)


def reproduce(
    sources: Iterable[str] | None = None, *, progress: Callable[[str], None] | None = None
) -> tuple[Claim, ...]:
    """Recompute published numbers, and return them beside the published ones.

    Args:
        sources: Names of sources, of `capcheck.published.SOURCES`; all by default.
        progress: Function that is told in one sentence what was found in each source.

    Raises:
        InputError: There is no source of a name.

    Example:
        >>> from capcheck.published import reproduce
        >>> rows = reproduce(["speculative-decoding"])
        >>> (rows[0].place, rows[0].printed, rows[0].shown, rows[0].status)
        ('table 1', '1.53', '1.531', 'matched')
    """
    found: list[Claim] = []
    for one in reproduce_each(sources):
        found += one.claims
        if progress is not None:
            progress(one.sentence)
    return tuple(found)


def _unavailable(source: Source) -> Claim:
    """The claim that stands for a source whose package is missing."""
    return Claim(
        source=source.name,
        place="-",
        quantity=source.about,
        printed="",
        by="-",
        value=None,
        reason=source.missing,
    )
