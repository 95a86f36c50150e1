"""Parallel unmasking against brute force over rounds and orders."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from reference.mixtures import Mixture
from scipy import stats

from capcheck import check
from capcheck.budget import Budget
from capcheck.laws import Categorical, TokenLaw
from capcheck.probe import LogDensity
from capcheck.probes.length import maskgit as module
from capcheck.probes.length.maskgit import MaskGIT
from capcheck.randomness import CounterRandomness
from capcheck.registry import build_probe
from capcheck.sequences import SequenceSpec
from capcheck.targets import ProductMixture


def reference_of(target: ProductMixture, weights: np.ndarray) -> Mixture:
    return Mixture(target.means[..., 0].numpy(), target.scales[:, 0].numpy(), weights)


def log_marginal(reference: Mixture, x: np.ndarray, tokens: tuple[int, ...]) -> float:
    N = len(x)
    return float(np.log(reference.evidence(x, np.ones(N), np.zeros(N), tokens).sum()))


def log_q_of_blocks(reference: Mixture, x: np.ndarray, blocks: list[tuple[int, ...]]) -> float:
    """log-density when every block is drawn independently given the blocks before it."""
    known: tuple[int, ...] = ()
    total = 0.0
    for block in blocks:
        context = log_marginal(reference, x, known)
        total += sum(log_marginal(reference, x, (*known, i)) - context for i in block)
        known = (*known, *block)
    return total


def log_q(target: ProductMixture, x: torch.Tensor, length: int, **options: str) -> LogDensity:
    probe = build_probe("maskgit", options)
    oracle = probe.signature.oracle(target)
    budget = Budget(length=length, steps=1)
    found = probe.log_density(oracle, oracle, target.spec, budget, x, CounterRandomness(0))
    assert isinstance(found, LogDensity)
    return found


def test_the_cosine_schedule_is_that_of_the_paper() -> None:
    # floor(8 cos(pi r / 8)) = 7, 5, 3, 0 tokens are left masked after rounds 1..4.
    assert MaskGIT().schedule(8) == [0, 1, 3, 5, 8]
    assert MaskGIT(rounds=1).schedule(8) == [0, 8]
    assert MaskGIT(rounds=100).schedule(3) == [0, 1, 2, 3]
    assert MaskGIT(tokens_per_round=3).schedule(8) == [0, 3, 6, 8]


def test_fixed_order_costs_the_total_correlation_of_its_rounds(digits: ProductMixture) -> None:
    options = {"order": "fixed", "tokens_per_round": 4}
    result = check("maskgit", digits, options=options, samples=300, lengths=[8], steps=[1])
    rows = digits.sample(300, CounterRandomness(0, name="target"))[..., 0].numpy()
    reference = reference_of(digits, np.ones(len(digits.means)))
    rounds: list[list[float]] = [[], []]
    for x in rows:
        for r, (known, block) in enumerate([((), (0, 1, 2, 3)), ((0, 1, 2, 3), (4, 5, 6, 7))]):
            context = log_marginal(reference, x, known)
            together = log_marginal(reference, x, (*known, *block)) - context
            apart = sum(log_marginal(reference, x, (*known, i)) - context for i in block)
            rounds[r].append(together - apart)
    kl = result.cells[0].estimates["kl"]
    assert kl.value == pytest.approx(np.mean(rounds[0]) + np.mean(rounds[1]), abs=1e-9)
    assert kl.value is not None
    assert kl.value > 0.1
    assert result.cells[0].model_calls == 2
    one = check(
        "maskgit",
        digits,
        options={"order": "fixed", "tokens_per_round": 1},
        samples=300,
        lengths=[8],
        steps=[1],
    )
    assert one.cells[0].estimates["kl"].value == 0
    assert one.cells[0].model_calls == 8


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4])
def test_random_order_is_the_mixture_over_all_orders(length: int) -> None:
    generator = np.random.default_rng(0)
    weights = np.array([0.3, 0.7])
    target = ProductMixture(
        torch.tensor(generator.normal(size=(2, 4, 1)) * 2),
        torch.full((4, 1), 0.7, dtype=torch.float64),
        torch.tensor(weights),
    )
    x = target.sample(6, CounterRandomness(1))
    cuts = sorted({0, min(2, length), length, 4})
    expected = []
    for row in x[..., 0].numpy():
        each = []
        for order in itertools.permutations(range(4)):
            blocks = [order[a:b] for a, b in itertools.pairwise(cuts)]
            each.append(log_q_of_blocks(reference_of(target, weights), row, blocks))
        expected.append(np.logaddexp.reduce(each) - math.log(24))
    found = log_q(target, x, length, tokens_per_round="2")
    assert found.values.tolist() == pytest.approx(expected, abs=1e-9)
    assert not found.bound


def test_where_orders_cannot_be_summed_the_mean_over_them_bounds_kl_from_above(
    digits: ProductMixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = digits.sample(400, CounterRandomness(0, name="target"))
    mixture = log_q(digits, x, 8)
    monkeypatch.setattr(module, "ENUMERATED_CALLS", 0)
    bound = log_q(digits, x, 8)
    assert bound.bound
    assert bound.values.mean() < mixture.values.mean()


def test_random_order_is_exact_at_one_token_per_round(digits: ProductMixture) -> None:
    x = digits.sample(20, CounterRandomness(0))
    found = log_q(digits, x, 8, tokens_per_round="1")
    assert (found.values - digits.log_prob(x)).abs().max() < 1e-9


def test_confidence_order_is_biased_even_for_independent_tokens() -> None:
    # i.i.d. Bernoulli(p), one per round: the expected number of ones is sum_{m=1..N} p^m.
    p, N, n = 0.3, 4, 20_000
    zeros = torch.zeros(N, 2, dtype=torch.float64)
    spec = SequenceSpec(tokens=N, kind="categorical", dim=2, mean=zeros, variance=zeros)

    def bernoulli(tokens: torch.Tensor, known: torch.Tensor) -> TokenLaw:
        return Categorical(torch.tensor([1 - p, p]).double().log().expand(*tokens.shape, 2))

    probe = build_probe("maskgit", {"order": "confidence", "tokens_per_round": 1})
    *_, last = probe.run(bernoulli, spec, Budget(length=N, steps=1), n, CounterRandomness(0))
    ones = last.tokens.sum(1).double()
    expected = sum(p**m for m in range(1, N + 1))
    assert abs(ones.mean() - expected) < 4 * ones.std() / math.sqrt(n)
    assert abs(ones.mean() - N * p) > 20 * ones.std() / math.sqrt(n)


def test_a_cut_round_commits_only_what_the_budget_allows(three: ProductMixture) -> None:
    for order in ("random", "fixed", "confidence"):
        probe = build_probe("maskgit", {"order": order, "rounds": 1})
        network = probe.signature.oracle(three)
        *_, last = probe.run(
            network, three.spec, Budget(length=2, steps=1), 30, CounterRandomness(0)
        )
        assert last.placed.sum(1).tolist() == [2] * 30


def test_temperature_moves_confidence_order_towards_random(three: ProductMixture) -> None:
    def first_committed(temperature: str) -> np.ndarray:
        options = {"order": "confidence", "tokens_per_round": 1, "temperature": temperature}
        probe = build_probe("maskgit", options)
        states = list(
            probe.run(
                probe.signature.oracle(three),
                three.spec,
                Budget(length=3, steps=1),
                3000,
                CounterRandomness(0),
            )
        )
        return states[1].written.sum(0).numpy()

    assert stats.chisquare(first_committed("0")).pvalue < 1e-6
    assert stats.chisquare(first_committed("1e6")).pvalue > 1e-3
