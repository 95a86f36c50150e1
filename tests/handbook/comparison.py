"""Compares an output that a page shows with what its code prints: words exactly, numbers loosely.

Processors round differently, and a sampled number may move in its last digits. Numbers with a point
or an exponent may differ by 10%, or by 1 in the last digit that is shown; whole numbers may not.
Times, sizes of memory, versions of libraries, white space and the lengths of bars are not compared.
"""

from __future__ import annotations

import re

__all__ = ["difference", "renewed"]

LEFT_OUT = "..."
LIKE = 0.5  # share of common words above which lines are taken for those that were shown
MOST = 0.1  # relative difference of two numbers that count as equal
NUMBER = re.compile(r"(?<![\w.])[-−]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w])")
UNITS = "milliseconds?|seconds?|minutes?|hours?|ms|s|min|h|[KMG]i?B"
TIME = re.compile(rf"(?<![\w.])\d[\d,.]*(?:e[-+]?\d+)? ?(?:{UNITS})\b")
VERSION = re.compile(r"\b(azula|capcheck|diffusers|torch|transformers) \d+\.[\w.+]+")
BARS = re.compile(r"[─━═╌]+")


def difference(shown: str, actual: str) -> str | None:
    """The first line that is shown and was not printed, in a sentence; None if there is none.

    Args:
        shown: What the page shows, maybe with lines "...".
        actual: What the code printed.
    """
    lines = _lines(actual)
    first, *others = (_lines("\n".join(part)) for part in _parts(shown))
    if not others:
        return None if _equal_lines(first, lines) else _told(first, lines)
    if not _equal_lines(first, lines[: len(first)]):
        return _told(first, lines)
    place = len(first)
    *middle, final = others
    for part in middle:
        starts = range(place, len(lines) - len(part) + 1)
        found = next((p for p in starts if _equal_lines(part, lines[p : p + len(part)])), None)
        if found is None:
            return _told(part, lines[place:])
        place = found + len(part)
    rest = lines[max(place, len(lines) - len(final)) :]
    return None if not final or _equal_lines(final, rest) else _told(final, lines[place:])


def renewed(shown: str, actual: str) -> str:
    """What a page is to show of an output: the lines that it showed, as they are now.

    Without a line "..." all is shown. Lines that are shown are found again by their words.

    Raises:
        ValueError: Lines that are shown have nothing similar.
    """
    lines = [line.rstrip() for line in actual.strip("\n").split("\n")]
    parts = _parts(shown)
    if len(parts) == 1:
        return "\n".join(lines)
    kept: list[list[str]] = []
    place = 0
    for number, part in enumerate(parts):
        found = _nearest(part, lines, place, first=number == 0, closing=number == len(parts) - 1)
        kept.append(lines[found : found + len(part)])
        place = found + len(part)
    return f"\n{LEFT_OUT}\n".join("\n".join(part) for part in kept).strip("\n")


def _nearest(part: list[str], lines: list[str], place: int, *, first: bool, closing: bool) -> int:
    """The place at which lines are most like those that are shown."""
    if not part:
        return place
    last = len(lines) - len(part)
    places = range(place, last + 1)
    places = places[:1] if first else places[-1:] if closing else places
    scores = {p: _likeness(part, lines[p : p + len(part)]) for p in places}
    best = max(scores, key=lambda p: scores[p], default=None)
    if best is None or scores[best] < LIKE:
        raise ValueError(f"nothing in the output is like {part[0]!r}; show it anew")
    return best


def _likeness(part: list[str], lines: list[str]) -> float:
    """The share of words that two runs of lines have in common, place by place."""
    shared = total = 0
    for one, other in zip(part, lines, strict=False):
        mine, theirs = _words(one), _words(other)
        shared += sum(a == b for a, b in zip(mine, theirs, strict=False))
        total += max(len(mine), len(theirs))
    return shared / total if total else 1.0


def _lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


def _parts(shown: str) -> list[list[str]]:
    """The runs of lines between the lines "..."."""
    parts: list[list[str]] = [[]]
    for line in shown.strip("\n").split("\n"):
        if line.strip() == LEFT_OUT:
            parts.append([])
        else:
            parts[-1].append(line)
    return [part if any(part) else [] for part in parts]


def _words(line: str) -> list[str]:
    return NUMBER.sub("<number>", BARS.sub("─", _masked(line))).split()


def _masked(line: str) -> str:
    """A line without its times and versions."""
    return TIME.sub("<time>", VERSION.sub(r"\1 <version>", line))


def _equal_lines(shown: list[str], actual: list[str]) -> bool:
    return len(shown) == len(actual) and all(map(_equal, shown, actual))


def _equal(shown: str, actual: str) -> bool:
    if _words(shown) != _words(actual):
        return False
    numbers = (NUMBER.findall(_masked(line)) for line in (shown, actual))
    return all(_near(one, other) for one, other in zip(*numbers, strict=True))


def _near(shown: str, actual: str) -> bool:
    """Whether two numbers are equal as far as processors agree about them."""
    one, other = (float(text.replace(",", "").replace("−", "-")) for text in (shown, actual))
    if not re.search(r"[.eE]", shown + actual):
        return one == other
    return abs(one - other) <= max(MOST * max(abs(one), abs(other)), 1.01 * _digit(shown))


def _digit(number: str) -> float:
    """One unit in the last digit of a number as it is written."""
    mantissa, _, exponent = number.lower().partition("e")
    decimals = len(mantissa.partition(".")[2])
    return float(10.0 ** (int(exponent or 0) - decimals))


def _told(part: list[str], lines: list[str]) -> str:
    missing = next((line for line in part if not any(_equal(line, one) for one in lines)), None)
    if missing is None:
        return f"{len(part)} lines are shown, and {len(lines)} were printed, or in another order"
    best = max(lines, key=lambda line: _likeness([missing], [line]), default="")
    return f"the page shows\n    {missing}\nand the code prints\n    {best}"
