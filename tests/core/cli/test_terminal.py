"""What a survey prints: marks, sentences, causes and the front."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from judged import cell, exact, family, survey_of, unfinished
from rich.console import Console

from capcheck import survey
from capcheck.cli.terminal import WIDTH, print_survey
from capcheck.cli.verdict_tables import survey_notes, survey_table
from capcheck.judging.answer import answer
from capcheck.procedures.registry import families, probe_class
from capcheck.results.family import Axes, FamilyResult
from capcheck.results.survey import SurveyResult
from capcheck.targets import HeldOut, from_spec


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
    lines = (line for line in text.splitlines() if line.startswith("  ") and line[2] != " ")
    line = next(line for line in lines if line.split()[0] == family)
    return re.split(r" {2,}", line.strip())


def test_agreement_with_the_paper_needs_no_mark_and_no_sentence(
    result: SurveyResult, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(result, capsys)
    assert row_of(text, "gpt") == [
        "gpt",
        "representable",
        "3 x 1",
        "3",
        "used",
        "flat",
        "▆▂▁",
        "KL",
    ]
    assert "≠" not in text
    assert "?" not in text
    assert "differs: " not in text


@pytest.mark.parametrize(
    ("axes", "loop_order", "mark", "sentence"),
    [
        (("flat", "flat"), "none", ("gpt ≠", "flat", "flat"), "differs: the paper puts it"),
        (("used", "used"), "steps_outer", ("gpt ≠", "used", "used"), "differs: the paper puts it"),
        (("used", "undecided"), "length", ("gpt", "used", "?"), "undecided: the paper puts it"),
    ],
)
def test_disagreement_is_marked_and_explained(
    result: SurveyResult,
    capsys: pytest.CaptureFixture[str],
    axes: tuple[Any, Any],
    loop_order: str,
    mark: tuple[str, str, str],
    sentence: str,
) -> None:
    other = changed(result, axes=Axes(length=axes[0], steps=axes[1]), loop_order=loop_order)
    text = printed(other, capsys)
    cells = row_of(text, "gpt")
    assert (cells[0], *cells[4:6]) == mark
    assert row_of(text, "maskgit")[0] == "maskgit"
    assert ("≠ measured axes are not those of its group" in text) == ("≠" in mark[0])
    lines = text.splitlines()
    below = lines[next(i for i, line in enumerate(lines) if line.startswith("gpt: ")) + 1]
    assert below.startswith(f"    {sentence}")
    assert f"measured is length {axes[0]}, steps {axes[1]}" in below


def test_families_beyond_the_paper_are_marked(
    result: SurveyResult, capsys: pytest.CaptureFixture[str]
) -> None:
    note = "+ not in the table of Song & Zhou 2025"
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


def test_the_gap_to_the_data_is_told_below_the_target(
    result: SurveyResult, capsys: pytest.CaptureFixture[str]
) -> None:
    held: dict[str, Any] = {"rows": 9, "log_likelihood": -9.24, "in_sample": -9, "baseline": -11.5}
    found = {"rows": 9, "independent": 2.87, "law": 2.31, "ngram": 2.08, "order": 4, "share": 0.71}
    found |= {"low": 0.68, "high": 0.74, "level": 0.95, "counted": 36, "fitted": 36}
    held |= {"baseline_name": "independent tokens", "dependence": found}
    provenance = result.target.provenance.model_copy(
        update={"held_out": HeldOut.model_validate(held)}
    )
    target = result.target.model_copy(update={"provenance": provenance})
    told = result.model_copy(update={"target": target})
    sentence = "the law holds 71% (68% to 74%) of the dependence that a 5-gram finds in unseen rows"
    assert f"\n        {sentence}\n        2.31 nats per token, " in printed(told, capsys)
    as_json = told.to_dict()["target"]["provenance"]["held_out"]["dependence"]
    assert as_json["sentence"].startswith(sentence)
    assert as_json["share"] == 0.71
    assert "dependence" not in printed(result, capsys)


# The first screen


def all_families() -> SurveyResult:
    """Every family of the package, with the longest verdict and profile that a family can have."""
    cells = [cell(k, k, kl=exact(float(k))) for k in (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)]
    return survey_of(
        *(
            family(
                *cells, name=name, row=probe_class(name).row, in_paper=probe_class(name).in_paper
            )
            for name in families()
        )
    )


def table_of(result: SurveyResult, encoding: str = "utf-8", **how: bool) -> list[str]:
    """The lines of a survey's table and notes, on a console that is wide enough for anything."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)  # strict: what it cannot encode fails
    console = Console(file=file, width=200)
    console.print(survey_table(result, **how))
    for note in survey_notes(result, **how):
        console.print(note, markup=False, highlight=False)
    file.flush()
    return raw.getvalue().decode(encoding).splitlines()


def test_the_answer_comes_first(result: SurveyResult, capsys: pytest.CaptureFixture[str]) -> None:
    first, _, _ = printed(result, capsys).partition("target: ")
    assert " ".join(first.split()) == answer(result)
    assert max(map(len, first.splitlines())) <= WIDTH


def test_all_families_fit_into_a_hundred_columns_without_wrapped_names() -> None:
    lines = table_of(all_families())
    assert max(map(len, lines)) <= WIDTH
    for name in families():
        (row,) = [line for line in lines if line.split()[:1] == [name]]
        assert "not representable" in row


def test_a_console_without_blocks_gets_the_same_table_in_ascii() -> None:
    found = all_families()
    steps = next(one for one in found.families if one.row == "steps")
    unlike = steps.model_copy(update={"axes": Axes(length="flat", steps="flat")})
    mixed = survey_of(unlike, *found.families[1:])
    lines = table_of(mixed, encoding="ascii", plain=True)
    assert max(map(len, lines)) <= WIDTH
    assert "!= measured axes are not those of its group" in lines
    with pytest.raises(UnicodeEncodeError):
        table_of(mixed, encoding="ascii")


def test_a_run_that_was_killed_half_way_shows_what_it_has() -> None:
    started = unfinished(cell(1, 1, kl=exact(2.0)), of=3, name="mar")
    (row,) = [line for line in table_of(survey_of(started)) if line.split()[:1] == ["mar"]]
    assert re.split(r" {2,}", row.strip()) == ["mar", "lacks cells", "▃", "KL"]  # 2.0 / 0.5
