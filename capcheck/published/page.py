"""The handbook's page of published numbers, in Markdown."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from capcheck.pipeline.markdown import inline
from capcheck.published.claim import Claim
from capcheck.published.sources import SOURCES

__all__ = ["COLUMNS", "interval", "page", "summary"]

COLUMNS = ("", "where", "quantity", "published", "capcheck", "by")
MARKS = {
    "matched": "✓",
    "explained": "≠",
    "contradicted": "✗",
    "unavailable": "-",
}
"""The mark of each status."""

INTRODUCTION = """\
# Published numbers, recomputed

Papers print numbers that capcheck computes as well. This page sets them side by side. Each one
comes out of the code that verdicts come from, which the last column names: `capcheck.check`,
`capcheck.decoding_plan`, `capcheck.check_acceptance`, and functions that these and
`capcheck.check_sampler` call. No number is the paper's formula written a second time. `capcheck
reproduce` makes all tables in a terminal, `--list` names the sources, and a name makes one table:

```console
$ capcheck reproduce ppca
...
11 published numbers: 11 matched.
...
```

The exit code is 1 if a number is contradicted. In Python it is `capcheck.published.reproduce()`.

## How a digit is matched

A published number is kept as it is printed. It is **matched** (✓) if capcheck's number rounds to
the printed digits; the table shows one digit more. A whole number is exact. The sign = marks a
closed form, a formula of the source or one that follows from its definitions: its value is written
out to some places, and capcheck's number has to round to them. The sign ≥ marks a bound that
capcheck's number has to reach, and ± an agreement that is asked for in place of digits. A number
from draws has an interval in brackets, which has to reach a number that rounds to the published
digits.

A number that is not matched is **explained** (≠) if the reason stands below the table: another
convention, inputs that are rounded in print, or what the source does not tell. Where that can be
computed, capcheck's number under the convention of the source stands there as well, and has to
match. Anything else is **contradicted** (✗).

"""


def page(claims: Sequence[Claim]) -> str:
    """The page of some claims, which ends with a line break."""
    lines = [INTRODUCTION + summary(claims), ""]
    for name, own in itertools.groupby(claims, key=lambda claim: claim.source):
        lines += _section(name, list(own))
    return "\n".join(lines)


def summary(claims: Iterable[Claim]) -> str:
    """How many claims have which status, in one sentence."""
    found = [claim.status for claim in claims]
    counts = [f"{found.count(one)} {one}" for one in MARKS if one in found]
    return f"{len(found)} published numbers: {', '.join(counts)}."


def interval(claim: Claim) -> str:
    """The recomputed number with its interval, as text."""
    if not claim.estimated or claim.low is None or claim.high is None:
        return claim.shown
    return f"{claim.value:.3g} [{claim.low:.3g}, {claim.high:.3g}]"


def published(claim: Claim) -> str:
    """The published number, with a sign unless its digits are printed in the source."""
    if claim.within is not None:
        return f"{claim.printed}\u00a0±\u00a0{claim.within:g}"
    if claim.at_least:
        return f"≥\u00a0{claim.printed}"
    return f"=\u00a0{claim.printed}" if claim.side == "closed form" else claim.printed or "-"


def reasons(claims: Iterable[Claim]) -> Iterator[tuple[str, str]]:
    """Quantity and reason of each number that is not matched."""
    for claim in claims:
        if claim.status != "matched" and claim.reason:
            more = "" if claim.instead is None else f" it is {claim.written(claim.instead)}"
            yield claim.quantity, f"{claim.reason}{more}"


def _section(name: str, claims: list[Claim]) -> Iterator[str]:
    source = SOURCES[name]
    yield f"## {source.authors}"
    yield ""
    links = ", ".join(f"<{link}>" for link in source.links)
    yield f"*{source.work}*, {links}: {source.about}."
    yield ""
    yield _row(COLUMNS)
    yield "|---|---|---|---:|---:|---|"
    for claim in claims:
        cells = (claim.place, claim.quantity, published(claim), interval(claim))
        by = " " if claim.by == "-" else f"`{claim.by}`"
        yield _row([MARKS[claim.status], *map(inline, cells), by])
    yield ""
    notes = dict.fromkeys(reasons(claims))
    for quantity, reason in notes:
        yield f"- {inline(quantity)}: {inline(reason)}."
    if notes:
        yield ""


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
