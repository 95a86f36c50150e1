"""Runs that would take too long are given up early, and say what they would cost."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from capcheck import check, survey
from capcheck.core import pace
from capcheck.core.errors import InputError, UnfitError
from capcheck.core.pace import Pace, time_limit
from capcheck.runs.store import Store
from capcheck.targets import from_spec


def test_a_loop_is_given_up_as_soon_as_its_pace_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def turns(total: int, each: float, first: float | None = None) -> int:
        now[0] = 0.0
        loop = Pace(total, "a loop", "make fewer turns")
        for done in range(total):
            now[0] += each if done or first is None else first
            try:
                loop.turn()
            except UnfitError:
                return done + 1
        return total

    with time_limit(600):
        assert turns(1000, 0.5) == 1000  # 500 s
        assert turns(1300, 0.5) == 7  # 650 s, after more than three seconds
        assert turns(10_000_000, 1e-3) == 3001
        assert turns(3, 100) == 3
        assert turns(1000, 0.1, first=60) == 1000  # the first turn prepares the others
        assert turns(1000, 5, first=60) == 4
    assert turns(1300, 100) == 1300  # without a limit
    now[0] = 0.0
    loop = Pace(3000, "a loop", "make fewer turns")
    with time_limit(60):
        for _ in range(3):
            now[0] += 4.0
            loop.turn()
        now[0] += 4.0
        with pytest.raises(
            UnfitError, match=r"a loop would take 3.3 h or more, longer than the 60 s"
        ):
            loop.turn()


def test_a_family_whose_run_would_take_too_long_is_not_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pace, "GRACE", 0.0)
    target = from_spec("parity:6")
    how: Any = {"samples": 200, "divergences": ["kl"], "lengths": [6], "steps": [1]}
    with pytest.raises(UnfitError, match=r"would take .* or more, longer than .* of --seconds-per"):
        check("gpt", target, seconds_per_run=1e-9, **how)
    found = survey(target, ["gpt"], seconds_per_run=1e-9, out=tmp_path / "run", **how)
    (refused,) = found.families
    assert refused.supported is False
    assert "would take" in refused.reason
    read = Store.open(tmp_path / "run")
    with pytest.raises(InputError, match="no finished cell"):
        read.result()
    assert check("gpt", target, **how).outcome.value == "representable"


def test_the_limit_changes_no_cell() -> None:
    target = from_spec("parity:4")
    how: Any = {"samples": 200, "divergences": ["kl"], "lengths": [4], "steps": [1]}
    one, other = (check("gpt", target, seconds_per_run=s, **how) for s in (60, 600))
    assert one.cells == other.cells


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), True])
def test_a_limit_that_is_no_time_is_the_callers_mistake(seconds: float) -> None:
    with pytest.raises(InputError, match=r"seconds_per_run must be a number of seconds above 0"):
        check("gpt", from_spec("parity:3"), seconds_per_run=seconds)
