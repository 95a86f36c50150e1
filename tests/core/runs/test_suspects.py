"""Suspects of a floor are measured by what refuses it, from as many draws as show something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from capcheck import check, save
from capcheck.judging.causes import cause_of
from capcheck.results.family import Cause
from capcheck.runs import assembly
from capcheck.runs.store import Store
from capcheck.targets import from_spec

HOW: Any = {"samples": 1200, "lengths": [4], "steps": [1], "options": {"rounds": 1}}


def test_a_part_of_the_draws_shows_most_causes(tmp_path: Path) -> None:
    result = check("maskgit", from_spec("gaussian:ar1,tokens=4"), **HOW)
    (cause,) = result.found.causes
    assert cause.removed
    assert cause.cell.samples == 300
    floor = result.cells[-1].estimates
    assert set(floor) == {"kl", "wasserstein", "mmd"}
    assert "kl" in cause.cell.estimates
    saved = Store.open(save(result, tmp_path / "run")).result()
    assert saved.families[0].causes == result.found.causes


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


def test_what_does_not_refuse_is_not_measured_again() -> None:
    how = HOW | {"tolerance": {"wasserstein": 100.0, "mmd": 0.99}}
    result = check("maskgit", from_spec("gaussian:ar1,tokens=4"), **how)
    (cause,) = result.found.causes
    assert set(cause.cell.estimates) == {"kl"}
    assert set(result.cells[-1].estimates) == {"kl", "wasserstein", "mmd"}
