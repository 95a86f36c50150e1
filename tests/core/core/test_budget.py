"""Budgets that note what is read of them, and results that are shared between budgets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from capcheck.core.budget import Budget, Memory, WatchedBudget
from capcheck.probes.length.gpt import GPT
from capcheck.procedures import registry
from capcheck.procedures.probe import State
from capcheck.procedures.registry import build_probe
from capcheck.targets import from_spec


def test_a_watched_budget_notes_what_is_read() -> None:
    budget = WatchedBudget(length=3, steps=2)
    assert budget.read == frozenset()
    assert budget.steps == 2
    assert budget.read == {"steps"}
    assert budget == Budget(length=3, steps=2) or budget.length == 3
    whole = WatchedBudget(length=3, steps=2)
    assert whole.model_dump() == {"length": 3, "steps": 2}
    assert whole.read == {"length", "steps"}


def test_a_result_serves_the_budgets_that_it_does_not_depend_on() -> None:
    memory: Memory[str] = Memory()
    memory.keep(Budget(length=3, steps=2), frozenset({"steps"}), "two")
    assert memory.recall(Budget(length=9, steps=2)) == "two"
    assert memory.recall(Budget(length=3, steps=4)) is None


def test_runs_are_shared_only_where_the_axis_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from capcheck import check

    runs: list[Budget] = []

    class Watched(GPT):
        family: ClassVar[str] = "gpt"

        def run(self, network: Any, spec: Any, budget: Budget, n: int, rng: Any) -> Iterator[State]:
            runs.append(Budget(length=0, steps=0))
            yield from super().run(network, spec, budget, n, rng)

    class Reading(Watched):
        def run(self, network: Any, spec: Any, budget: Budget, n: int, rng: Any) -> Iterator[State]:
            assert budget.steps > 0
            yield from super().run(network, spec, budget, n, rng)

    target = from_spec("modes:tokens=2,gap=3")
    counts = []
    for probe in (Watched(), Reading()):
        runs.clear()
        monkeypatch.setattr("capcheck.api.build_probe", lambda family, options, p=probe: p)
        check("gpt", target, steps=[1, 2, 4], lengths=[0, 2], samples=200)
        counts.append(len(runs))
    assert counts == [1, 3]
    assert registry.probe_class("gpt") is type(build_probe("gpt"))
