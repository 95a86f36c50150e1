"""Improbable tokens are those of enumeration, and rare in the target's own draws."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.randomness import CounterRandomness
from capcheck.diagnostics import improbable
from capcheck.diagnostics.improbable import LEVEL, improbable_tokens
from capcheck.diagnostics.qualities import WORK
from capcheck.targets import CategoricalMixture, HiddenMarkov, MarkovChain, from_spec
from capcheck.targets.target import CategoricalTarget, Target


def law(*shape: int, zeros: bool = False, seed: int = 0) -> Tensor:
    """Random laws over the last axis, most of whose entries are small, and some of them 0."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(shape[-1], 0.15), size=shape[:-1]).reshape(shape)
    if zeros:
        p[p < 1e-3] = 0
    return torch.from_numpy(p / p.sum(-1, keepdims=True))


def chain(order: int, *, zeros: bool = False) -> MarkovChain:
    V = 4
    tables = [law(*(V,) * (j + 1), zeros=zeros, seed=3 + j) for j in range(order + 1)]
    return MarkovChain(tables, tokens=5)


TARGETS: dict[str, CategoricalTarget] = {
    "chain of order 1": chain(1),
    "chain of order 1 with zeros": chain(1, zeros=True),
    "chain of order 2 with zeros": chain(2, zeros=True),
    "hidden Markov model": HiddenMarkov(law(3), law(3, 3), law(3, 4), tokens=5),
    "mixture": CategoricalMixture(law(2, 5, 4, zeros=True)),
}


def by_enumeration(target: Target) -> dict[tuple[int, ...], tuple[int, ...]]:
    """The places of the improbable tokens of every sequence, from probabilities of whole ones."""
    N, V = target.spec.tokens, target.spec.dim
    listed = list(itertools.product(range(V), repeat=N))
    joint = dict(zip(listed, target.log_prob(torch.tensor(listed)).exp().tolist(), strict=True))
    of_prefix: dict[tuple[int, ...], float] = {}
    for x, p in joint.items():
        for i in range(N + 1):
            of_prefix[x[:i]] = of_prefix.get(x[:i], 0.0) + p
    found = {}
    for x in listed:
        marked = []
        for i in range(N):
            if of_prefix[x[:i]] == 0:
                break
            own = of_prefix[x[: i + 1]]
            others = (of_prefix[(*x[:i], v)] for v in range(V))
            tail = math.fsum(p for p in others if p <= own * (1 + 1e-7)) / of_prefix[x[:i]]
            if tail < LEVEL:
                marked.append(i)
        found[x] = tuple(marked)
    return found


@pytest.mark.parametrize("name", TARGETS)
def test_the_marks_are_those_of_enumeration(name: str) -> None:
    target = TARGETS[name]
    expected = by_enumeration(target)
    listed = torch.tensor(list(expected))  # (1024, 5)
    found = improbable_tokens(target, listed)
    assert found == tuple(expected.values())
    assert any(found)
    assert not all(found)


def test_a_broken_conditional_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: without the tokens before it, a token's law is another one."""
    target = TARGETS["chain of order 1"]
    expected = by_enumeration(target)
    given_all = MarkovChain.marginals

    def unconditional(self, x, levels, causal):  # type: ignore[no-untyped-def]
        return given_all(self, x, torch.ones_like(levels), causal=causal)

    monkeypatch.setattr(MarkovChain, "marginals", unconditional)
    found = improbable_tokens(target, torch.tensor(list(expected)))
    assert found != tuple(expected.values())


def test_an_impossible_token_is_marked_and_those_after_it_are_not() -> None:
    # Two bits of even parity with a third one that is their sum: 0 0 0, 0 1 1, 1 0 1 and 1 1 0.
    target = from_spec("parity:3")
    x = torch.tensor([[0, 1, 1], [0, 1, 0], [1, 1, 1]])
    assert improbable_tokens(target, x) == ((), (2,), (2,))
    # A chain that never leaves its first symbol: the second token is impossible, and then anything.
    stays = MarkovChain([torch.tensor([0.5, 0.5]), torch.eye(2)], tokens=4)
    x = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 1]])
    assert improbable_tokens(stays, x) == ((), (1,))


def test_the_share_in_the_own_draws_is_at_most_the_level() -> None:
    # 1,000 symbols, of which 999 share 0.0009: the sum over them is below the level.
    p = torch.full((1000,), 0.0009 / 999, dtype=torch.float64)
    p[7] = 0.9991
    rare = CategoricalMixture(p.expand(1, 20, 1000).clone())
    x = rare.sample(200, CounterRandomness(2))
    found = improbable_tokens(rare, x)
    assert found is not None
    # 4,000 tokens, each with a probability of 0.0009: 3.6 are expected, above 12 in 1 of 10,000.
    assert 0 < sum(map(len, found)) <= 12
    assert [len(marks) for marks in found] == (x != 7).sum(1).tolist()
    # Among 1,000 equally likely symbols none is improbable, though each has probability 0.001.
    uniform = CategoricalMixture(torch.full((1, 5, 1000), 1e-3, dtype=torch.float64))
    assert not any(improbable_tokens(uniform, uniform.sample(50, CounterRandomness(1))) or ((0,),))


def test_unknown_is_none() -> None:
    numbers = from_spec("modes:tokens=2")
    assert improbable_tokens(numbers, numbers.sample(3, CounterRandomness(1))) is None
    assert improbable_tokens(chain(1), torch.empty((0, 5), dtype=torch.int64)) is None
    with pytest.raises(InputError, match="must have shape"):
        improbable_tokens(chain(1), torch.zeros((2, 4), dtype=torch.int64))


def test_costly_conditionals_are_computed_for_fewer_sequences(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target, x = chain(1), chain(1).sample(20, CounterRandomness(1))
    whole = improbable_tokens(target, x)
    assert whole is not None
    assert len(whole) == 20
    monkeypatch.setattr(improbable, "conditional_work", lambda _: WORK / 7.5)
    assert improbable_tokens(target, x) == whole[:7]
    monkeypatch.setattr(improbable, "conditional_work", lambda _: 2 * WORK)
    assert improbable_tokens(target, x) is None
