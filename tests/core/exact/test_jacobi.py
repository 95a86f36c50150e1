"""Laws of fixed-point iterations against every cell of their noise."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from reference.jacobi import Array, Counts, law_of_iterations, table_of

from capcheck.core.unavailable import Unavailable
from capcheck.exact import jacobi as module
from capcheck.exact.jacobi import jacobi_law
from capcheck.laws import Categorical
from capcheck.targets import from_table

M = 6  # cells of each token's noise


def counts_of(V: int, seed: int, m: int = M) -> Counts:
    """Random laws of the next token whose probabilities are multiples of 1/m, some of them 0."""

    @functools.cache
    def counts(prefix: tuple[int, ...]) -> tuple[int, ...]:
        rng = np.random.default_rng([seed, len(prefix), *prefix])
        return tuple(rng.multinomial(m, rng.dirichlet(np.full(V, 2.0))).tolist())

    return counts


class Network:
    """A prefix predictor that looks its laws up, and keeps every prefix that it is asked for."""

    def __init__(self, counts: Counts) -> None:
        self._counts, self.rows = counts, 0

    def __call__(self, tokens: torch.Tensor, known: torch.Tensor, /) -> Categorical:
        assert bool(known.all())
        self.rows += len(tokens)
        N = tokens.shape[1]
        laws = [[self._counts(tuple(x[:i])) for i in range(N)] for x in tokens.tolist()]
        return Categorical(torch.tensor(laws).double().log())


def turns_of(free: Sequence[int], block: int) -> list[list[int]]:
    return [list(free[r::block]) for r in range(min(block, len(free)))]


def found_law(
    counts: Counts,
    shape: Sequence[int],
    guess: Sequence[int],
    k: int,
    block: int = 1,
    given: Sequence[int] = (),
) -> Array:
    found = law_or_reason(counts, shape, guess, k, block, given)
    assert not isinstance(found, Unavailable), found
    return found


def law_or_reason(
    counts: Counts,
    shape: Sequence[int],
    guess: Sequence[int],
    k: int,
    block: int = 1,
    given: Sequence[int] = (),
) -> Array | Unavailable:
    target = from_table(torch.ones(*shape, dtype=torch.float64))
    spec = dataclasses.replace(target.spec, given=tuple(given))
    turns = turns_of(spec.free, block)
    found = jacobi_law(Network(counts), spec, torch.tensor(guess), turns, iterations=k)
    if isinstance(found, Unavailable):
        return found
    law: Array = found.exp().numpy().reshape(tuple(shape))
    return law


CASES = [(2, 2), (4, 2), (6, 2), (2, 3), (3, 3), (3, 4)]


@pytest.mark.parametrize("block", [1, 2, 3])
@pytest.mark.parametrize(("N", "V"), CASES)
def test_the_law_is_that_of_every_cell_of_the_noise(N: int, V: int, block: int) -> None:
    m = 4 if N == 6 else M
    counts, shape = counts_of(V, seed=N, m=m), (V,) * N
    guess = np.random.default_rng(N).integers(V, size=N).tolist()
    laws = [law_of_iterations(counts, m, shape, guess, k, block) for k in range(1, N + 1)]
    for k, expected in enumerate(laws, 1):
        found = found_law(counts, shape, guess, k, block)
        assert np.abs(found - expected).max() < 1e-13, (k, block)
    if 2 * block < N:  # the twins that must fail: one iteration fewer, and blocks of another size
        found = found_law(counts, shape, guess, 2, block)
        assert np.abs(found - laws[0]).max() > 0.01
        assert np.abs(found - found_law(counts, shape, guess, 2, block + 1)).max() > 0.01
    assert np.abs(laws[-1] - table_of(counts, m, shape)).max() < 1e-13


@pytest.mark.parametrize("given", [(0,), (2,), (1, 3)])
@pytest.mark.parametrize("block", [1, 2])
def test_beside_given_tokens_the_laws_stand_side_by_side(
    given: tuple[int, ...], block: int
) -> None:
    N, V, k = 4, 2, 2
    counts, guess = counts_of(V, seed=9), [1, 0, 1, 1]
    found = found_law(counts, (V,) * N, guess, k, block, given)
    for values in itertools.product(range(V), repeat=len(given)):
        start = list(guess)
        for i, value in zip(given, values, strict=True):
            start[i] = value
        expected = law_of_iterations(counts, M, (V,) * N, start, k, block, given)
        here = tuple(values[given.index(i)] if i in given else slice(None) for i in range(N))
        assert np.abs(found[here] - expected[here]).max() < 1e-13
        assert expected[here].sum() == pytest.approx(1)


def test_draws_made_anew_in_every_iteration_have_another_law() -> None:
    # With new noise in the second iteration x_2 would be drawn given the x_1 of the first, which is
    # independent of the x_1 that is returned.
    laws = {(): (3, 3), (0,): (5, 1), (1,): (1, 5)}
    found = found_law(laws.__getitem__, (2, 2), [0, 0], 2)
    assert found == pytest.approx(np.array([[5, 1], [1, 5]]) / 12, abs=1e-15)
    assert np.abs(found - np.full((2, 2), 3 / 12)).max() > 0.1


def test_a_network_is_asked_once_about_a_prefix() -> None:
    counts, (N, V) = counts_of(2, seed=1), (6, 2)
    network, spec = Network(counts), from_table(torch.ones(*[V] * N).double()).spec
    jacobi_law(network, spec, torch.zeros(N).long(), turns_of(range(N), 1), iterations=4)
    assert network.rows <= sum(V**i for i in range(N))


@pytest.mark.parametrize(
    ("bound", "reason"), [("SEQUENCES", "2^6 sequences"), ("DRAFTS", "more than 10 drafts")]
)
def test_what_is_too_large_is_refused(
    bound: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    call: Callable[[], Array | Unavailable] = functools.partial(
        law_or_reason, counts_of(2, seed=1), (2,) * 6, [0] * 6, 3
    )
    assert not isinstance(call(), Unavailable)
    monkeypatch.setattr(module, bound, 10)
    refused = call()
    assert isinstance(refused, Unavailable)
    assert reason in refused.reason
