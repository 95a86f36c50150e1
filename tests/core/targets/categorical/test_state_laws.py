"""Laws through hidden states equal those of the whole recursion, entry by entry."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from capcheck.core.randomness import CounterRandomness
from capcheck.procedures.unmasking import ranked
from capcheck.targets.categorical import state_entries
from capcheck.targets.categorical.hidden_markov import HiddenMarkov
from capcheck.targets.target import HELD


def model(zeros: bool = False) -> HiddenMarkov:
    """Three states, four symbols, five tokens."""
    rng = torch.Generator().manual_seed(1)
    initial, transition, emission = (
        torch.rand(shape, dtype=torch.float64, generator=rng) for shape in ((3,), (3, 3), (3, 4))
    )
    if zeros:
        transition[0, 1:] = 0
        emission[0, :2] = 0
    laws = [p / p.sum(-1, keepdim=True) for p in (initial, transition, emission)]
    return HiddenMarkov(*laws, tokens=5)


def by_enumeration(target: HiddenMarkov, x: Tensor, known: Tensor) -> Tensor:
    """p(x_i = v | known) of one row, (N, V), by a sum over all sequences."""
    every = torch.tensor(list(itertools.product(range(4), repeat=5)))
    fits = (every[:, known] == x[known]).all(1)
    p = target.log_prob(every).exp() * fits
    table = torch.stack([(p[:, None] * (every == v)).sum(0) for v in range(4)], 1)
    return table / p.sum()


@pytest.mark.parametrize("zeros", [False, True])
def test_laws_are_those_of_enumeration(zeros: bool) -> None:
    target = model(zeros)
    x = target.sample(40, CounterRandomness(0))
    known = torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) < 0.4
    law = target.marginals(x, (~known).double())
    expected = torch.stack([by_enumeration(target, *row) for row in zip(x, known, strict=True)])
    torch.testing.assert_close(law.mean(), expected)
    torch.testing.assert_close(law.probabilities_where(~known), expected[~known])
    torch.testing.assert_close(law.select([3, 1]).mean(), expected[:, [3, 1]])
    of_values = expected.gather(-1, x[..., None])[..., 0]
    torch.testing.assert_close(law.log_prob(x).exp(), of_values)
    some = torch.where(known, 0, of_values.log())
    torch.testing.assert_close(law.log_prob_where(x, ~known), some)


def test_draws_do_not_depend_on_the_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    target = model()
    x = target.sample(30, CounterRandomness(0))
    known = torch.zeros(x.shape, dtype=torch.bool)
    known[::2, 2] = True
    known[:, 4] = True
    law = target.marginals(x, (~known).double())
    whole = law.sample_where(CounterRandomness(1), ~known)
    monkeypatch.setattr(state_entries, "TILE", 16)
    parts = law.sample_where(CounterRandomness(1), ~known)
    assert torch.equal(whole[~known], parts[~known])


def test_draws_have_the_law() -> None:
    # One known token; frequencies of each other token against the probabilities, by chi-square.
    target, n = model(), 40_000
    x = torch.full((n, 5), 2)
    known = torch.tensor([False, False, True, False, False]).expand(n, -1)
    law = target.marginals(x, (~known).double())
    draws = law.sample(CounterRandomness(3))
    assert bool((draws[:, 2] == 2).all())
    for token in (0, 1, 3, 4):
        counts = draws[:, token].bincount(minlength=4).double()
        expected = by_enumeration(target, x[0], known[0])[token] * n
        assert float(((counts - expected) ** 2 / expected).sum()) < 16.3  # 0.1% of chi-square(3)


@pytest.mark.parametrize(
    ("states", "symbols", "rows"),
    # Tables of 64 x 65,536 numbers fit 4 times into HELD; posteriors of 2 states far more often.
    [(2, 1 << 16, 16), (1 << 12, 4, 64)],
)
def test_rows_at_once_follow_from_states_and_symbols(states: int, symbols: int, rows: int) -> None:
    even = torch.full((states,), 1 / states).double()
    target = HiddenMarkov(
        even,
        even.expand(states, states),
        torch.full((states, symbols), 1 / symbols).double(),
        tokens=64,
    )
    assert target.rows_at_once == rows
    assert HELD // (64 * max(states, symbols)) == min(rows, 4 if symbols > states else 64)


def test_impossible_known_tokens_give_the_marginals() -> None:
    start = torch.tensor([[0, 3, 0, 3, 0]])
    sure = HiddenMarkov(
        torch.tensor([1.0, 0.0, 0.0]).double(),
        torch.eye(3).double(),
        torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0.5, 0.5]]).double(),
        tokens=5,
    )
    known = torch.tensor([[False, True, False, False, False]])
    law = sure.marginals(start, (~known).double())
    torch.testing.assert_close(law.mean()[0, 0], sure.spec.mean[0])
    torch.testing.assert_close(
        law.log_prob(torch.zeros_like(start))[0, 0].exp(), sure.spec.mean[0, 0]
    )


def many_symbols() -> tuple[HiddenMarkov, Tensor, Tensor]:
    """Five states, 200 symbols, and which of 12 tokens of 50 rows are known."""
    rng = torch.Generator().manual_seed(3)
    transition = torch.rand((5, 5), dtype=torch.float64, generator=rng) ** 8
    emission = torch.rand((5, 200), dtype=torch.float64, generator=rng) ** 20
    laws = [p / p.sum(-1, keepdim=True) for p in (transition[0], transition, emission)]
    target = HiddenMarkov(*laws, tokens=12)
    x = target.sample(50, CounterRandomness(0))
    return target, x, torch.rand(x.shape, generator=rng) < 0.5


@pytest.mark.parametrize("most", [1, 3, 12])
@pytest.mark.parametrize("least", [0.2, float("inf")])
def test_largest_probabilities_are_exact_where_they_count(most: int, least: float) -> None:
    target, x, known = many_symbols()
    law = target.marginals(x, (~known).double())
    exact = torch.where(known, 0, law.mean().amax(-1))
    found = law.peaks_where(~known, most=most, least=least)
    ranks = exact.argsort(dim=1, descending=True).argsort(1)
    counts = ~known & ((ranks < most) | (exact >= least))
    torch.testing.assert_close(found[counts], exact[counts], atol=1e-15, rtol=0)
    assert bool((found >= exact - 1e-15).all())
    last = torch.where(counts, found, torch.inf).amin(1, keepdim=True)
    rest = ~known & ~counts
    assert bool((found < last)[rest].all())  # a bound never passes for one that counts


@pytest.mark.parametrize("most", [1, 3, 12])
@pytest.mark.parametrize("least", [0.05, 0.2, float("inf")])
@pytest.mark.parametrize("tied", [False, True])
def test_bounds_leave_it_open_in_what_order_but_not_which(
    most: int, least: float, tied: bool
) -> None:
    target, x, known = many_symbols()
    if tied:  # rows in which nothing is known: far from the start all tokens are nearly alike
        known = torch.zeros_like(known)
    law = target.marginals(x, (~known).double())
    exact = torch.where(known, 0, law.mean().amax(-1))
    found = law.peaks_where(~known, most=most, least=least, ordered=False)
    passing = ~known & (exact >= least)
    assert torch.equal(~known & (found >= least), passing)
    none_passes = ~passing.any(1)
    first = (ranked(found, ~known) < most) & ~known
    expected = (ranked(exact, ~known) < most) & ~known
    assert torch.equal(first[none_passes], expected[none_passes])
    assert bool((found[known] == 0).all())


def test_bounds_save_most_laws_and_a_wrong_bound_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    target, x, known = many_symbols()
    exact = torch.where(known, 0, target.marginals(x, (~known).double()).mean().amax(-1))
    asked = 0
    laws = state_entries.StateEntries.laws

    def counted(self: state_entries.StateEntries, rows: Tensor, tokens: Tensor) -> Tensor:
        nonlocal asked
        asked += len(rows)
        return laws(self, rows, tokens)

    monkeypatch.setattr(state_entries.StateEntries, "laws", counted)
    target.marginals(x, (~known).double()).peaks_where(~known, most=1, least=2.0)
    assert asked < 0.7 * int((~known).sum())
    asked = 0
    target.marginals(x, (~known).double()).peaks_where(~known, most=1, least=2.0, ordered=False)
    assert asked < 0.2 * int((~known).sum())
    # The twin: small numbers that fall where the bounds rise.
    bounds = state_entries.StateEntries._bounds

    def falling(*args: Any) -> tuple[Tensor, Tensor]:
        low, high = bounds(*args)
        return 1e-3 * (1 - high), 1e-3 * (1 - low)

    monkeypatch.setattr(state_entries.StateEntries, "_bounds", falling)
    found = target.marginals(x, (~known).double()).peaks_where(~known, most=1, least=2.0)
    assert not torch.allclose(found.amax(1), exact.amax(1))


def test_after_a_prefix_the_largest_probabilities_are_the_same() -> None:
    target, x, known = many_symbols()
    known = torch.arange(12).expand_as(known) < 5
    law = target.marginals(x, (~known).double())
    exact = torch.where(known, 0, law.mean().amax(-1))
    found = law.peaks_where(~known, most=7, least=2.0)
    torch.testing.assert_close(found, exact, atol=1e-14, rtol=0)
    torch.testing.assert_close(law.select([5]).mean(), law.mean()[:, [5]])
