r"""The record check: every number on the page is one of its record.

A link `a[data-record]` names a record by a JSON pointer (RFC 6901) into the run's JSON. A number
that the link prints with n significant digits must be a number x of the record, or a hundredfold of
one before a percent sign, rounded to n digits:

    |printed - x| <= u / 2,    u = 10^(floor(log10 |x|) - n + 1).

An infinite number must be infinite in the record, and a dash stands for a number that is
unavailable or broken there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser

from .visits import opened, result_of

__all__ = ["link_equals_record", "normal_json", "numbers_equal_records", "record_at"]

NUMBER = re.compile(
    r"(?<![A-Za-z_.\d])(?<![A-Za-z_][-−])"  # a digit within a name is no number
    r"(?P<sign>(?:(?<!\w)[-−])?)"
    r"(?:(?P<infinite>∞|inf(?:inity)?\b)"
    r"|(?P<digits>\d{1,3}(?:[,\u2009\u202f]\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
    r"(?:[eE](?P<power>[-+−]?\d+)|\s?[×·]\s?10(?P<raised>[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+))?)"
    r"(?P<percent>\s?%)?"
)
RAISED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
DASHES = {"–", "—", "-", "NaN", "nan"}
LINKS = """() => [...document.querySelectorAll("a[data-record]")]
    .map(link => [link.dataset.record, link.textContent])"""


def numbers_equal_records(browser: Browser, path: Path, result: Mapping[str, Any]) -> None:
    """Every number in a link to a record equals that record, and the page's JSON is the result.

    Args:
        browser: The browser.
        path: File of the page.
        result: The run's JSON, from a source other than the page.
    """
    with opened(browser, path) as visit:
        held = result_of(visit)
        assert normal_json(held) == normal_json(result), "the page's JSON is not the run's"
        links = visit.page.evaluate(LINKS)
    assert links, "no number links to its record"
    for pointer, text in links:
        link_equals_record(text, pointer, result)


def link_equals_record(text: str, pointer: str, result: Any) -> None:
    """Every number of a link's text is one of its record, and a dash one that it lacks."""
    record = record_at(result, pointer)
    if text.strip() in DASHES:
        lacks = record in (None, "NaN") or any(x in (None, "NaN") for x in _leaves(record))
        assert lacks, f"a dash links to {pointer}, whose record lacks nothing"
        return
    values = [x for leaf in _leaves(record) if (x := _value(leaf)) is not None]
    if isinstance(record, str):
        values += [_printed(found)[0] for found in NUMBER.finditer(record)]
    for found in NUMBER.finditer(text):
        printed, digits = _printed(found)
        parts = [x * 100 for x in values] if found["percent"] else []
        assert any(_rounds_to(x, printed, digits) for x in values + parts), (
            f"{text.strip()!r} prints {found[0]}, which is no number of the record {pointer}"
        )


def record_at(result: Any, pointer: str) -> Any:
    """The record that a JSON pointer names; fails if there is none."""
    assert pointer == "" or pointer.startswith("/"), f"{pointer!r} is no JSON pointer"
    record = result
    for name in pointer.split("/")[1:]:
        key = name.replace("~1", "/").replace("~0", "~")
        if isinstance(record, list):
            assert key.isdecimal(), f"{pointer!r} leads nowhere: {key!r} is no place in a list"
            assert int(key) < len(record), f"{pointer!r} leads nowhere: the list ends before {key}"
            record = record[int(key)]
        else:
            assert isinstance(record, Mapping), f"{pointer!r} leads nowhere: nothing has {key!r}"
            assert key in record, f"{pointer!r} leads nowhere: there is no {key!r}"
            record = record[key]
    return record


def normal_json(value: Any) -> Any:
    """A JSON value with its numbers as a browser keeps them, all of 64 bits."""
    return json.loads(json.dumps(value), parse_int=float)


def _leaves(record: Any) -> Iterator[Any]:
    """All values of a record that have no parts."""
    if isinstance(record, Mapping):
        record = list(record.values())
    if isinstance(record, list):
        for part in record:
            yield from _leaves(part)
    else:
        yield record


def _value(leaf: Any) -> Decimal | None:
    """The exact value of a number in JSON, or None of anything else."""
    if leaf in ("Infinity", "-Infinity"):
        return Decimal(leaf)
    if isinstance(leaf, bool) or not isinstance(leaf, int | float):
        return None
    return Decimal(leaf)


def _printed(found: re.Match[str]) -> tuple[Decimal, int]:
    """A number as it is printed, and how many of its digits are significant."""
    sign = "-" if found["sign"] else ""
    if found["infinite"]:
        return Decimal(f"{sign}Infinity"), 0
    digits = re.sub(r"[^\d.]", "", found["digits"])
    power = found["power"] or (found["raised"] or "").translate(RAISED) or "0"
    significant = len(digits.replace(".", "").lstrip("0")) or 1
    return Decimal(f"{sign}{digits}e{power.replace('−', '-')}"), significant


def _rounds_to(x: Decimal, printed: Decimal, digits: int) -> bool:
    """Whether a number is what is printed if it is rounded to some significant digits."""
    if x == printed:
        return True
    if x == 0 or not x.is_finite() or not printed.is_finite():
        return False
    unit = Decimal(1).scaleb(x.adjusted() - digits + 1)
    return abs(printed - x) <= unit / 2
