"""Tables of families and the card of one."""

from __future__ import annotations

import io
import re
import sys
from typing import Annotated, Literal

import pytest
from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.console import Console, RenderableType

from capcheck.cli.catalogue import family_card, option_values
from capcheck.cli.paper_table import families_table
from capcheck.core.errors import InputError
from capcheck.procedures.listing import listed_families
from capcheck.procedures.probe import OPTIONS
from capcheck.procedures.registry import build_probe, families, probe_class
from capcheck.procedures.rows import ROW_TITLES, ROWS


def shown(part: RenderableType) -> str:
    page = io.StringIO()
    Console(file=page, width=200).print(part)
    return page.getvalue()


def row_of(text: str, family: str) -> list[str]:
    """Cells of the first table line that starts with a family."""
    lines = (line.strip("│ ").split("│") for line in text.splitlines() if line.startswith("│"))
    cells = next(cells for cells in lines if cells[0].split()[:1] == [family])
    return [cell.strip() for cell in cells]


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Every:
    """One option of each kind."""

    count: Annotated[int, Field(ge=1)] = 1
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    plain: float = 0.0
    most: Annotated[int | None, Field(ge=2)] = None
    order: Literal["random", "fixed"] = "fixed"
    either: Literal["a", "b"] | None = None
    flag: bool = False
    whole: Annotated[Annotated[int, Field(ge=1)] | Literal["exact"], Field(description="d")] = 2
    listed: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...] | None, Field()] = None


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("count", "whole number at least 1"),
        ("share", "number above 0, at most 1"),
        ("plain", "number"),
        ("most", "whole number at least 2, or none"),
        ("order", "random, fixed"),
        ("either", "a, b, or none"),
        ("flag", "yes, no"),
        ("whole", "whole number at least 1, or exact"),
        ("listed", "numbers above 0, below 1 with / in between, or none"),
    ],
)
def test_options_are_told_in_words(option: str, words: str) -> None:
    assert option_values(Every.__pydantic_fields__[option]) == words  # type: ignore[attr-defined]


@pytest.mark.parametrize("family", families())
def test_no_option_is_told_by_the_name_of_a_type(family: str) -> None:
    for name, field in getattr(probe_class(family), "__pydantic_fields__", {}).items():
        words = option_values(field)
        found = re.search(r"Annotated|Literal|tuple|typing|\bint\b|\[|None", words)
        assert not found, (name, words)


@pytest.mark.parametrize("family", families())
def test_no_word_of_a_docstring_is_missing_from_its_card(family: str) -> None:
    card = shown(family_card(build_probe(family)))
    words = set(card.replace(":", " ").split())
    told = sys.modules[probe_class(family).__module__].__doc__ or ""
    assert told
    assert set(told.replace(":", " ").split()) <= words
    for name in getattr(probe_class(family), "__pydantic_fields__", {}):
        assert name in words


def test_a_card_names_defaults_suspects_and_the_place_in_the_paper() -> None:
    card = shown(family_card(build_probe("maskgit")))
    assert "wrong factorisation: cured with one token per round" in card
    assert row_of(card, "rounds")[1:3] == ["whole number at least 1", "4"]
    assert row_of(card, "tokens_per_round")[2] == "none"
    assert "not in its table" not in card
    cured = shown(family_card(build_probe("maskgit", {"tokens_per_round": 1})))
    assert "none, with the default options" not in card
    assert "none" in cured.split("Suspects")[1].splitlines()[0]


def test_families_are_listed_in_the_papers_groups() -> None:
    classes = [probe_class(name) for name in families()]
    table = shown(families_table(listed_families()))
    lines = [line.split("│")[1] for line in table.splitlines() if "│" in line]
    lines = [line for line in lines if line.strip()]  # without those that only other columns have
    titles = [ROW_TITLES[row] for row in ROWS]
    group, found = "", {}
    for line in lines:
        if line.strip() in titles and not line.startswith("   "):
            group = line.strip()
        else:
            found[line.split()[0]] = group
    assert found == {probe.family: ROW_TITLES[probe.row] for probe in classes}
    assert "exact, by the chain rule" in " ".join(table.split())
    beyond = {line.split()[0] for line in lines if line.rstrip().endswith(" +")}
    assert beyond == {probe.family for probe in classes if not probe.in_paper}


def test_an_unknown_option_is_answered_with_the_options_alone() -> None:
    with pytest.raises(
        InputError,
        match=r"no option 'foo'; known are (softmax_rank, window|window, softmax_rank)\.$",
    ):
        build_probe("gpt", {"foo": 1})
    with pytest.raises(InputError, match=r"no option 'anytime'"):
        build_probe("gpt", {"anytime": 1})
