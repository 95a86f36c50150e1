"""Draft, verify and accept against enumeration, quadrature and closed forms."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from reference.mixtures import Mixture
from reference.sequences import Sequences, weighed

from capcheck import check
from capcheck.core.budget import Budget
from capcheck.core.errors import InputError
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness
from capcheck.core.sequences import SequenceSpec
from capcheck.exact.enumeration import Route, sampled_law
from capcheck.laws import Categorical, TokenLaw
from capcheck.networks.signatures import TokenPredictorSignature
from capcheck.probes.length_outer import blockwise as module
from capcheck.probes.length_outer.blockwise import Blockwise
from capcheck.procedures.registry import build_probe
from capcheck.targets import ProductMixture, from_table
from capcheck.targets.categorical.sequence_law import SequenceLaw

Array = NDArray[np.float64]
Symbols = tuple[int, ...]


def table(N: int, V: int, seed: int = 0) -> Array:
    weights = np.random.default_rng(seed).exponential(size=(V,) * N) ** 2
    p: Array = weights / weights.sum()
    return p


def law_of(
    p: Array, block: int, length: int, k: int, route: Route, rule: str = "lossless"
) -> Array:
    target = from_table(torch.tensor(p))
    probe = build_probe("blockwise", {"block": block, "rule": rule})
    law = sampled_law(
        probe,
        probe.signature.oracle(target),
        completion=TokenPredictorSignature().oracle(target),
        spec=target.spec,
        budget=Budget(length=length, steps=k),
        routes=(route,),
    )
    assert isinstance(law, SequenceLaw), law
    found: Array = law.probabilities.numpy().reshape(p.shape)
    return found


def rounds(
    law: Sequences, x: Symbols, end: int, k: int, stale: Symbols = ()
) -> Iterator[tuple[Symbols, float]]:
    """Every way to fill x up to `end` in at most k rounds, and its probability.

    Straight from the procedure: a draft, token after token accepted or replaced, and behind the
    first replacement the draft stays if no round is left.
    """
    j, V = len(x), law.vocabulary
    if j == end or k == 0:
        yield x + stale[: end - j], 1.0
        return
    known = np.array([*x, *[0] * (law.tokens - j)])
    q = [law.given(known, range(j), i) for i in range(j, end)]
    for draft in itertools.product(range(V), repeat=end - j):
        chance = math.prod(q_i[v] for q_i, v in zip(q, draft, strict=True))
        for i, v in enumerate(draft):
            if chance == 0:
                break
            known = np.array([*x, *draft[:i], *[0] * (law.tokens - j - i)])
            p = law.given(known, range(j + i), j + i)
            accepted = min(1.0, p[v] / q[i][v])
            excess = np.maximum(p - q[i], 0)
            if accepted < 1:
                for w in range(V):
                    refused = chance * (1 - accepted) * excess[w] / excess.sum()
                    if refused > 0:
                        prefix = (*x, *draft[:i], w)
                        for y, more in rounds(law, prefix, end, k - 1, draft[i + 1 :]):
                            yield y, refused * more
            chance *= accepted
        if chance > 0:
            yield x + draft, chance


def enumerated(p: Array, block: int, length: int, k: int) -> Array:
    """The law of the whole procedure, completed from exact marginals."""
    law = weighed(lambda x: float(p[x]), p.ndim, p.shape[0])
    reached: dict[Symbols, float] = {(): 1.0}
    for start in range(0, length, block):
        after: dict[Symbols, float] = defaultdict(float)
        for x, chance in reached.items():
            for y, more in rounds(law, x, min(start + block, length), k):
                after[y] += chance * more
        reached = after
    found = np.zeros_like(p)
    for x, chance in reached.items():
        known = np.array([*x, *[0] * (p.ndim - length)])
        rest = [law.given(known, range(length), i) for i in range(length, p.ndim)]
        for y in itertools.product(range(p.shape[0]), repeat=p.ndim - length):
            found[(*x, *y)] += chance * math.prod(r[v] for r, v in zip(rest, y, strict=True))
    return found


@pytest.mark.parametrize(
    ("N", "V", "block", "length", "k"),
    [
        (3, 2, 3, 3, 1),
        (4, 2, 4, 4, 1),
        (4, 2, 4, 4, 2),
        (4, 2, 4, 3, 1),
        (4, 2, 3, 4, 1),
        (3, 3, 3, 3, 1),
        (5, 2, 5, 5, 2),
    ],
)
def test_the_density_is_the_law_of_the_procedure(
    N: int, V: int, block: int, length: int, k: int
) -> None:
    p = table(N, V)
    expected = enumerated(p, block, length, k)
    assert expected.sum() == pytest.approx(1, abs=1e-12)
    assert np.abs(law_of(p, block, length, k, "density") - expected).max() < 1e-12
    if k < -(-block // 2):  # and blocks of 2 are another law, the exact one
        assert np.abs(enumerated(p, 2, length, k) - expected).max() > 1e-4


@pytest.mark.parametrize(
    ("N", "V", "block", "length", "k"),
    [(3, 2, 3, 3, 1), (4, 2, 4, 4, 1), (4, 2, 4, 4, 2), (4, 2, 3, 3, 1), (3, 3, 3, 3, 1)],
)
def test_a_branching_run_has_the_density(N: int, V: int, block: int, length: int, k: int) -> None:
    p = table(N, V, seed=1)
    run = law_of(p, block, length, k, "branching")
    assert np.abs(run - law_of(p, block, length, k, "density")).max() < 1e-9
    # A round more is another law, unless all rounds that can be needed were made.
    if k < -(-block // 2):
        assert np.abs(run - law_of(p, block, length, k + 1, "density")).max() > 1e-4


@pytest.mark.parametrize("block", [1, 2, 3, 4, 5])
def test_half_a_block_of_rounds_is_exact(block: int) -> None:
    p = table(5, 2, seed=2)
    enough = -(-block // 2)
    assert np.abs(law_of(p, block, 5, enough, "density") - p).max() < 1e-12
    assert np.abs(law_of(p, block, 5, 100, "density") - p).max() < 1e-12
    if enough > 1:
        assert np.abs(law_of(p, block, 5, enough - 1, "density") - p).max() > 1e-3


def test_constrained_laws_have_zeros_and_no_nan() -> None:
    p = np.zeros((2, 2, 2, 2))
    for x in itertools.product(range(2), repeat=4):
        p[x] = (sum(x) % 2 == 0) / 8
    for k in (1, 2):
        found = law_of(p, 4, 4, k, "density")
        assert np.abs(found - enumerated(p, 4, 4, k)).max() < 1e-12
        assert np.abs(found - law_of(p, 4, 4, k, "branching")).max() < 1e-12


def reference_of(target: ProductMixture) -> Mixture:
    weights = np.array([0.2, 0.5, 0.3])
    return Mixture(target.means[..., 0].numpy(), target.scales[:, 0].numpy(), weights)


def marginal(reference: Mixture, x: Array, tokens: list[int]) -> Array:
    """Joint density of some tokens at x (n, N), from explicit component densities."""
    density = np.ones((len(x), len(reference.weights))) * reference.weights
    for i in tokens:
        s = reference.scales[i]
        z = (x[:, [i]] - reference.means[:, i]) / s
        density = density * np.exp(-0.5 * z**2) / (s * math.sqrt(2 * math.pi))
    total: Array = density.sum(1)
    return total


def one_round(reference: Mixture, x: Array) -> Array:
    """p_1 [min(p_2, q_2) p_3 + (p_2 - q_2)_+ q_3]: what one round on three tokens leaves.

    The third token is exact where the second draft was accepted, and a stale draft where not.
    """
    p1 = marginal(reference, x, [0])
    p2 = marginal(reference, x, [0, 1]) / p1
    p3 = marginal(reference, x, [0, 1, 2]) / (p1 * p2)
    q2, q3 = marginal(reference, x, [1]), marginal(reference, x, [2])
    density: Array = p1 * (np.minimum(p2, q2) * p3 + np.maximum(p2 - q2, 0) * q3)
    return density


def density(target: ProductMixture, x: torch.Tensor, block: int, k: int) -> torch.Tensor:
    probe = Blockwise(block=block)
    found = probe.log_density(
        probe.signature.oracle(target),
        TokenPredictorSignature().oracle(target),
        target.spec,
        Budget(length=target.spec.tokens, steps=k),
        x,
        CounterRandomness(0),
    )
    assert isinstance(found, LogDensity)
    assert not found.bound
    return found.values


def test_continuous_density_is_that_of_one_round(three: ProductMixture) -> None:
    x = three.sample(200, CounterRandomness(0))
    expected = np.log(one_round(reference_of(three), x[..., 0].numpy()))
    assert np.abs(density(three, x, 3, 1).numpy() - expected).max() < 1e-10
    exact = three.log_prob(x)
    assert (density(three, x, 3, 2) - exact).abs().max() < 1e-10
    assert (density(three, x, 3, 1) - exact).abs().max() > 0.05


def moments_by_quadrature(reference: Mixture) -> tuple[Array, float]:
    """E x_i x_j under one round's law, on a grid, and the law's mass."""
    axes = np.linspace(-6, 6, 97)
    x = np.stack(np.meshgrid(axes, axes, axes, indexing="ij"), -1).reshape(-1, 3)
    weight = one_round(reference, x) * (axes[1] - axes[0]) ** 3
    found: Array = (x * weight[:, None]).T @ x
    return found, float(weight.sum())


def sampled_moments(target: ProductMixture, n: int) -> tuple[Array, Array]:
    """Mean and standard error of x_i x_j over a run."""
    probe = Blockwise(block=3)
    network, budget = probe.signature.oracle(target), Budget(length=3, steps=1)
    *_, last = probe.run(network, target.spec, budget, n, CounterRandomness(0))
    x = last.tokens[..., 0].numpy()
    products = x[:, :, None] * x[:, None, :]
    return products.mean(0), products.std(0) / math.sqrt(n)


def test_continuous_samples_follow_the_density(
    three: ProductMixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, mass = moments_by_quadrature(reference_of(three))
    assert mass == pytest.approx(1, abs=1e-4)
    found, error = sampled_moments(three, 20_000)
    assert np.abs((found - expected) / error).max() < 4.5
    # One proposal from p, kept whatever it is, is not the residual.
    monkeypatch.setattr(module, "PROPOSALS", 1)
    monkeypatch.setattr(module, "TRIED", 1)
    found, error = sampled_moments(three, 20_000)
    assert np.abs((found - expected) / error).max() > 6


def test_accepted_drafts_make_a_geometric_sum() -> None:
    # Base law (1 - a, a) on {0, 1}, drafts always 1: each is accepted with probability a. The first
    # draft of a round is the base model's own token; g more are verified before the last place.
    a, b, n = 0.7, 6, 20_000
    zeros = torch.zeros(b, 2, dtype=torch.float64)
    spec = SequenceSpec(tokens=b, kind="categorical", dim=2, mean=zeros, variance=zeros)
    base, head = torch.tensor([1 - a, a]).double().log(), torch.tensor([-torch.inf, 0.0]).double()

    def network(tokens: torch.Tensor, known: torch.Tensor) -> TokenLaw:
        told = torch.cat([torch.ones_like(known[:, :1]), known[:, :-1]], 1)
        return Categorical(torch.where(told[..., None], base, head))

    states = list(
        Blockwise(block=b).run(network, spec, Budget(length=b, steps=2), n, CounterRandomness(0))
    )
    fixed = b - states[2].written.sum(1).double() - 1  # beyond the base model's token
    g = b - 2
    expected = (1 - a ** (g + 1)) / (1 - a)
    error = float(fixed.std()) / math.sqrt(n)
    assert abs(float(fixed.mean()) - expected) < 4 * error
    assert abs(float(fixed.mean()) - (1 - a**g) / (1 - a)) > 8 * error


def test_greedy_is_a_point_mass() -> None:
    p = table(4, 2, seed=3)
    best: Symbols = ()
    for _ in range(4):  # greedy decoding, by hand
        slices = [p[(*best, v)].sum() for v in range(2)]
        best = (*best, int(np.argmax(slices)))
    for route in ("density", "branching"):
        found = law_of(p, 4, 4, 2, route, rule="greedy")
        assert found[best] == pytest.approx(1)
        assert found.sum() == pytest.approx(1)
    result = check(
        "blockwise", from_table(torch.tensor(p)), options={"rule": "greedy"}, samples=200
    )
    assert result.cells[-1].estimates["kl"].value == math.inf
    lossless = check("blockwise", from_table(torch.tensor(p)), samples=200, lengths=[4], steps=[2])
    assert lossless.cells[-1].estimates["kl"].value == pytest.approx(0, abs=1e-12)


def test_greedy_needs_values_that_can_match(three: ProductMixture) -> None:
    probe = Blockwise(rule="greedy")
    network, budget = probe.signature.oracle(three), Budget(length=3, steps=1)
    with pytest.raises(InputError, match="rule=greedy needs categorical tokens"):
        next(probe.run(network, three.spec, budget, 2, CounterRandomness(0)))


def test_a_round_costs_a_draft_and_a_verification() -> None:
    p = table(5, 2)
    result = check(
        "blockwise", from_table(torch.tensor(p)), lengths=[0, 5], steps=[1, 2, 9], samples=200
    )
    # Blocks of 4 and 1 tokens: min(k, 2) and 1 rounds; without length only the completion.
    calls = {(c.budget.length, c.budget.steps): c.model_calls for c in result.cells}
    assert [calls[5, 1], calls[5, 2], calls[5, 9]] == [4, 6, 6]
    assert calls[0, 9] == 1


def test_rows_that_fill_a_block_sooner_do_not_wait_for_others(three: ProductMixture) -> None:
    probe = Blockwise(block=3)
    network, budget = probe.signature.oracle(three), Budget(length=3, steps=2)
    *_, many = probe.run(network, three.spec, budget, 60, CounterRandomness(5))
    *_, few = probe.run(network, three.spec, budget, 7, CounterRandomness(5, first_row=20))
    assert (few.tokens - many.tokens[20:27]).abs().max() < 1e-12


def test_suspects_switch_off_what_they_name() -> None:
    greedy, one = Blockwise(rule="greedy").suspects()
    assert (greedy.failure, greedy.probe) == ("limited emission", Blockwise())
    assert (one.failure, one.probe) == ("wrong factorisation", Blockwise(rule="greedy", block=1))
    assert Blockwise(block=1).suspects() == ()
