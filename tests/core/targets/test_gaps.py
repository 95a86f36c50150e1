"""Conditionals of Markov chains by gaps, against enumeration and against the recursion."""

from __future__ import annotations

import gc
import itertools
import pickle
import weakref

import pytest
import torch
from scipy import stats
from torch import Tensor

from capcheck.core.randomness import CounterRandomness
from capcheck.laws import Categorical
from capcheck.targets.categorical import gaps
from capcheck.targets.categorical.gaps import GapLaws
from capcheck.targets.categorical.markov_chain import MarkovChain

N, V = 5, 3


def chain(tokens: int = N, symbols: int = V) -> MarkovChain:
    draws = CounterRandomness(12)
    first = draws.uniform((symbols,)) + 0.1
    transition = draws.uniform((symbols, symbols)) ** 3 + 1e-3
    return MarkovChain(
        [first / first.sum(), transition / transition.sum(1, keepdim=True)], tokens=tokens
    )


def by_enumeration(target: MarkovChain, x: Tensor, known: list[int], token: int) -> Tensor:
    law = torch.zeros(V).double()
    first, transition = target.conditionals
    for values in itertools.product(range(V), repeat=N):
        if all(values[i] == int(x[i]) for i in known):
            p = float(first[values[0]])
            for a, b in itertools.pairwise(values):
                p *= float(transition[a, b])
            law[values[token]] += p
    return law / law.sum()


@pytest.mark.parametrize("causal", [False, True])
def test_laws_are_those_of_enumeration(causal: bool) -> None:
    target = chain()
    x = target.sample(32, CounterRandomness(1))
    known = (torch.arange(32)[:, None] >> torch.arange(N)) % 2 == 1  # all sets of known tokens
    law = target.marginals(x, (~known).double(), causal=causal)
    assert isinstance(law, GapLaws)
    table = law.mean()
    everything = torch.stack([law.log_prob(torch.full_like(x, v)) for v in range(V)], 2).exp()
    torch.testing.assert_close(everything, table, atol=1e-12, rtol=1e-10)
    for row, token in itertools.product(range(32), range(N)):
        seen = [i for i in range(N) if known[row, i] and (not causal or i < token)]
        expected = by_enumeration(target, x[row], seen, token)
        torch.testing.assert_close(table[row, token], expected, atol=1e-12, rtol=1e-10)


def test_long_chains_agree_with_the_recursion(monkeypatch: pytest.MonkeyPatch) -> None:
    target = chain(60, 7)
    x = target.sample(20, CounterRandomness(2))
    levels = (CounterRandomness(3).uniform((20, 60)) < 0.9).double()
    law = target.marginals(x, levels)
    assert isinstance(law, GapLaws)
    monkeypatch.setattr(gaps, "HELD", 0)
    other = chain(60, 7).marginals(x, levels)
    assert not isinstance(other, GapLaws)
    torch.testing.assert_close(law.mean(), other.mean(), atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(law.log_prob(x), other.log_prob(x), atol=1e-10, rtol=1e-9)
    index = torch.randint(60, (20,), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(law.pick(index).mean(), other.pick(index).mean())


def test_chosen_draws_are_those_of_the_whole() -> None:
    target = chain(12, 4)
    x = target.sample(50, CounterRandomness(2))
    uniform = CounterRandomness(3).uniform((50, 12))
    law = target.marginals(x, (uniform < 0.5).double())
    chosen = uniform < 0.3
    whole = law.sample(CounterRandomness(4))
    some = law.sample_where(CounterRandomness(4), chosen)
    assert torch.equal(some[chosen], whole[chosen])
    told = law.log_prob_where(whole, chosen)
    torch.testing.assert_close(told[chosen], law.log_prob(whole)[chosen])
    assert bool((told[~chosen] == 0).all())


def test_one_token_per_round_in_random_order_draws_the_chain() -> None:
    target, n = chain(), 20_000
    rng = CounterRandomness(5)
    rank = rng.uniform((n, N)).argsort(1).argsort(1)
    x = torch.zeros(n, N, dtype=torch.int64)
    for place in range(N):
        law = target.marginals(x, (rank >= place).double())
        x = torch.where(rank == place, law.sample_where(rng, rank == place), x)
    codes = (x * V ** torch.arange(N)).sum(1)
    every = torch.tensor(list(itertools.product(range(V), repeat=N)))
    expected = torch.zeros(V**N).double()
    expected[(every * V ** torch.arange(N)).sum(1)] = target.log_prob(every).exp()
    counts = torch.bincount(codes, minlength=V**N)
    likely = expected * n > 5
    rest = 1 - expected[likely].sum()
    observed = [*counts[likely].tolist(), n - int(counts[likely].sum())]
    assert (
        stats.chisquare(observed, [*(expected[likely] * n).tolist(), float(rest) * n]).pvalue > 1e-4
    )


@pytest.mark.parametrize("token", range(N))
def test_values_of_one_token_have_the_joint_log_probability(token: int) -> None:
    target = chain()
    x = target.sample(20, CounterRandomness(7))
    found = target.log_prob_of_values(x, token)
    assert found is not None
    for value in range(V):
        changed = x.clone()
        changed[:, token] = value
        torch.testing.assert_close(found[:, value], target.log_prob(changed))
        first, transition = target.conditionals
        plainly = first[changed[:, 0]].log()
        for i in range(1, N):
            plainly = plainly + transition[changed[:, i - 1], changed[:, i]].log()
        torch.testing.assert_close(found[:, value], plainly)


def test_powers_are_made_as_far_as_gaps_reach_and_stay_behind_in_a_copy() -> None:
    target = chain(40, 6)
    x = target.sample(10, CounterRandomness(8))
    size = len(pickle.dumps(target))
    known = (torch.arange(40) < 30).expand(10, 40)
    law = target.marginals(x, (~known).double())
    assert isinstance(law, GapLaws)
    law.select([30]).log_prob(x[:, [30]])
    powers = target._powers
    assert powers is not None
    assert powers._last == 1  # the next token needs no higher power
    expected = target.conditionals[1]
    for gap in range(1, 12):
        found = powers.onward(torch.tensor([gap]), torch.tensor([2]))[0]
        torch.testing.assert_close(found, torch.linalg.matrix_power(expected, gap)[2])
    far = powers.onward(torch.tensor([40]), torch.tensor([2]))[0]
    torch.testing.assert_close(far, torch.linalg.matrix_power(expected, 40)[2])
    assert len(pickle.dumps(target)) < size + 4 * expected.numel() * 8 + 40 * 6 * 8 * 4


def test_a_law_with_its_table_is_freed_at_once() -> None:
    target = chain(12, 5)
    x = target.sample(20, CounterRandomness(8))
    gc.disable()  # what refers to itself would wait for it
    try:
        law = target.marginals(x, torch.ones(20, 12).double())
        law.mean()
        law.sample(CounterRandomness(9))
        alive = weakref.ref(law)
        del law
        assert alive() is None
    finally:
        gc.enable()


def test_draws_are_those_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    target = chain(12, 5)
    x = target.sample(200, CounterRandomness(8))
    levels = (CounterRandomness(3).uniform((200, 12)) < 0.5).double()
    for causal in (False, True):
        law = target.marginals(x, levels, causal=causal)
        table = Categorical(law.mean().log())
        assert torch.equal(law.sample(CounterRandomness(9)), table.sample(CounterRandomness(9)))
        whole = law.sample(CounterRandomness(9))
        with monkeypatch.context() as patch:
            patch.setattr(gaps, "TILE", 5 * 7)  # seven entries at once
            assert torch.equal(law.sample(CounterRandomness(9)), whole)
