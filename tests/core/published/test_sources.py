"""Every source: each published number is matched or explained, and stands in the handbook.

A source is recomputed by one test only, so that it is recomputed once whatever the number of
processes.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import pytest

from capcheck.published import SOURCES, Claim, reproduce
from capcheck.published.page import MARKS, page

PAGE = Path(__file__).parents[3] / "reports" / "handbook" / "published.md"


def section(text: str, title: str) -> list[str]:
    """The lines of a section of the page without empty ones."""
    body = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return [line for line in body.splitlines() if line]


def rows(lines: Sequence[str]) -> list[list[str]]:
    """The cells of a table's rows, without its head."""
    table = [line for line in lines if line.startswith("|")][2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table]


def unit(number: str) -> float:
    """One unit in the last place of a number as text."""
    exponent = Decimal(number).as_tuple().exponent
    assert isinstance(exponent, int)
    return float(10.0**exponent)


def check_section(committed: str, claims: Sequence[Claim]) -> None:
    """The committed section says what the code finds; draws may differ in their digits."""
    title = SOURCES[claims[0].source].authors
    old, new = section(committed, title), section(page(claims), title)
    assert [one for one in old if one[0] != "|"] == [one for one in new if one[0] != "|"]
    assert len(rows(old)) == len(claims)
    for before, after, claim in zip(rows(old), rows(new), claims, strict=True):
        assert [*before[:4], before[5]] == [*after[:4], after[5]]
        if not claim.estimated and claim.value is not None:
            for a, b in zip(before[4].split(), after[4].split(), strict=True):
                assert abs(float(a) - float(b)) <= 1.01 * unit(b), claim


def perturbed(claim: Claim) -> Claim:
    """The claim with another first digit, as a misprint or a wrong computation would have."""
    number = claim.printed.split()[0]
    digit = re.search(r"\d", number.lstrip("0.") or number)
    assert digit is not None
    wrong = str((int(digit.group()) + 5) % 10)
    if set(number) <= set("0."):
        wrong_number = re.sub(r"0$", "5", number)
    else:
        wrong_number = re.sub(r"[1-9]", wrong if wrong != "0" else "6", number, count=1)
    return dataclasses.replace(claim, printed=claim.printed.replace(number, wrong_number, 1))


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_is_matched_or_explained_and_its_section_is_what_the_code_finds(name: str) -> None:
    if SOURCES[name].missing:
        pytest.skip(SOURCES[name].missing)
    claims = reproduce([name])
    assert claims
    for claim in claims:
        assert claim.source == name
        assert claim.status in ("matched", "explained"), claim
        assert (claim.status == "explained") == bool(claim.reason), claim
        if claim.value is not None and not claim.at_least:
            wrong = perturbed(claim)
            assert wrong.printed != claim.printed
            assert wrong.status == ("explained" if claim.reason and claim.instead is None else
                                    "contradicted"), wrong  # fmt: skip
    assert any(claim.status == "matched" for claim in claims)
    text = PAGE.read_text(encoding="utf-8")
    check_section(text, claims)
    first = dataclasses.replace(claims[0], quantity="another quantity")
    with pytest.raises(AssertionError):  # the comparison is able to fail
        check_section(text, [first, *claims[1:]])


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_says_where_it_is_from_and_what_is_computed(name: str) -> None:
    source = SOURCES[name]
    module = importlib.import_module(source.module)
    for link in source.links:
        assert link in (module.__doc__ or "")
        assert link.startswith("https://")
    assert not source.about.endswith(".")
    tree = ast.parse(inspect.getsource(module))
    imported = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert any(one.startswith("capcheck.") and "published" not in one for one in imported) or any(
        one == "capcheck.published.cells" for one in imported
    )


def test_the_page_has_a_section_for_every_source_and_counts_its_rows() -> None:
    text = PAGE.read_text(encoding="utf-8")
    titles = re.findall(r"^## (.*)$", text, re.M)[1:]
    assert titles == [source.authors for source in SOURCES.values()]
    marks = [row[0] for title in titles for row in rows(section(text, title))]
    counts = ", ".join(
        f"{marks.count(mark)} {status}" for status, mark in MARKS.items() if mark in marks
    )
    assert f"\n{len(marks)} published numbers: {counts}.\n" in text
    assert MARKS["contradicted"] not in marks
