from __future__ import annotations

import io
import sys
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field
from pydantic.dataclasses import dataclass
from rich.console import Console, RenderableType

from capcheck import survey
from capcheck.probe import OPTIONS, ROW_TITLES, ROWS
from capcheck.registry import build_probe, families, probe_class
from capcheck.results import Axes, FamilyResult, SurveyResult
from capcheck.targets import from_spec
from capcheck.terminal import families_table, family_card, option_values, print_survey


def shown(part: RenderableType) -> str:
    page = io.StringIO()
    Console(file=page, width=200).print(part)
    return page.getvalue()


@pytest.fixture(scope="module")
def result() -> SurveyResult:
    at_once = {"maskgit": {"tokens_per_round": 3}}
    modes = from_spec("modes:tokens=3")
    return survey(modes, ["gpt", "maskgit"], options=at_once, samples=200, steps=[1, 4])


def changed(result: SurveyResult, **facts: Any) -> SurveyResult:
    """The survey with other facts about its first family, gpt."""
    first, *others = result.families
    families = (first.model_copy(update=facts), *others)
    return result.model_copy(update={"families": families})


def printed(result: SurveyResult, capsys: pytest.CaptureFixture[str], **how: Any) -> str:
    print_survey(result, **how)
    return capsys.readouterr().out


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
    ],
)
def test_options_are_told_in_words(option: str, words: str) -> None:
    assert option_values(Every.__pydantic_fields__[option]) == words  # type: ignore[attr-defined]


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
    lines = [
        line.split("│")[1] for line in shown(families_table(classes)).splitlines() if "│" in line
    ]
    titles = [ROW_TITLES[row] for row in ROWS]
    group, found = "", {}
    for line in lines:
        if line.strip() in titles and not line.startswith("   "):
            group = line.strip()
        else:
            found[line.split()[0]] = group
    assert found == {probe.family: ROW_TITLES[probe.row] for probe in classes}
    beyond = {line.split()[0] for line in lines if line.rstrip().endswith(" +")}
    assert beyond == {probe.family for probe in classes if not probe.in_paper}


def test_agreement_with_the_paper_is_marked_and_needs_no_sentence(
    result: SurveyResult, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(result, capsys)
    assert row_of(text, "gpt")[-3:] == ["used", "flat", "= length"]
    assert "≠" not in text
    assert "?" not in text
    assert "differs: " not in text


@pytest.mark.parametrize(
    ("axes", "loop_order", "mark", "sentence"),
    [
        (("flat", "flat"), "none", "≠ neither axis", "differs: the paper puts it"),
        (("used", "used"), "steps_outer", "≠ both, steps outside", "differs: the paper puts it"),
        (("used", "undecided"), "length", "? undecided", "undecided: the paper puts it"),
    ],
)
def test_disagreement_is_marked_and_explained(
    result: SurveyResult,
    capsys: pytest.CaptureFixture[str],
    axes: tuple[Any, Any],
    loop_order: str,
    mark: str,
    sentence: str,
) -> None:
    other = changed(result, axes=Axes(length=axes[0], steps=axes[1]), loop_order=loop_order)
    text = printed(other, capsys)
    assert row_of(text, "gpt")[-1] == mark
    assert row_of(text, "maskgit")[-1] == "= length"
    lines = text.splitlines()
    below = lines[next(i for i, line in enumerate(lines) if line.startswith("gpt: ")) + 1]
    assert below.startswith(f"    {sentence}")
    assert f"measured is length {axes[0]}, steps {axes[1]}" in below


def test_families_beyond_the_paper_are_marked(
    result: SurveyResult, capsys: pytest.CaptureFixture[str]
) -> None:
    note = "+ not in the paper's table"
    assert note not in printed(result, capsys)
    text = printed(changed(result, in_paper=False), capsys)
    assert note in text
    assert row_of(text, "gpt")[0] == "gpt +"
    assert row_of(text, "maskgit")[0] == "maskgit"


def test_what_was_not_measured_has_its_reason_in_one_line(
    result: SurveyResult, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = "gpt is for other tokens, and no terminal is as wide as " + "this sentence " * 10
    text = printed(changed(result, error=reason, reason=reason, cells=()), capsys)
    assert "".join(row_of(text, "gpt")[1:]) == "not measured"
    assert f"gpt: {reason}".strip() in map(str.strip, text.splitlines())


def test_causes_stand_below_the_family(
    result: SurveyResult, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(result, capsys).splitlines()
    maskgit: FamilyResult = result.families[1]
    assert maskgit.failure == "wrong factorisation"  # one round for all tokens
    place = next(i for i, line in enumerate(lines) if line.startswith("maskgit: "))
    assert lines[place + 1].startswith("    cause: wrong factorisation; with one token per round")


def test_the_front_ends_with_the_family_that_is_exact(
    result: SurveyResult, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(result, capsys)
    table = text[text.index("efficiency front") :]
    rows = [line.split("│") for line in table.splitlines() if line.startswith("│")]
    calls = [int(row[2]) for row in rows]
    assert calls == sorted(set(calls))
    assert rows[0][4].strip() not in ("0", "0 *")  # one call, which leaves the tokens independent
    assert rows[-1][4].strip() == "0 *"
    assert rows[-1][5].strip() == "gpt (length 3, steps 1)"
    alone = result.model_copy(update={"families": result.families[:1]})
    assert "efficiency front" not in printed(alone, capsys)


def test_a_quick_survey_says_so(result: SurveyResult, capsys: pytest.CaptureFixture[str]) -> None:
    assert "quick" not in printed(result, capsys)
    assert "quick: 200 draws per cell" in printed(result, capsys, quick=True)
