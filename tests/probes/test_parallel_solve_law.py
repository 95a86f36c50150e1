"""The law between the first iteration and the last, against every cell of the noise."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from networks import law_of
from reference.groups import probability
from reference.jacobi import Array, Counts, law_of_iterations, table_of
from reference.unmasking import kl
from scipy import stats

from capcheck import check
from capcheck.core.budget import Budget
from capcheck.core.randomness import CounterRandomness
from capcheck.core.unavailable import Unavailable
from capcheck.exact import jacobi
from capcheck.probes.steps.parallel_solve import ParallelSolve
from capcheck.procedures.procedure import Procedure
from capcheck.targets import from_spec, from_table

COPY = -1  # stands for a token that takes the value of the one before


def counts_of(V: int, m: int, seed: int) -> Counts:
    """Random laws of the next token whose probabilities are positive multiples of 1/m."""

    @functools.cache
    def counts(prefix: tuple[int, ...]) -> tuple[int, ...]:
        rng = np.random.default_rng([seed, len(prefix), *prefix])
        return tuple((1 + rng.multinomial(m - V, rng.dirichlet(np.ones(V)))).tolist())

    return counts


def guess_of(p: Array) -> list[int]:
    """The most probable value of every token."""
    axes = range(p.ndim)
    return [int(p.sum(tuple(j for j in axes if j != i)).argmax()) for i in axes]


def procedure_of(p: Array, block: int = 1, given: Sequence[int] = ()) -> Procedure[Any]:
    return Procedure.of(ParallelSolve(block=block), from_table(torch.tensor(p)), given=given)


@pytest.mark.parametrize(("N", "V", "m"), [(4, 2, 7), (6, 2, 4), (3, 3, 7), (4, 3, 6)])
@pytest.mark.parametrize("block", [1, 2])
def test_the_law_with_the_oracle_is_that_of_every_cell(N: int, V: int, m: int, block: int) -> None:
    counts = counts_of(V, m, seed=N)
    p = table_of(counts, m, (V,) * N)
    for k in range(2, -(-N // block) + 1):
        expected = law_of_iterations(counts, m, p.shape, guess_of(p), k, block)
        found = law_of(procedure_of(p, block), Budget(length=0, steps=k), "density")
        assert np.abs(found - expected).max() < 1e-10
        settled = k * block >= N
        if k == 2 or settled:
            assert (np.abs(found - p).max() > 1e-3) == (not settled)


@pytest.mark.parametrize("given", [(0,), (2,), (1, 3)])
def test_beside_given_tokens_the_law_is_that_of_every_cell(given: tuple[int, ...]) -> None:
    N, m, k = 5, 5, 2
    counts = counts_of(2, m, seed=1)
    p = table_of(counts, m, (2,) * N)
    expected = np.zeros_like(p)
    for values in itertools.product(range(2), repeat=len(given)):
        start = guess_of(p)
        for i, value in zip(given, values, strict=True):
            start[i] = value
        beside = law_of_iterations(counts, m, p.shape, start, k, 1, given)
        expected += probability(p, start, given) * beside
    found = law_of(procedure_of(p, given=given), Budget(length=0, steps=k), "density")
    assert np.abs(found - expected).max() < 1e-10
    assert np.abs(found - p).max() > 1e-3


@pytest.mark.parametrize("e", [0.125, 0.25])
@pytest.mark.parametrize("k", [2, 3])
def test_a_binary_chain_forgets_what_is_k_copies_back(e: float, k: int) -> None:
    # u < e gives 0 and u > 1 - e gives 1, whatever came before; in between x_i copies x_{i-1} of
    # the iteration before. After k iterations x_i is the value drawn at the last token of i - k + 1
    # to i that did not copy, or the first guess 0 if all of them copied; x_1 never does.
    N = 5
    p, expected = np.zeros((2,) * N), np.zeros((2,) * N)
    for x in itertools.product((0, 1), repeat=N):
        changes = sum(a != b for a, b in itertools.pairwise(x))
        p[x] = 0.5 * e**changes * (1 - e) ** (N - 1 - changes)
    p[(0,) * N] += 1e-9  # so that 0 is the most probable value
    for kinds in itertools.product((0, 1), *[(0, 1, COPY)] * (N - 1)):
        mass, result = 0.5, []
        for kind in kinds[1:]:
            mass *= 1 - 2 * e if kind == COPY else e
        for i in range(N):
            drawn = [kind for kind in kinds[max(0, i - k + 1) : i + 1] if kind != COPY]
            result.append(drawn[-1] if drawn else 0)
        expected[tuple(result)] += mass
    found = law_of(procedure_of(p), Budget(length=0, steps=k), "density")
    assert np.abs(found - expected).max() < 1e-8
    assert np.abs(found - p).max() > 1e-3


@pytest.mark.parametrize(("k", "block"), [(2, 1), (3, 1), (2, 2)])
def test_frequencies_of_samples_agree(k: int, block: int) -> None:
    counts, n = counts_of(2, 9, seed=2), 20_000
    p = table_of(counts, 9, (2,) * 5)
    procedure, budget = procedure_of(p, block), Budget(length=0, steps=k)
    x = procedure.sample(budget, n, CounterRandomness(3)).numpy()
    seen = np.bincount(np.ravel_multi_index(tuple(x.T), p.shape), minlength=p.size)
    laws = [
        law_of(procedure, Budget(length=0, steps=steps), "density").ravel() for steps in (k, k - 1)
    ]
    assert seen[laws[0] == 0].sum() == 0
    on = laws[0] > 0
    assert stats.chisquare(seen[on], n * laws[0][on]).pvalue > 1e-3
    other = laws[1] + 1e-6
    assert stats.chisquare(seen, n * other / other.sum()).pvalue < 1e-6


def test_a_check_states_exact_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = counts_of(2, 5, seed=4)
    p = table_of(counts, 5, (2,) * 4)
    names = ["kl", "wasserstein", "total_variation"]
    how: dict[str, Any] = {"steps": [1, 2, 3, 4], "samples": 200, "divergences": names}
    found = check("parallel_solve", from_table(torch.tensor(p)), **how)
    for cell in found.cells:
        law = law_of_iterations(counts, 5, p.shape, guess_of(p), cell.budget.steps)
        assert [cell.estimates[name].kind for name in names] == ["exact"] * 3
        assert cell.estimates["kl"].value == pytest.approx(kl(p, law), abs=1e-9)
        tv = np.abs(p - law).sum() / 2
        assert cell.estimates["total_variation"].value == pytest.approx(tv, abs=1e-9)
    monkeypatch.setattr(jacobi, "SEQUENCES", 8)
    without = check("parallel_solve", from_table(torch.tensor(p)), **how)
    kinds = {cell.budget.steps: cell.estimates["kl"].kind for cell in without.cells}
    assert (kinds[1], kinds[4]) == ("exact", "exact")
    assert "exact" not in (kinds[2], kinds[3])


def test_the_reason_names_what_is_too_large() -> None:
    for spec, part in (("copy:tokens=8,symbols=4", "4^8 sequences"), ("modes:tokens=4", "noise")):
        target = from_spec(spec)
        procedure = Procedure.of(ParallelSolve(), target)
        x = target.sample(2, CounterRandomness(0))
        found = procedure.log_density(Budget(length=0, steps=2), x, CounterRandomness(0))
        assert isinstance(found, Unavailable)
        assert part in found.reason
