"""Draft, verify and accept against enumeration, quadrature and closed forms."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from networks import TablePredictor, law_of, law_of_run, table
from numpy.typing import NDArray
from reference.groups import covariance_of_groups, law_of_groups, probability, sequences
from reference.mixtures import Mixture
from reference.sequences import Sequences, weighed
from reference.speculation import all_accepted, expected_rounds, overlaps
from scipy import integrate, stats

from capcheck import check
from capcheck.core.budget import Budget
from capcheck.core.errors import UnfitError
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness
from capcheck.core.sequences import SequenceSpec
from capcheck.exact.enumeration import Route
from capcheck.laws import Categorical, TokenLaw
from capcheck.probes.length_outer.blockwise import Blockwise
from capcheck.procedures import residual as module
from capcheck.procedures.probe import State
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe
from capcheck.targets import GaussianMixture, ProductMixture, from_table

Array = NDArray[np.float64]
Symbols = tuple[int, ...]


def at_budget(
    p: Array, block: int, length: int, k: int, route: Route, rule: str = "lossless"
) -> Array:
    probe = build_probe("blockwise", {"block": block, "rule": rule})
    procedure = Procedure.of(probe, from_table(torch.tensor(p)))
    return law_of(procedure, Budget(length=length, steps=k), route)


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
    assert np.abs(at_budget(p, block, length, k, "density") - expected).max() < 1e-12
    if k < -(-block // 2):  # and blocks of 2 are another law, the exact one
        assert np.abs(enumerated(p, 2, length, k) - expected).max() > 1e-4


@pytest.mark.parametrize(
    ("N", "V", "block", "length", "k"),
    [(3, 2, 3, 3, 1), (4, 2, 4, 4, 1), (4, 2, 4, 4, 2), (4, 2, 3, 3, 1), (3, 3, 3, 3, 1)],
)
def test_a_branching_run_has_the_density(N: int, V: int, block: int, length: int, k: int) -> None:
    p = table(N, V, seed=1)
    run = at_budget(p, block, length, k, "branching")
    assert np.abs(run - at_budget(p, block, length, k, "density")).max() < 1e-9
    # A round more is another law, unless all rounds that can be needed were made.
    if k < -(-block // 2):
        assert np.abs(run - at_budget(p, block, length, k + 1, "density")).max() > 1e-4


@pytest.mark.parametrize("block", [1, 2, 3, 4, 5])
def test_half_a_block_of_rounds_is_exact(block: int) -> None:
    p = table(5, 2, seed=2)
    enough = -(-block // 2)
    assert np.abs(at_budget(p, block, 5, enough, "density") - p).max() < 1e-12
    assert np.abs(at_budget(p, block, 5, 100, "density") - p).max() < 1e-12
    if enough > 1:
        assert np.abs(at_budget(p, block, 5, enough - 1, "density") - p).max() > 1e-3


def test_constrained_laws_have_zeros_and_no_nan() -> None:
    p = np.zeros((2, 2, 2, 2))
    for x in itertools.product(range(2), repeat=4):
        p[x] = (sum(x) % 2 == 0) / 8
    for k in (1, 2):
        found = at_budget(p, 4, 4, k, "density")
        assert np.abs(found - enumerated(p, 4, 4, k)).max() < 1e-12
        assert np.abs(found - at_budget(p, 4, 4, k, "branching")).max() < 1e-12


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
    budget = Budget(length=target.spec.tokens, steps=k)
    procedure = Procedure.of(Blockwise(block=block), target)
    found = procedure.log_density(budget, x, CounterRandomness(0))
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
    procedure, budget = Procedure.of(Blockwise(block=3), target), Budget(length=3, steps=1)
    x = procedure.sample(budget, n, CounterRandomness(0))[..., 0].numpy()
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

    budget, start = Budget(length=b, steps=2), State.blank(spec, n)
    states = list(Blockwise(block=b).run(network, spec, budget, start, CounterRandomness(0)))
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
        found = at_budget(p, 4, 4, 2, route, rule="greedy")
        assert found[best] == pytest.approx(1)
        assert found.sum() == pytest.approx(1)
    result = check(
        "blockwise", from_table(torch.tensor(p)), options={"rule": "greedy"}, samples=200
    )
    assert result.cells[-1].estimates["kl"].value == math.inf
    lossless = check("blockwise", from_table(torch.tensor(p)), samples=200, lengths=[4], steps=[2])
    assert lossless.cells[-1].estimates["kl"].value == pytest.approx(0, abs=1e-12)


def test_greedy_needs_values_that_can_match(three: ProductMixture) -> None:
    procedure, budget = Procedure.of(Blockwise(rule="greedy"), three), Budget(length=3, steps=1)
    with pytest.raises(UnfitError, match="rule=greedy needs categorical tokens"):
        procedure.sample(budget, 2, CounterRandomness(0))
    x = three.sample(2, CounterRandomness(0))
    with pytest.raises(UnfitError, match="rule=greedy needs categorical tokens"):
        procedure.log_density(budget, x, CounterRandomness(0))


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
    procedure, budget = Procedure.of(Blockwise(block=3), three), Budget(length=3, steps=2)
    many = procedure.sample(budget, 60, CounterRandomness(5))
    few = procedure.sample(budget, 7, CounterRandomness(5, first_row=20))
    assert (few - many[20:27]).abs().max() < 1e-12


def test_suspects_switch_off_what_they_name() -> None:
    greedy, one = Blockwise(rule="greedy").suspects()
    assert (greedy.failure, greedy.probe) == ("limited emission", Blockwise())
    assert (one.failure, one.probe) == ("wrong factorisation", Blockwise(rule="greedy", block=1))
    assert Blockwise(block=1).suspects() == ()


def filled(
    q: Array, x: Symbols, block: list[int], k: int, stale: dict[int, int]
) -> Iterator[tuple[Symbols, float]]:
    """Every way to fill the tokens of a block in at most k rounds, and its probability.

    A draft sees what lies before its first token, the base model what lies before each token.

    Args:
        q: The network's table.
        x: All tokens; what follows the block, and what is not given in it, counts for nothing.
        block: The tokens that are to be filled, in rising order.
        k: Rounds that are left.
        stale: The draft of the last round, kept where none is left.
    """
    if not block or k == 0:
        yield tuple(stale[i] if i in block else v for i, v in enumerate(x)), 1.0
        return
    before = list(range(block[0]))
    for draft in itertools.product(range(q.shape[0]), repeat=len(block)):
        drafted = dict(zip(block, draft, strict=True))
        y = tuple(drafted.get(i, v) for i, v in enumerate(x))
        value = math.prod(probability(q, y, [i], before) for i in block)
        for number, i in enumerate(block):

            def laws(i: int = i, y: Symbols = y) -> Iterator[tuple[float, float]]:
                for v in range(q.shape[0]):
                    z = (*y[:i], v, *y[i + 1 :])
                    yield probability(q, z, [i], range(i)), probability(q, z, [i], before)

            base, heads = (np.array(side) for side in zip(*laws(), strict=True))
            excess = np.maximum(base - heads, 0)
            accepted = min(1.0, base[y[i]] / heads[y[i]])
            for w in range(q.shape[0]) if accepted < 1 - 1e-12 else ():
                refused = value * (1 - accepted) * excess[w] / excess.sum()
                z = (*y[:i], w, *y[i + 1 :])
                for done, more in filled(q, z, block[number + 1 :], k - 1, drafted):
                    yield done, refused * more
            value *= accepted
        yield y, value


@pytest.mark.parametrize("given", [(0,), (1,), (0, 3)])
@pytest.mark.parametrize("k", [1, 2])
def test_beside_given_tokens_a_wrong_network_makes_the_law_of_its_rounds(
    given: Symbols, k: int
) -> None:
    p, q, block, length = table(5, 2), table(5, 2, seed=1), 3, 3
    plain = Procedure.of(Blockwise(block=block), from_table(torch.tensor(p)), given=given)
    procedure = plain.with_network(TablePredictor(q, causal=True))
    budget = Budget(length=length, steps=k)
    placed = [i for i in range(5) if i not in given][:length]
    rest = [i for i in range(5) if i not in (*given, *placed)]
    filling: dict[Symbols, dict[Symbols, float]] = {}  # by the given values
    expected = np.zeros_like(p)
    for x in sequences(p):
        blank = tuple(v if i in given else 0 for i, v in enumerate(x))
        if blank not in filling:
            filling[blank] = defaultdict(float)
            for y, value in filled(q, blank, placed, k, {}):
                filling[blank][y] += value
        y = tuple(0 if i in rest else v for i, v in enumerate(x))
        ends = [probability(p, x, [i], [*given, *placed]) for i in rest]
        expected[x] = probability(p, x, given) * filling[blank][y] * math.prod(ends)
    assert expected.sum() == pytest.approx(1, abs=1e-12)
    assert np.abs(law_of(procedure, budget, "density") - expected).max() < 1e-12
    assert np.abs(law_of_run(procedure, budget, p) - expected).max() < 1e-9
    settled = law_of_groups(p, q, given, [([i], range(i)) for i in placed])
    assert (np.abs(expected - settled).max() < 1e-12) == (k == 2)


def test_beside_given_numbers_enough_rounds_are_the_regressions() -> None:
    C, Q = (r ** np.abs(np.subtract.outer(np.arange(5.0), np.arange(5.0))) for r in (0.8, -0.5))
    target, other = (
        GaussianMixture(torch.zeros(1, 5, 1).double(), torch.tensor(S)[None]) for S in (C, Q)
    )
    plain = Procedure.of(Blockwise(block=3), target, given=(1, 3))
    procedure = plain.with_network(plain.probe.signature.oracle(other))
    expected = covariance_of_groups(C, Q, (1, 3), [([i], list(range(i))) for i in (0, 2, 4)])
    normal = torch.distributions.MultivariateNormal(torch.zeros(5).double(), torch.tensor(expected))
    x = target.sample(50, CounterRandomness(0))
    found = {
        k: procedure.log_density(Budget(length=3, steps=k), x, CounterRandomness(0)).values  # type: ignore[union-attr]
        for k in (1, 2)
    }
    assert (found[2] - normal.log_prob(x[..., 0])).abs().max() < 1e-9
    assert (found[1] - found[2]).abs().max() > 0.01
    n = 20_000
    drawn = procedure.sample(Budget(length=3, steps=2), n, CounterRandomness(1))[..., 0].numpy()
    products = drawn[:, :, None] * drawn[:, None]
    error = products.std(0) / math.sqrt(n)
    assert np.abs((products.mean(0) - expected) / error).max() < 4.5
    assert np.abs((products.mean(0) - C) / error).max() > 20


@pytest.mark.parametrize(
    ("N", "V", "block"), [(3, 2, 3), (4, 2, 4), (5, 2, 5), (3, 3, 3), (5, 2, 3), (4, 2, 1)]
)
def test_acceptances_and_rounds_are_those_of_every_draft_written_out(
    N: int, V: int, block: int
) -> None:
    p, q = table(N, V, seed=4), table(N, V, seed=5)
    law = weighed(lambda x: float(q[x]), N, V)
    network, probe = TablePredictor(q, causal=True), Blockwise(block=block)
    spec = from_table(torch.tensor(p)).spec
    x = torch.tensor(list(sequences(q)))  # all of them, with their probabilities
    found = probe.speculation(network, spec, x)
    weight = torch.tensor(q.ravel())
    starts = range(0, N, block)
    rounds = sum(expected_rounds(law, i, min(i + block, N)) for i in starts)
    assert float(weight @ found.rounds) == pytest.approx(rounds, abs=1e-12)
    full = [i for i in starts if i + block <= N]
    reached = np.mean([all_accepted(law, i, i + block) for i in full], 0)
    assert (weight @ found.reached).tolist() == pytest.approx(reached.tolist(), abs=1e-12)
    kept = np.mean([overlaps(law, i, i + block) for i in full], 0)
    assert (weight @ found.kept).tolist() == pytest.approx(kept.tolist(), abs=1e-12)
    # Draws of another law than the base model's tell other numbers.
    if block > 2:
        assert abs(float(torch.tensor(p.ravel()) @ found.rounds) - rounds) > 1e-3


def rounds_made(procedure: Procedure[Any], budget: Budget, n: int) -> torch.Tensor:
    """The number of rounds of each row of a run, (n,)."""
    _, *states = procedure.run(budget, n, CounterRandomness(3))
    return torch.stack([state.written.any(1) for state in states]).sum(0).double()


@pytest.mark.parametrize("given", [(), (0,), (2,), (1, 4)])
def test_a_run_makes_the_expected_number_of_rounds(given: Symbols) -> None:
    p, q, n = table(6, 2, seed=6), table(6, 2, seed=7), 800
    target, free = from_table(torch.tensor(p)), 6 - len(given)
    plain = Procedure.of(Blockwise(block=5), target, given=given)
    procedure = plain.with_network(TablePredictor(q, causal=True))
    made = rounds_made(procedure, Budget(length=free, steps=3), n)
    one = Procedure.of(Blockwise(block=5).base_model, target, given=given)
    one = one.with_network(TablePredictor(q, causal=True))
    x = one.sample(Budget(length=free, steps=1), n, CounterRandomness(4))
    found = Blockwise(block=5).speculation(procedure.network, procedure.spec, x).rounds
    error = math.sqrt((float(made.var()) + float(found.var())) / n)
    assert abs(float(made.mean() - found.mean())) < 4 * error
    assert float(found.var()) < float(made.var())  # expectations differ less than counts


def test_rounds_of_continuous_tokens_are_those_of_a_run(three: ProductMixture) -> None:
    procedure, n = Procedure.of(Blockwise(block=3), three), 20_000
    made = rounds_made(procedure, Budget(length=3, steps=2), n)
    x = three.sample(n, CounterRandomness(5))
    found = Blockwise(block=3).speculation(procedure.network, procedure.spec, x)
    error = math.sqrt((float(made.var()) + float(found.rounds.var())) / n)
    assert abs(float(made.mean() - found.rounds.mean())) < 4 * error
    # A block of three makes a second round if, and only if, its second token is refused.
    assert found.rounds.numpy() == pytest.approx(2 - found.kept[:, 0].numpy(), abs=1e-12)


def test_the_acceptance_of_a_gaussian_draft_is_an_integral() -> None:
    rho, n = 0.8, 20_000
    C = torch.tensor([[1, rho], [rho, 1]]).double()
    target = GaussianMixture(torch.zeros(1, 2, 1).double(), C[None])
    v = np.linspace(-8, 8, 801)  # E over u of the integral of min(p(v | u), p(v)) dv
    p = stats.norm.pdf(v, rho * v[:, None], math.sqrt(1 - rho**2))
    least = np.minimum(p, stats.norm.pdf(v)) * stats.norm.pdf(v)[:, None]
    expected = integrate.simpson(integrate.simpson(least, x=v), x=v)
    procedure = Procedure.of(Blockwise(block=2), target)
    x = target.sample(n, CounterRandomness(0))
    kept = Blockwise(block=2).speculation(procedure.network, procedure.spec, x).kept[:, 0]
    error = float(kept.std()) / math.sqrt(n)
    assert abs(float(kept.mean()) - expected) < 4 * error
    assert abs(1 - float(kept.mean())) > 20 * error


def greedy_by_hand(p: Array, x: Symbols, block: list[int]) -> tuple[Symbols, int, int]:
    """A block filled greedily: the tokens, its rounds, and the drafts accepted in the first one."""

    def best(y: Symbols, i: int, shown: int) -> int:
        laws = [probability(p, (*y[:i], v, *y[i + 1 :]), [i], range(shown)) for v in range(len(p))]
        return int(np.argmax(laws))

    rounds, first, place = 0, 0, 0
    while place < len(block):
        drafts = [best(x, i, block[place]) for i in block[place:]]
        rounds += 1
        for i, draft in zip(block[place:], drafts, strict=True):
            own = best(x, i, i)
            x, place = (*x[:i], own, *x[i + 1 :]), place + 1
            if own != draft:
                break
            first += rounds == 1
    return x, rounds, first


@pytest.mark.parametrize("seed", range(4))
def test_greedy_decoding_is_followed_along_its_one_sequence(seed: int) -> None:
    p = table(6, 3, seed=seed)
    target = from_table(torch.tensor(p))
    probe, procedure = Blockwise(block=5, rule="greedy"), Procedure.of(Blockwise(), target)
    found = probe.speculation(
        procedure.network, procedure.spec, target.sample(9, CounterRandomness(0))
    )
    y, rounds, first = greedy_by_hand(p, (0,) * 6, list(range(5)))
    _, last, _ = greedy_by_hand(p, y, [5])
    assert (found.exact, found.rounds.tolist()) == (True, [rounds + last])
    assert found.reached.tolist() == [[1.0] * first + [0.0] * (5 - first)]
    run = Procedure.of(probe, target)
    made = rounds_made(run, Budget(length=6, steps=3), 2)
    assert made.tolist() == [rounds + last] * 2


def test_behind_given_tokens_greedy_decoding_is_followed_in_every_row() -> None:
    p = table(5, 3, seed=8)
    target, probe = from_table(torch.tensor(p)), Blockwise(block=4, rule="greedy")
    procedure = Procedure.of(probe, target, given=(1,))
    x = target.sample(40, CounterRandomness(0))
    found = probe.speculation(procedure.network, procedure.spec, x)
    expected = [greedy_by_hand(p, tuple(row), [0, 2, 3, 4])[1] for row in x.tolist()]
    assert found.rounds.tolist() == expected
    assert not found.exact


def test_greedy_speculation_needs_values_that_can_match(three: ProductMixture) -> None:
    procedure = Procedure.of(Blockwise(), three)
    with pytest.raises(UnfitError, match="rule=greedy needs categorical tokens"):
        Blockwise(rule="greedy").speculation(
            procedure.network, procedure.spec, three.sample(2, CounterRandomness(0))
        )
