"""Parallel unmasking against brute force over rounds and orders."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from networks import TablePredictor, law_of, law_of_run, table
from reference.control import mixture_moments, steadied_mean
from reference.groups import covariance_of_groups, law_of_groups, probability, sequences
from reference.information import (
    Array,
    Entropy,
    information,
    of_blocks,
    of_table,
    total_correlation,
)
from reference.mixtures import Mixture
from scipy import stats

from capcheck import check
from capcheck.core.budget import Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness
from capcheck.core.sequences import SequenceSpec
from capcheck.exact import hidden_draws
from capcheck.laws import Categorical, TokenLaw
from capcheck.laws.gaussian import GaussianLaw
from capcheck.probes.length import maskgit as module
from capcheck.probes.length.maskgit import MaskGIT
from capcheck.procedures.probe import State
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe
from capcheck.targets import GaussianMixture, MarkovChain, ProductMixture, from_spec, from_table
from capcheck.targets.categorical.sequence_law import SequenceLaw


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
    procedure = Procedure.of(build_probe("maskgit", options), target)
    found = procedure.log_density(Budget(length=length, steps=1), x, CounterRandomness(0))
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
    result = check("maskgit", digits, options=options, samples=200, lengths=[8], steps=[1])
    rows = digits.sample(200, CounterRandomness(0, name="target"))[..., 0].numpy()
    reference = reference_of(digits, np.ones(len(digits.means)))
    rounds: list[list[float]] = [[], []]
    for x in rows:
        for r, (known, block) in enumerate([((), (0, 1, 2, 3)), ((0, 1, 2, 3), (4, 5, 6, 7))]):
            context = log_marginal(reference, x, known)
            together = log_marginal(reference, x, (*known, *block)) - context
            apart = sum(log_marginal(reference, x, (*known, i)) - context for i in block)
            rounds[r].append(together - apart)
    kl = result.cells[0].estimates["kl"]
    moments = mixture_moments(digits.means[..., 0].numpy(), digits.scales[:, 0].numpy())
    expected = steadied_mean(np.sum(rounds, 0), rows, moments)
    assert kl.value == pytest.approx(expected, abs=1e-9)
    assert kl.value is not None
    assert kl.value > 0.1
    assert result.cells[0].model_calls == 2
    one = check(
        "maskgit",
        digits,
        options={"order": "fixed", "tokens_per_round": 1},
        samples=200,
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
    assert bound.above is not None
    assert 0 < float((mixture.values - bound.values).mean()) < 0.2
    assert 0 < float((bound.above - mixture.values).mean()) < 1
    monkeypatch.setattr(hidden_draws, "ALIKE", 0.1)
    one = log_q(digits, x, 8)
    assert one.above is None
    assert one.values.mean() < bound.values.mean()


ORDERS = list(itertools.permutations(range(4)))


class EveryOrder(CounterRandomness):
    """Row r of a permutation is order r mod 24."""

    def permutation(self, n: int, size: int) -> torch.Tensor:
        return torch.tensor([ORDERS[row % len(ORDERS)] for row in range(n)])


def four_bits() -> Array:
    """A joint table of four dependent bits."""
    p = np.random.default_rng(2).random((2, 2, 2, 2)) ** 3
    table: Array = p / p.sum()
    return table


def q_of_order(p: Array, order: tuple[int, ...], sizes: list[int]) -> Array:
    """The law of blocks of an order, each token given the earlier blocks: a table."""
    q = np.ones_like(p)
    for before, after in itertools.pairwise(sizes):
        known = order[:before]
        past = p.sum(axis=tuple(i for i in range(4) if i not in known), keepdims=True)
        for i in order[before:after]:
            others = tuple(j for j in range(4) if j not in (*known, i))
            q = q * p.sum(axis=others, keepdims=True) / past
    return q


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"rounds": "1"}, [0, 4]),
        ({"rounds": "2"}, [0, 2, 4]),  # floor(4 cos(pi / 4)) = 2 are left masked
        ({"tokens_per_round": "3"}, [0, 3, 4]),
    ],
)
def test_the_law_sampled_is_the_mixture_over_orders_and_beats_their_mean(
    options: dict[str, str], sizes: list[int]
) -> None:
    p = four_bits()
    laws = np.stack([q_of_order(p, order, sizes) for order in ORDERS])
    assert np.allclose(laws.sum((1, 2, 3, 4)), 1, rtol=0, atol=1e-12)
    of_mixture = (p * np.log(p / laws.mean(0))).sum()
    mean_over_orders = (p * np.log(p / laws)).sum() / len(ORDERS)
    found = check(
        "maskgit", from_table(torch.tensor(p)), options=options, lengths=[4], steps=[1],
        samples=200, divergences=["kl"],
    )  # fmt: skip
    kl = found.cells[0].estimates["kl"].value
    assert kl == pytest.approx(of_mixture, abs=1e-9)
    assert mean_over_orders == pytest.approx(mean_of_orders(p, sizes), abs=1e-12)
    # With all tokens in one round there is one law, whatever the order.
    assert (mean_over_orders > of_mixture + 1e-3) == (len(sizes) > 2)


def mean_of_orders(p: Array, sizes: list[int]) -> float:
    """KL of one order, averaged over all: sum over rounds of TC given the known tokens."""
    H = of_table(p)
    blocks = [[order[a:b] for a, b in itertools.pairwise(sizes)] for order in ORDERS]
    return float(np.mean([of_blocks(H, each) for each in blocks]))


def mean_information(H: Entropy, j: int, tokens: int) -> float:
    """Z_j: the mean of I(x_i; x_S) over all i and all sets S of j - 1 other tokens."""
    found = [
        information(H, [i], S)
        for i in range(tokens)
        for S in itertools.combinations([k for k in range(tokens) if k != i], j - 1)
    ]
    return float(np.mean(found))


@pytest.mark.parametrize("per_round", [1, 2, 3, 4])
def test_the_mean_over_orders_is_a_sum_of_mean_informations(
    per_round: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    p, places = four_bits(), list(itertools.product(range(2), repeat=4))
    target = from_table(torch.tensor(p))
    procedure = Procedure.of(MaskGIT(tokens_per_round=per_round), target)
    monkeypatch.setattr(module, "ENUMERATED_CALLS", 0)
    monkeypatch.setattr(hidden_draws, "ALIKE", -1)  # one order for each row
    x = torch.tensor(places).repeat_interleave(len(ORDERS), 0)
    bound = procedure.log_density(Budget(length=4, steps=1), x, EveryOrder(0))
    assert isinstance(bound, LogDensity)
    assert bound.bound == (per_round < 4)  # in one round no order matters
    log_q = bound.values.reshape(2, 2, 2, 2, len(ORDERS)).mean(-1).numpy()
    H = of_table(p)
    Z = [mean_information(H, j, 4) for j in range(1, 5)]
    starts = range(0, 4, per_round)
    expected = sum(Z[j] - Z[a] for a in starts for j in range(a, min(a + per_round, 4)))
    assert (p * (np.log(p) - log_q)).sum() == pytest.approx(expected, abs=1e-9)
    assert (expected > 0.01) == (per_round > 1)
    assert sorted(Z) == Z
    assert Z[-1] * 4 != pytest.approx(total_correlation(H, range(4)), abs=0.01)


@pytest.mark.parametrize(("per_round", "kl"), [(3, 0.0), (2, math.log(2)), (4, math.log(2))])
def test_parity_needs_its_last_token_alone(per_round: int, kl: float) -> None:
    # Any three bits are independent: only the last round's tokens depend on each other.
    found = check(
        "maskgit", from_spec("parity:4"), options={"tokens_per_round": per_round}, lengths=[4],
        steps=[1], samples=200, divergences=["kl"],
    )  # fmt: skip
    assert found.cells[0].estimates["kl"].value == pytest.approx(kl, abs=1e-9)


@pytest.mark.parametrize(
    ("target", "kl"),
    [
        ("copy:tokens=4,symbols=3", 3 * math.log(3)),  # (N - 1) ln V
        ("shuffle:4", 4 * math.log(4) - math.log(24)),  # N ln N - ln N!
        ("replacement:5", 4 * math.log(5 / 4)),  # (N - 1) ln(N / (N - 1))
    ],
)
def test_one_round_costs_the_total_correlation(target: str, kl: float) -> None:
    law = from_spec(target)
    found = check(
        "maskgit", law, options={"rounds": 1}, lengths=[law.spec.tokens], steps=[1],
        samples=200, divergences=["kl"],
    )  # fmt: skip
    assert found.cells[0].estimates["kl"].value == pytest.approx(kl, abs=1e-9)


def test_the_suspect_is_exact() -> None:
    (suspect,) = build_probe("maskgit", {"rounds": 1, "order": "confidence"}).suspects()
    assert suspect.failure == "wrong factorisation"
    assert isinstance(suspect.probe, MaskGIT)
    target = from_table(torch.tensor(four_bits()))
    options = {"tokens_per_round": suspect.probe.tokens_per_round, "order": suspect.probe.order}
    found = check("maskgit", target, options=options, lengths=[4], steps=[1], samples=200)
    assert found.cells[0].estimates["kl"].value == pytest.approx(0, abs=1e-9)


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
    budget, start = Budget(length=N, steps=1), State.blank(spec, n)
    *_, last = probe.run(bernoulli, spec, budget, start, CounterRandomness(0))
    ones = last.tokens.sum(1).double()
    expected = sum(p**m for m in range(1, N + 1))
    assert abs(ones.mean() - expected) < 4 * ones.std() / math.sqrt(n)
    assert abs(ones.mean() - N * p) > 20 * ones.std() / math.sqrt(n)


@pytest.mark.parametrize("p", [0.1, 0.3, 0.49])
@pytest.mark.parametrize("N", [1, 2, 3])
def test_confidence_order_by_enumeration_is_the_geometric_sum(p: float, N: int) -> None:
    # A one stays only where all m masked tokens were drawn as ones, m = N .. 1.
    one = np.array([1 - p, p])
    joint = one
    for _ in range(N - 1):
        joint = np.multiply.outer(joint, one)
    target = from_table(torch.tensor(joint))
    procedure = Procedure.of(MaskGIT(order="confidence", tokens_per_round=1), target)
    law = procedure.exact_law(Budget(length=N, steps=1))
    assert isinstance(law, SequenceLaw)
    ones = np.array([sum(x) for x in itertools.product(range(2), repeat=N)])
    expected = sum(p**m for m in range(1, N + 1))
    assert float(law.probabilities.numpy() @ ones) == pytest.approx(expected, abs=1e-9)
    assert (abs(expected - N * p) > 0.01) == (N > 1)


def test_a_cut_round_commits_only_what_the_budget_allows(three: ProductMixture) -> None:
    for order in ("random", "fixed", "confidence"):
        procedure = Procedure.of(build_probe("maskgit", {"order": order, "rounds": 1}), three)
        *_, last = procedure.run(Budget(length=2, steps=1), 30, CounterRandomness(0))
        assert last.placed.sum(1).tolist() == [2] * 30


def test_temperature_moves_confidence_order_towards_random(three: ProductMixture) -> None:
    def first_committed(temperature: str) -> np.ndarray:
        options = {"order": "confidence", "tokens_per_round": 1, "temperature": temperature}
        procedure = Procedure.of(build_probe("maskgit", options), three)
        states = list(procedure.run(Budget(length=3, steps=1), 3000, CounterRandomness(0)))
        return states[1].written.sum(0).numpy()

    assert stats.chisquare(first_committed("0")).pvalue < 1e-6
    assert stats.chisquare(first_committed("1e6")).pvalue > 1e-3


MASK = -1


def committed(p: Array, x: tuple[int, ...], count: int) -> dict[tuple[int, ...], float]:
    """The law of confidence order over independent tokens that follow p, from where x stands.

    x holds MASK where nothing is committed. All masked tokens are drawn, and the `count` of the
    largest probabilities stay; every set of equally good ones is as likely as the others.
    """
    masked = [i for i, v in enumerate(x) if v == MASK]
    if not masked:
        return {x: 1.0}
    found: dict[tuple[int, ...], float] = {}
    for draws in itertools.product(range(len(p)), repeat=len(masked)):
        ranked = sorted((p[v] for v in draws), reverse=True)[:count]
        best = [
            kept
            for kept in itertools.combinations(range(len(masked)), len(ranked))
            if sorted((p[draws[j]] for j in kept), reverse=True) == ranked
        ]
        for kept in best:
            y = list(x)
            for j in kept:
                y[masked[j]] = draws[j]
            share = math.prod(p[v] for v in draws) / len(best)
            for z, more in committed(p, tuple(y), count).items():
                found[z] = found.get(z, 0.0) + share * more
    return found


@pytest.mark.parametrize("count", [1, 2, 3])
def test_equal_confidences_are_chosen_among_at_random(count: int) -> None:
    # As a table and as a chain the same four independent bits have laws that differ by rounding.
    p, N = np.array([0.7, 0.3]), 4
    joint = np.einsum("a,b,c,d->abcd", p, p, p, p)
    rows = torch.tensor(p)
    targets = [from_table(torch.tensor(joint)), MarkovChain([rows, rows.expand(2, 2)], tokens=N)]
    probe, budget = MaskGIT(order="confidence", tokens_per_round=count), Budget(length=N, steps=1)
    expected = np.zeros((2,) * N)
    for x, value in committed(p, (MASK,) * N, count).items():
        expected[x] = value
    for target in targets:
        law = law_of(Procedure.of(probe, target), budget)
        assert np.abs(law - expected).max() < 1e-9
    exact = float((joint * np.log(joint / expected)).sum())
    assert count > 1 or exact == pytest.approx(0.745, abs=5e-4)
    checked = check(probe, targets[0], lengths=[N], steps=[1], samples=200, divergences=["kl"])
    assert checked.cells[0].estimates["kl"].value == pytest.approx(exact, abs=1e-9)


def test_a_lead_beyond_rounding_is_no_tie() -> None:
    ties = CounterRandomness(0).stream("ties")
    among = torch.ones(500, 3, dtype=torch.bool)
    near = torch.tensor([0.0, 1e-12, -1e-12]).double().expand(500, 3)
    clear = torch.tensor([0.0, 1e-6, -1e-6]).double().expand(500, 3)
    counts = module._largest(near, among, 1, ties).sum(0)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    assert module._largest(clear, among, 1, ties).sum(0).tolist() == [0, 500, 0]
    coarse = torch.tensor([0.0, 1e-7, -1e-7]).expand(500, 3)  # single precision resolves no better
    assert int(module._largest(coarse, among, 1, ties).sum(0).min()) > 100


@pytest.mark.parametrize("given", [(0,), (1, 3)])
@pytest.mark.parametrize("order", ["random", "fixed"])
def test_beside_given_tokens_a_wrong_network_makes_the_law_written_out(
    given: tuple[int, ...], order: str
) -> None:
    p, q = table(4, 2), table(4, 2, seed=1)
    probe = build_probe("maskgit", {"order": order, "tokens_per_round": 2})
    plain = Procedure.of(probe, from_table(torch.tensor(p)), given=given)
    procedure, free = plain.with_network(TablePredictor(q)), [i for i in range(4) if i not in given]
    orders = list(itertools.permutations(free)) if order == "random" else [tuple(free)]
    for length in range(len(free) + 1):
        laws = []
        for each in orders:
            rounds = [each[a : min(a + 2, length)] for a in range(0, length, 2)]
            groups = [(r, [*given, *each[: 2 * j]]) for j, r in enumerate(rounds)]
            laws.append(law_of_groups(p, q, given, groups))
        expected, budget = np.mean(laws, 0), Budget(length=length, steps=1)
        assert np.abs(law_of(procedure, budget, "density") - expected).max() < 1e-12
        assert np.abs(law_of_run(procedure, budget, p) - expected).max() < 1e-12
    assert np.abs(expected - p).max() > 1e-3


def test_the_schedule_is_that_of_the_tokens_that_are_not_given() -> None:
    # floor(6 cos(pi r / 8)) = 5, 4, 2, 0 of six free tokens are left masked.
    procedure = Procedure.of(MaskGIT(), from_spec("modes:tokens=8"), given=(2, 5))
    states = list(procedure.run(Budget(length=6, steps=1), 4, CounterRandomness(0)))
    assert [int(state.placed[0].sum()) for state in states] == [2, 3, 4, 6, 8]


def test_confidence_order_beside_a_given_token_by_enumeration() -> None:
    p, q = table(3, 2), table(3, 2, seed=1)
    probe = MaskGIT(order="confidence", tokens_per_round=1)
    plain = Procedure.of(probe, from_table(torch.tensor(p)), given=(1,))
    expected = np.zeros_like(p)
    for x in sequences(p):
        for a, c in itertools.product(range(2), repeat=2):  # what the first round draws
            drawn = (a, x[1], c)
            q_0, q_2 = (probability(q, drawn, [i], [1]) for i in (0, 2))
            first = 0 if q_0 > q_2 else 2
            if drawn[first] == x[first]:
                last = probability(q, x, [2 - first], [1, first])
                expected[x] += probability(p, x, [1]) * q_0 * q_2 * last
    run = law_of_run(plain.with_network(TablePredictor(q)), Budget(length=2, steps=1), p)
    assert np.abs(run - expected).max() < 1e-12
    assert np.abs(expected - law_of_groups(p, q, [1], [([0], [1]), ([2], [0, 1])])).max() > 1e-3


def test_beside_given_numbers_the_law_is_that_of_regressions() -> None:
    C, Q = (r ** np.abs(np.subtract.outer(np.arange(5.0), np.arange(5.0))) for r in (0.8, -0.5))
    target, other = (
        GaussianMixture(torch.zeros(1, 5, 1).double(), torch.tensor(S)[None]) for S in (C, Q)
    )
    plain = Procedure.of(MaskGIT(order="fixed", tokens_per_round=2), target, given=(1,))
    procedure = plain.with_network(plain.probe.signature.oracle(other))
    law = procedure.exact_law(Budget(length=3, steps=1))
    assert isinstance(law, GaussianLaw)
    expected = covariance_of_groups(C, Q, (1,), [([0, 2], [1]), ([3], [0, 1, 2])])
    assert np.allclose(law.covariance, expected, rtol=0, atol=1e-9)
    assert np.abs(expected - C).max() > 1e-2
