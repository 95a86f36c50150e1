"""`capcheck plan-decoding`: its table, its JSON, its page, and its sentences of failure."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest

from capcheck import DecodingPlan, decoding_plan
from capcheck.targets import from_spec

PARITY = ["--target", "parity:6"]


@pytest.fixture
def run(run):  # type: ignore[no-untyped-def]
    return functools.partial(run, "plan-decoding")


def rows(out: str) -> list[list[str]]:
    """The cells of the lines of a table."""
    lines = [line for line in out.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_parity_wants_its_last_token_alone(run) -> None:  # type: ignore[no-untyped-def]
    # Two calls of three tokens lose ln 2 / 6 = 0.116 nats per token; five and one lose nothing.
    found = run(*PARITY, "--calls", "2")
    assert found.code in (0, None)
    assert rows(found.out) == [["2", "0.116", "0.116", "0 *", "5, 1"]]
    words = " ".join(found.out.split())
    assert "6 bits, uniform over even parity, 6 tokens" in words
    # H = 5 ln 2 = 3.47, the total correlation is ln 2 = 0.693, the dual one 5 ln 2.
    assert "entropy 3.47 nats per sequence; total correlation 0.693" in words
    assert "dual total correlation 3.47" in words
    assert "fewest calls within 0.01 nats per token: 2, at 0; tokens per step 5, 1" in words
    assert "their KL is at most this" in words


def test_a_tolerance_changes_what_suffices(run) -> None:  # type: ignore[no-untyped-def]
    found = run(*PARITY, "--calls", "1,2", "--tolerance", "0.2")
    assert rows(found.out) == [
        ["1", "0.116 *", "0.116 *", "0.116 *", "6"],
        ["2", "0.116 *", "0.116 *", "0 *", "5, 1"],
    ]
    assert "within 0.2 nats per token: 1, at 0.116; tokens per step 6" in found.out


def test_a_measured_plan_shows_its_intervals(run) -> None:  # type: ignore[no-untyped-def]
    arguments = ["--samples", "16", "--seed", "7", "--level", "0.9", "--calls", "2"]
    found = run("--target", "gaussian:ar1,tokens=6", *arguments)
    plan = decoding_plan(
        from_spec("gaussian:ar1,tokens=6"), samples=16, seed=7, level=0.9, calls=[2]
    )
    (row,) = rows(found.out)
    shown = [f"{one.kl}{' *' if one.suffices else ''}" for one in plan.prices]
    assert row == ["2", *shown, plan.prices[-1].steps_text]
    assert "[" in row[1]
    assert "average over 16 draws" in " ".join(found.out.split())


def test_json_is_all_that_standard_output_holds(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    page = tmp_path / "plan.html"
    found = run(*PARITY, "--json", "--report", str(page))
    assert found.code in (0, None)
    plan = DecodingPlan.model_validate(json.loads(found.out))
    assert plan == decoding_plan(from_spec("parity:6"))
    assert f"report: {page}" in found.err.splitlines()
    assert page.exists()


def test_a_report_is_a_page_of_the_plan(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    page = tmp_path / "a plan <b>&'\".html"
    found = run(*PARITY, "--report", str(page))
    assert found.code in (0, None)
    assert found.out.splitlines()[-1] == f"report: {page}"
    text = page.read_text()
    assert text.startswith("<!doctype html>")
    assert "How many tokens per step? <bdi>6 bits, uniform over even parity" in text


def test_rows_of_a_file_are_planned_too(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 2, size=(60, 5)))
    found = run("--data", str(tmp_path / "x.npy"), "--law", "markov:1", "--calls", "5", "--json")
    plan = DecodingPlan.model_validate(json.loads(found.out))
    assert (plan.tokens, plan.exact) == (5, True)
    assert plan.target == "x.npy"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--calls", "0"], "calls must be a whole number of at least 1, got 0."),
        (["--calls", "2,9"], "calls must be at most 6, got 9."),
        (["--calls", "two"], "--calls must be whole numbers separated by commas, got 'two'."),
        (["--tolerance", "0"], "tolerance must be positive and finite, got 0.0."),
        (["--tolerance", "nan"], "tolerance must be positive and finite, got nan."),
        (["--level", "1"], "level must be between 0 and 1, got 1.0; use 0.95."),
        (["--samples", "3"], "samples must be a whole number of at least 16, got 3."),
        (["--seed", "-1"], "seed must be a whole number of at least 0, got -1."),
    ],
)
def test_a_bad_value_is_one_sentence(run, arguments: list[str], sentence: str) -> None:  # type: ignore[no-untyped-def]
    found = run(*PARITY, *arguments)
    assert found.code == 2
    assert found.out == ""
    assert found.err.splitlines()[-1] == f"error: {sentence}"
    assert "Traceback" not in found.err


def test_a_plan_needs_one_target(run) -> None:  # type: ignore[no-untyped-def]
    for arguments, got in ([], "neither"), ([*PARITY, "--data", "digits"], "both"):
        found = run(*arguments)
        assert found.code == 2
        assert f"give one of --data FILE and --target SPEC, got {got}." in found.err


def test_the_gap_to_the_data_is_told(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "copies.npy"
    np.save(path, np.random.default_rng(0).integers(0, 3, size=(300, 1)).repeat(4, axis=1))
    asked = ["--data", str(path), "--law", "markov:1", "--calls", "2"]
    sentence = "the law holds 100% (100% to 100%) of the dependence that a "
    assert sentence in " ".join(run(*asked).out.split())
    held_out = json.loads(run(*asked, "--json").out)["held_out"]
    assert held_out["dependence"]["sentence"].startswith(sentence)
    assert json.loads(run(*PARITY, "--calls", "2", "--json").out)["held_out"] is None
