"""Budgets that a procedure does not read share one run, and those that it reads do not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from capcheck import check
from capcheck.core.budget import Axis, Budget, Grid
from capcheck.core.errors import InputError
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import SequenceSpec
from capcheck.probes.length.gpt import GPT
from capcheck.procedures.probe import State
from capcheck.targets import from_spec

RUNS: list[Budget] = []


class Watched(GPT):
    """GPT that notes its runs, and reads the length only."""

    reads: ClassVar[frozenset[Axis]] = frozenset({"length"})
    anytime: ClassVar[frozenset[Axis]] = frozenset()

    def run(
        self, network: Any, spec: SequenceSpec, budget: Budget, start: State, rng: Randomness
    ) -> Iterator[State]:
        RUNS.append(budget)
        yield from super().run(network, spec, budget, start, rng)


class ReadsBoth(Watched):
    reads: ClassVar[frozenset[Axis]] = frozenset({"length", "steps"})


class ReadsSteps(Watched):
    reads: ClassVar[frozenset[Axis]] = frozenset({"steps"})


class ReadsNothing(Watched):
    reads: ClassVar[frozenset[Axis]] = frozenset()


class Anytime(ReadsBoth):
    anytime: ClassVar[frozenset[Axis]] = frozenset({"length"})


@pytest.mark.parametrize(
    ("probe", "runs"),
    [
        (Watched(), {(0, 1), (2, 1)}),
        (ReadsBoth(), {(0, 1), (0, 2), (0, 4), (2, 1), (2, 2), (2, 4)}),
        (ReadsSteps(), {(0, 1), (0, 2), (0, 4)}),
        (ReadsNothing(), {(0, 1)}),
        (Anytime(), {(2, 1), (2, 2), (2, 4)}),
    ],
)
def test_budgets_that_differ_in_what_is_not_read_share_one_run(
    probe: Watched, runs: set[tuple[int, int]]
) -> None:
    RUNS.clear()
    target = from_spec("modes:tokens=2,gap=3")
    found = check(probe, target, steps=[1, 2, 4], lengths=[0, 2], samples=200, divergences=["mmd"])
    made = [(budget.length, budget.steps) for budget in RUNS]
    assert len(made) == len(set(made)) == len(runs)
    assert set(made) == runs
    assert [(cell.budget.length, cell.budget.steps) for cell in found.cells] == [
        (0, 1), (0, 2), (0, 4), (2, 1), (2, 2), (2, 4),
    ]  # fmt: skip


def test_cells_that_share_a_run_have_its_numbers() -> None:
    target = from_spec("modes:tokens=2,gap=3")
    plain = check("gpt", target, steps=[1, 2], lengths=[0, 2], samples=200)
    by_budget = {cell.budget: cell for cell in plain.cells}
    for length in (0, 2):
        one, other = (by_budget[Budget(length=length, steps=steps)] for steps in (1, 2))
        assert one.estimates == other.estimates
        assert one.examples == other.examples
    short, long = (by_budget[Budget(length=length, steps=1)] for length in (0, 2))
    assert short.estimates["kl"].value != long.estimates["kl"].value


def test_a_grid_is_sorted_and_its_largest_budget_is_its_last() -> None:
    grid = Grid.over(3, [3, 0, 3], [4, 1])
    assert (grid.lengths, grid.steps) == ((0, 3), (1, 4))
    assert grid.largest == Budget(length=3, steps=4) == grid.budgets()[-1]
    with pytest.raises(InputError, match=r"Budget\.length must be at most 3, got 4"):
        Grid.over(3, [4], [1])
