"""The summary of a run in Markdown, also of names that are hostile."""

from __future__ import annotations

import re

import pytest
from judged import between, cell, exact, family, survey_of, unfinished, unsupported

from capcheck.judging.answer import answer
from capcheck.pipeline.markdown import COLUMNS, inline, markdown_summary
from capcheck.results.survey import SurveyResult
from capcheck.targets.provenance import HeldOut


def of_all_kinds() -> SurveyResult:
    result = survey_of(
        family(cell(64, kl=exact(0.4)), name="gpt"),
        family(cell(4, kl=exact(1.0)), name="maskgit"),
        family(cell(16, kl=between(0.1, 2.0)), name="ebm"),
        unfinished(cell(1, 1, kl=exact(2.0)), of=3, name="mar"),
        unsupported("masked", "masked is defined for categorical tokens."),
    )
    held = HeldOut(
        rows=9, log_likelihood=-8.2, in_sample=-5.53, baseline=-11.39, baseline_name="one Gaussian"
    )
    provenance = result.target.provenance.model_copy(update={"held_out": held})
    target = result.target.model_copy(update={"provenance": provenance})
    return result.model_copy(update={"target": target})


def cells_of(line: str) -> list[str]:
    """The cells of a row as Markdown reads it: at bars that are not escaped."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_a_summary_has_answer_table_target_and_open_questions() -> None:
    result = of_all_kinds()
    text = markdown_summary(result)
    lines = text.splitlines()
    assert lines[0] == inline(answer(result))
    rows = [cells_of(line) for line in lines if line.startswith("|")]
    assert rows[0] == list(COLUMNS)
    assert rows[2:] == [
        ["gpt", "✅ representable", "length 8, steps 1", "64", "KL",
         "KL at most 0.8 times its tolerance"],
        ["maskgit", "❌ not representable", "-", "-", "KL", "KL at least 2 times its tolerance"],
        ["ebm", "❔ inconclusive", "-", "-", "KL", "bounds on KL on both sides of its tolerance"],
        ["mar", "⏳ lacks cells", "-", "-", "KL", "lacks 2 of its 3 cells"],
    ]  # fmt: skip
    (target,) = [line for line in lines if line.startswith("Target: ")]
    assert "latents.npy, 8 tokens of dimension 1; " in target
    assert "held-out log-likelihood of your rows -8.20 nats (one Gaussian -11.39" in target
    after = lines[lines.index("Without a verdict:") :]
    assert [line.partition(":")[0] for line in after if line.startswith("- ")] == ["- ebm", "- mar"]
    assert lines[-1] == "Not defined for this target: masked."
    assert text.endswith(".\n")


def test_where_all_is_decided_no_question_is_open() -> None:
    text = markdown_summary(survey_of(family(cell(64, kl=exact(0.4)), name="gpt")))
    assert "Without a verdict" not in text
    assert "Not defined" not in text


HOSTILE = (
    "<script>alert(1)</script>",
    "a | b | c",
    "``` `x` ```",
    "[link](http://example.org) ![x](y)",
    "\u202egpj.exe\u2066",
    "line\n\n# heading\n| a |",
    "*b* _i_ ~~s~~ &lt;b&gt; \\| \x1b[31m",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_bring_no_markup_and_no_columns(name: str) -> None:
    result = survey_of(
        family(cell(64, kl=exact(0.4)), name=name),
        unfinished(cell(1, 1, kl=exact(2.0)), of=3, name=name),
        unsupported(name, f"{name} is not for this."),
        target=name,
    )
    text = markdown_summary(result)
    assert all(c.isprintable() or c == "\n" for c in text)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert {len(cells_of(row)) for row in rows} == {len(COLUMNS)}
    assert not [line for line in text.splitlines() if line.startswith("#")]
    beside_table = "\n".join(line for line in text.splitlines() if line not in rows)
    for character in "`<>[]*_~&|":
        assert not re.search(rf"(?<!\\){re.escape(character)}", beside_table)


def test_a_backslash_does_not_undo_an_escape() -> None:
    assert inline(r"\|") == r"\\\|"
    assert inline("a|b") == r"a\|b"
    assert inline("plain, text.") == "plain, text."
