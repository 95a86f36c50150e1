"""The chapters on families and on words name everything that capcheck names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from capcheck.divergences import NAMES
from capcheck.procedures.probe import Failure
from capcheck.procedures.registry import families, probe_class
from capcheck.procedures.rows import ROW_TITLES
from capcheck.results.measurement import Outcome

HANDBOOK = Path(__file__).parents[2] / "reports" / "handbook"
GROUPS = {title: row for row, title in ROW_TITLES.items()}


def page(name: str) -> str:
    """The text of a page."""
    return (HANDBOOK / f"{name}.md").read_text(encoding="utf-8")


def listed(text: str) -> list[tuple[str, str]]:
    """The row of the paper's table and the name of every family in a table of groups."""
    found, row = [], ""
    for group, family in re.findall(r"^\| (?:\*\*([^*]+)\*\*|`(\w+)`) \|", text, re.M):
        row = GROUPS[group] if group else row
        found += [(row, family)] if family else []
    return found


def terms(text: str) -> set[str]:
    """The terms of a glossary."""
    (entries,) = re.findall(r"^```\{glossary\}\n(.*?)^```", text, re.S | re.M)
    return {line for line in entries.splitlines() if line and not line.startswith(" ")}


def test_the_table_of_families_is_that_of_the_registry() -> None:
    text = page("families/index").partition("## All families")[2]
    assert listed(text) == [(probe_class(family).row, family) for family in families()]
    assert f"capcheck has {len(families())}." in page("families/index")
    linked = re.findall(r"\]\((\w+)\.md\)", text)
    assert linked == families()
    assert re.findall(r"^(\w+)$", text, re.M) == families()  # the tables of contents


@pytest.mark.parametrize(
    ("words", "kind"), [("Numbers only", "continuous"), ("Token ids only", "categorical")]
)
def test_kinds_of_tokens_are_those_of_the_families(words: str, kind: str) -> None:
    (told,) = re.findall(rf"^- {words}: (.*?)\.$", page("families/index"), re.S | re.M)
    alone = [family for family in families() if probe_class(family).kinds == {kind}]
    assert re.findall(r"`(\w+)`", told) == alone


def test_a_family_in_the_wrong_group_is_told() -> None:
    text = page("families/index").partition("## All families")[2]
    moved = text.replace("| **steps** | | | |\n", "")
    assert listed(moved) != listed(text)
    assert listed(text.replace("| `gpt` |", "| gpt |")) != listed(text)


@pytest.mark.parametrize("family", families())
def test_every_family_has_a_page_with_its_card_and_an_example(family: str) -> None:
    text = page(f"families/{family}")
    assert text.startswith(f"# `{family}`: ")
    assert re.findall(r"^```\{card\} (\w+)$", text, re.M) == [family]
    assert re.search(rf"^\$ capcheck check --family {family} ", text, re.M)


def test_the_glossary_has_the_words_of_verdicts() -> None:
    words = {*get_args(Failure), *GROUPS, *(str(one).replace("_", " ") for one in Outcome)}
    assert words <= terms(page("glossary"))
    assert "no such word" not in terms(page("glossary"))


def test_the_chapter_on_divergences_has_all_of_them() -> None:
    rows = re.findall(r"^\| `(\w+)`", page("numbers/divergences"), re.M)
    assert list(dict.fromkeys(rows)) == list(NAMES)
