"""Suspects of a floor are measured by what refuses it, from as many draws as show something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from processes import DyingWorkers

from capcheck import Outcome, check, save
from capcheck.core import pace
from capcheck.core.errors import UnfitError
from capcheck.judging.causes import cause_of
from capcheck.procedures.procedure import Procedure
from capcheck.results.family import Cause
from capcheck.runs import assembly, beside
from capcheck.runs.store import Store
from capcheck.runs.sweep import SHOWN_ROWS
from capcheck.targets import MarkovChain, from_spec

HOW: Any = {"samples": 1200, "lengths": [4], "steps": [1], "options": {"rounds": 1}}


def test_a_part_of_the_draws_shows_most_causes(tmp_path: Path) -> None:
    result = check("maskgit", from_spec("gaussian:ar1,tokens=4"), **HOW)
    (cause,) = result.found.causes
    assert cause.removed
    assert cause.cell.samples == 300
    floor = result.cells[-1].estimates
    assert set(floor) == {"kl", "wasserstein", "mmd"}
    assert set(cause.cell.estimates) == {"kl"}  # it refuses the floor without the others
    saved = Store.open(save(result, tmp_path / "run")).result()
    assert saved.families[0].causes == result.found.causes


def test_a_suspect_that_takes_too_long_leaves_the_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    law = from_spec("gaussian:ar1,tokens=4")
    known = check("maskgit", law, **HOW)
    monkeypatch.setattr(beside, "SHARE_OF_CAUSES", 0.0)
    monkeypatch.setattr(pace, "GRACE", 0.0)
    monkeypatch.setattr(pace, "FEWEST", 1)
    found = check("maskgit", law, **HOW)
    assert found.found.causes == () != known.found.causes
    assert (found.outcome, found.reason) == (known.outcome, known.reason)


def test_a_suspect_that_takes_too_long_is_tried_once_in_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def too_short(seconds: float) -> Any:
        tried.append(seconds)
        raise UnfitError("it takes too long")

    monkeypatch.setattr(beside, "time_limit", too_short)
    law = from_spec("gaussian:ar1,tokens=4")
    shared: Any = {"workers": 2, "out": tmp_path / "run"}
    found = check("maskgit", law, **HOW, **shared, executor=DyingWorkers())
    assert found.outcome is Outcome.NOT_REPRESENTABLE
    assert tried == [60.0]


def test_all_draws_are_taken_where_a_part_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def blind(suspect: Any, measurement: Any, floor: Any, settings: Any) -> Cause | None:
        asked.append(measurement.samples)
        enough = measurement.samples == 1200
        return cause_of(suspect, measurement, floor, settings) if enough else None

    monkeypatch.setattr(assembly, "cause_of", blind)
    (cause,) = check("maskgit", from_spec("gaussian:ar1,tokens=4"), **HOW).found.causes
    assert cause.cell.samples == 1200
    assert set(asked) == {300, 1200}


def test_no_more_draws_are_made_where_they_would_show_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def blind(suspect: Any, measurement: Any, floor: Any, settings: Any) -> None:
        asked.append(measurement.samples)

    monkeypatch.setattr(assembly, "cause_of", blind)
    monkeypatch.setattr(beside, "more_draws_would_show", lambda *_, **__: False)
    assert check("maskgit", from_spec("gaussian:ar1,tokens=4"), **HOW).found.causes == ()
    assert set(asked) == {300}


def test_the_other_divergences_are_asked_where_kl_shows_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def blind(suspect: Any, measurement: Any, floor: Any, settings: Any) -> Cause | None:
        enough = len(measurement.estimates) > 1
        return cause_of(suspect, measurement, floor, settings) if enough else None

    monkeypatch.setattr(assembly, "cause_of", blind)
    (cause,) = check("maskgit", from_spec("gaussian:ar1,tokens=4"), **HOW).found.causes
    assert set(cause.cell.estimates) == {"kl", "wasserstein", "mmd"}
    assert cause.cell.samples == 300


def test_a_log_density_that_decides_needs_few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    run = Procedure.run

    def counted(self: Procedure[Any], budget: Any, n: int, *rest: Any, **named: Any) -> Any:
        ran.append(n)
        return run(self, budget, n, *rest, **named)

    monkeypatch.setattr(Procedure, "run", counted)
    sticky = torch.full((3, 3), 0.05, dtype=torch.float64) + 0.85 * torch.eye(3)
    chain = MarkovChain([torch.ones(3, dtype=torch.float64) / 3, sticky], tokens=24)
    result = check("maskgit", chain, samples=2000, lengths=[24], steps=[2])
    (cause,) = result.found.causes
    assert cause.removed
    assert cause.cell.estimates["kl"].value == pytest.approx(0, abs=1e-9)
    assert ran[-1] == SHOWN_ROWS


def test_what_does_not_refuse_is_not_measured_again() -> None:
    how = HOW | {"tolerance": {"wasserstein": 100.0, "mmd": 0.99}}
    result = check("maskgit", from_spec("gaussian:ar1,tokens=4"), **how)
    (cause,) = result.found.causes
    assert set(cause.cell.estimates) == {"kl"}
    assert set(result.cells[-1].estimates) == {"kl", "wasserstein", "mmd"}
