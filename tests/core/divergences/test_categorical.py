"""Divergences of categorical tokens against scipy, linear programming and enumeration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment, linprog
from scipy.spatial.distance import cdist
from torch import Tensor

from capcheck import SurveyResult, check, survey
from capcheck.core.randomness import CounterRandomness
from capcheck.divergences import DIVERGENCES
from capcheck.divergences.estimate import Term
from capcheck.divergences.evidence import ModelEvidence
from capcheck.divergences.mmd import median_distance, mmd_squared, mmd_squared_to_known
from capcheck.divergences.reference import Reference
from capcheck.divergences.wasserstein import corrected_transport, transport
from capcheck.laws import Categorical
from capcheck.networks.signatures import TokenPredictorSignature
from capcheck.results.measurement import Outcome
from capcheck.runs import engine
from capcheck.targets import CategoricalMixture, from_spec, from_table
from capcheck.targets.target import Target


def bits(*p: float) -> CategoricalMixture:
    """Independent bits, set with these probabilities."""
    table = torch.tensor([[1 - q, q] for q in p], dtype=torch.float64)
    return CategoricalMixture(table[None])


def enumerated(target: Target) -> tuple[np.ndarray, np.ndarray]:
    x = torch.tensor(list(itertools.product(range(target.spec.dim), repeat=target.spec.tokens)))
    return x.numpy(), target.log_prob(x).exp().numpy()


def exact_w1(p: Target, q: Target) -> float:
    """Optimal transport of the two laws under the Hamming distance, as a linear program."""
    x, of_p = enumerated(p)
    _, of_q = enumerated(q)
    costs = (x[:, None] != x).sum(2)
    n = len(x)
    rows = np.kron(np.eye(n), np.ones(n))
    columns = np.kron(np.ones(n), np.eye(n))
    solved = linprog(
        costs.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([of_p, of_q])
    )
    assert solved.status == 0
    return float(solved.fun)


def kernel(x: np.ndarray, y: np.ndarray, h: float) -> np.ndarray:
    values: np.ndarray = np.exp(-(x[:, None] != y).sum(2) / h**2)
    return values


def exact_mmd(p: Target, q: Target, h: float) -> float:
    x, of_p = enumerated(p)
    _, of_q = enumerated(q)
    difference = of_p - of_q
    return float(difference @ kernel(x, x, h) @ difference)


def draws(target: Target, n: int, name: str, seed: int = 0) -> Tensor:
    return target.sample(n, CounterRandomness(seed, name=name))


def corrected(p: Target, q: Target, m: int, run: int) -> Term:
    a, b, c, d = (
        draws(law, m, name, run).double().numpy()
        for law, name in ((p, "p"), (p, "p'"), (q, "q"), (q, "q'"))
    )
    return corrected_transport(a, transport(a, b, "Hamming"), c, d, "Hamming")


def covered(terms: list[Term], estimand: float) -> float:
    ends = [term.interval(0.95) for term in terms]
    return float(np.mean([low <= estimand <= high for low, high in ends]))


# Transport


def test_transport_under_the_hamming_distance_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 4, (70, 5)), rng.integers(0, 3, (70, 5))
    costs = (x[:, None] != y).sum(2)
    row, column = linear_sum_assignment(costs)
    plan = transport(x.astype(float), y.astype(float), "Hamming")
    assert plan.cost == pytest.approx(costs[row, column].mean())
    assert plan.cost == pytest.approx(plan.of_x.mean() + plan.of_y.mean())
    assert (costs - plan.of_x[:, None] - plan.of_y).min() > -1e-9


def test_the_names_of_symbols_do_not_matter_to_transport() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 3, (40, 4)), rng.integers(0, 3, (40, 4))
    names = np.array([7.0, -100.0, 0.5])
    assert transport(names[x], names[y], "Hamming").cost == pytest.approx(
        transport(x.astype(float), y.astype(float), "Hamming").cost
    )


def test_linear_programming_knows_what_independent_bits_cost() -> None:
    # Coupling each bit by itself costs the sum of |p_i - q_i|, and no coupling costs less.
    p, q = bits(0.5, 0.2, 0.9), bits(0.8, 0.3, 0.9)
    assert exact_w1(p, q) == pytest.approx(0.3 + 0.1)
    parity, uniform = from_spec("parity:3"), bits(0.5, 0.5, 0.5)
    assert exact_w1(parity, uniform) == pytest.approx(0.5)  # half of the strings need one flip


@pytest.mark.parametrize(
    "law", [bits(0.5, 0.2, 0.9), from_spec("parity:4"), from_spec("copy:tokens=4,symbols=3")]
)
def test_equal_laws_are_at_a_corrected_distance_around_zero(law: Target) -> None:
    values = [corrected(law, law, 60, run).value for run in range(200)]
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(200)
    assert min(values) < 0 < max(values)  # signed, never clamped


PAIRS = [
    (bits(0.5, 0.2, 0.9), bits(0.5, 0.2, 0.9)),
    (bits(0.5, 0.2, 0.9), bits(0.8, 0.3, 0.9)),
    (bits(0.5, 0.5, 0.5), bits(0.1, 0.1, 0.1)),
    (from_spec("parity:3"), bits(0.5, 0.5, 0.5)),
    (from_spec("copy:tokens=3,symbols=2"), bits(0.5, 0.5, 0.5)),
]


@pytest.mark.parametrize(("p", "q"), PAIRS)
def test_the_transport_interval_covers_its_estimand(p: Target, q: Target) -> None:
    # The estimand is E[T] at this m, which 250 other runs give to 6% of the deviation of one run:
    # an interval of 1.96 deviations that is off by as much covers 0.1% less often.
    expected = float(np.mean([corrected(p, q, 80, 10_000 + run).value for run in range(250)]))
    terms = [corrected(p, q, 80, run) for run in range(200)]
    assert covered(terms, expected) >= 0.91
    # The linear program's answer lies above it, so the lower end is a bound on the distance.
    exact = exact_w1(p, q)
    assert expected < exact + 0.01
    assert np.mean([term.interval(0.95)[0] <= exact for term in terms]) >= 0.97


@pytest.mark.parametrize(
    ("p", "q"),
    [
        ((0.5,), (0.7,)),
        ((0.05,), (0.1,)),
    ],
)
def test_of_a_single_token_the_interval_covers_the_linear_programs_answer(
    p: tuple[float, ...], q: tuple[float, ...]
) -> None:
    terms = [corrected(bits(*p), bits(*q), 200, run) for run in range(200)]
    exact = exact_w1(bits(*p), bits(*q))
    assert exact == pytest.approx(sum(abs(a - b) for a, b in zip(p, q, strict=True)))
    assert covered(terms, exact) >= 0.91


@pytest.mark.parametrize("tokens", [4, 6, 8, 10, 12])
def test_an_estimate_of_w1_falls_short_of_it_and_is_called_a_lower_bound(tokens: int) -> None:
    # Even parity against fair bits: half of the strings need one flip, W1 = 1/2.
    target = from_spec(f"parity:{tokens}")
    reference = Reference(target, divergences=("wasserstein",), samples=1000, seed=0)
    fair = draws(bits(*[0.5] * tokens), 1000, "model")
    estimate = reference.estimates(ModelEvidence(samples=fair))["wasserstein"]
    assert estimate.kind == "lower bound"
    assert estimate.low is not None
    assert estimate.low <= 0.5
    assert estimate.p_within(100.0) == 1  # it accepts nothing


def test_transport_alone_does_not_pass_a_law_at_twice_the_tolerance() -> None:
    # W1 = 1/2 of a mean distance of 5 is 0.1, and the tolerance 0.05; nothing was placed.
    target = from_spec("parity:10")
    result = check("gpt", target, lengths=[0], steps=[1], divergences=["wasserstein"])
    assert result.outcome is not Outcome.REPRESENTABLE


def test_rows_that_are_all_equal_do_not_make_a_transport_interval_of_width_zero() -> None:
    # 300 draws that never showed the rare symbol of a bit set once in 1,000 do not prove that
    # the two laws are equal.
    rows = np.zeros((300, 1))
    term = corrected_transport(rows, transport(rows, rows, "Hamming"), rows, rows, "Hamming")
    low, high = term.interval(0.95)
    assert high >= 0.001
    assert low <= term.value


@pytest.mark.parametrize("seed", [0, 1])
def test_a_rare_sequence_that_no_draw_showed_is_no_proof_of_a_capacity(seed: int) -> None:
    target = from_table(torch.tensor([0.999, 0.001], dtype=torch.float64))
    assert not bool(draws(target, 300, "target", seed).any())

    def never(tokens: Tensor, known: Tensor) -> Categorical:
        logits = torch.tensor([0.0, -torch.inf], dtype=torch.float64)
        return Categorical(logits.expand(*tokens.shape, 2))

    # KL is infinite, and W1 is half of the mean distance of two draws: ten tolerances.
    result = check("gpt", target, network=never, samples=300, lengths=[1], steps=[1], seed=seed)
    assert result.outcome is not Outcome.REPRESENTABLE


def test_the_scale_of_w1_is_the_mean_distance_of_two_draws() -> None:
    wasserstein = DIVERGENCES["categorical"]["wasserstein"]
    laws = [bits(0.5, 0.2), from_spec("shuffle:3"), from_spec("copy:tokens=3,symbols=1")]
    for law in laws:
        x, p = enumerated(law)
        mean = p @ (x[:, None] != x).sum(2) @ p
        assert wasserstein.scale(law.spec) == pytest.approx(float(mean), abs=1e-9)


@pytest.mark.parametrize(
    ("spec", "kind"), [("parity:12", "lower bound"), ("parity:13", "lower bound")]
)
def test_transport_over_many_sequences_can_only_refuse(spec: str, kind: str) -> None:
    target = from_spec(spec)  # 2^12 = 4096 sequences, and twice as many
    reference = Reference(target, divergences=("wasserstein",), samples=200, seed=0)
    model = ModelEvidence(samples=draws(target, 200, "m"))
    assert reference.estimates(model)["wasserstein"].kind == kind


# Maximum mean discrepancy


@pytest.mark.parametrize("h", [0.7, 1.5])
def test_kernel_means_and_their_estimate_are_those_of_enumeration(h: float) -> None:
    p, q = bits(0.5, 0.2, 0.9), bits(0.8, 0.3, 0.9)
    x, of_p = enumerated(p)
    self_mean = p.kernel_self_mean(h)
    assert self_mean is not None
    assert self_mean == pytest.approx(float(of_p @ kernel(x, x, h) @ of_p))
    rows = draws(q, 50, "q")
    means = p.kernel_mean(rows, h)
    expected = kernel(rows.numpy(), x, h) @ of_p
    assert means.tolist() == pytest.approx(expected.tolist())
    (term,) = mmd_squared_to_known(rows, (h,), [means], [self_mean])
    within = kernel(rows.numpy(), rows.numpy(), h)
    off_diagonal = (within.sum() - 50) / (50 * 49)
    assert term.value == pytest.approx(off_diagonal - 2 * expected.mean() + self_mean)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("first", "n", "least"),
    [
        (0.5, 150, 0.91),  # the laws are equal
        (0.8, 150, 0.91),
        # Near zero, where the U-statistic is nearly degenerate.
        (0.55, 250, 0.91),
    ],
)
def test_the_mmd_interval_covers_enumeration(
    known: bool, first: float, n: int, least: float
) -> None:
    p, q, h = bits(0.5, 0.2, 0.9), bits(first, 0.2, 0.9), 1.0
    own = p.kernel_self_mean(h)
    assert own is not None
    terms = []
    for run in range(300):
        rows = draws(q, n, "q", run)
        if known:
            terms += mmd_squared_to_known(rows, (h,), [p.kernel_mean(rows, h)], [own])
        else:
            terms.append(mmd_squared(rows, draws(p, n, "p", run), h))
    expected = exact_mmd(p, q, h)
    values = [term.value for term in terms]
    assert abs(np.mean(values) - expected) < 4 * np.std(values) / math.sqrt(300)
    assert covered(terms, expected) >= least


def test_without_closed_forms_target_draws_give_the_same_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    p, q = bits(0.5, 0.2, 0.9, 0.5), bits(0.8, 0.3, 0.9, 0.5)
    rows = draws(q, 1500, "q")
    model = ModelEvidence(samples=rows)
    closed = Reference(p, divergences=("mmd",), samples=1500, seed=0).estimates(model)["mmd"]
    monkeypatch.setattr(CategoricalMixture, "kernel_self_mean", lambda *_: None)
    drawn = Reference(p, divergences=("mmd",), samples=1500, seed=0).estimates(model)["mmd"]
    assert "closed-form" in closed.method
    assert "target draws" in drawn.method
    assert closed.value is not None
    assert drawn.value is not None
    h = median_distance(draws(p, 1500, "target"))
    x, of_p = enumerated(p)
    exact = []
    for bandwidth in (0.5 * h, h, 2 * h):
        variance = 1 - float(of_p @ kernel(x, x, bandwidth) @ of_p)
        exact.append(exact_mmd(p, q, bandwidth) / variance)
    for estimate in (closed, drawn):
        low, high = estimate.interval(0.999)
        assert low <= max(exact) <= high
        assert estimate.null is not None
        assert estimate.null_error is not None
        assert abs(estimate.null) < 4 * estimate.null_error
    assert drawn.value == pytest.approx(closed.value, rel=0.25)


def test_the_median_distance_of_integers_is_that_of_their_one_hot_vectors() -> None:
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (301, 6)))
    one_hot = np.eye(4)[x.numpy()].reshape(301, -1)
    upper = cdist(one_hot, one_hot)[np.triu_indices(301, 1)]
    assert median_distance(x) == pytest.approx(np.median(upper))


def test_where_most_rows_are_equal_the_mean_distance_stands_in() -> None:
    x = torch.zeros(100, 12, dtype=torch.int64)
    x[:5] = 1  # pairs that differ are 5 * 95 of 4,950; they are sqrt(24) apart
    assert median_distance(x) == pytest.approx(max(475 / 4950 * math.sqrt(24), 1.0))
    x[:20] = 1
    assert median_distance(x) == pytest.approx(1600 / 4950 * math.sqrt(24))
    assert median_distance(torch.zeros(50, 3, dtype=torch.int64)) == 1.0


# Whole checks


@pytest.mark.parametrize(
    "spec", ["copy:tokens=3,symbols=1", "latin:1", "brackets:2", "replacement:2", "replacement:6"]
)
@pytest.mark.parametrize("family", ["gpt", "maskgit"])
def test_degenerate_laws_give_numbers(spec: str, family: str) -> None:
    target = from_spec(spec)
    result = check(family, target, samples=300, steps=[1])
    # A list with one replacement loses (N - 1) ln(N / (N - 1)) in one shot; the rest is one point.
    N = target.spec.tokens
    lost = (N - 1) * math.log(N / (N - 1)) if spec.startswith("replacement") else 0.0
    assert result.cells[0].budget.length == 0
    assert result.cells[0].estimates["kl"].value == pytest.approx(lost, abs=1e-12)
    assert {cell.estimates["kl"].value for cell in result.cells if not lost} <= {0.0}
    for cell in result.cells:
        for estimate in cell.estimates.values():
            assert estimate.value is not None
            assert math.isfinite(estimate.value)
            assert estimate.low is not None
            assert estimate.high is not None
            assert estimate.low <= estimate.value <= estimate.high
    if family == "gpt":
        assert result.outcome is Outcome.REPRESENTABLE


def test_a_law_of_one_sequence_refuses_another_one() -> None:
    target = from_table(torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.float64))

    def fair(tokens: Tensor, known: Tensor) -> Categorical:
        return Categorical(torch.zeros(*tokens.shape, 2, dtype=torch.float64))

    result = check("gpt", target, network=fair, samples=300, lengths=[2], steps=[1])
    estimates = result.cells[0].estimates
    assert result.outcome is Outcome.NOT_REPRESENTABLE
    assert estimates["kl"].value == pytest.approx(2 * math.log(2))
    assert estimates["wasserstein"].value == pytest.approx(1, abs=0.15)  # two coin flips
    # E k(X, X') - 2 E k(X, y) + 1 with a kernel 1, exp(-1/h^2), exp(-2/h^2); h is at least 1/2.
    assert estimates["mmd"].value is not None
    assert 0.1 < estimates["mmd"].value < 2


def oracle_of(spec: str) -> Callable[..., object]:
    return TokenPredictorSignature().oracle(from_spec(spec))


@pytest.mark.parametrize(
    ("spec", "other"),
    [
        ("copy:tokens=4,symbols=2", "parity:4"),
        ("parity:4", "copy:tokens=4,symbols=2"),
        ("ising:rows=2,columns=2", "ising:rows=2,columns=2,coupling=0.1"),
        ("brackets:6", "parity:6"),
    ],
)
def test_a_broken_oracle_is_caught(spec: str, other: str) -> None:
    budget = {"lengths": [from_spec(spec).spec.tokens], "steps": [1], "samples": 1000}
    broken = check("gpt", from_spec(spec), network=oracle_of(other), **budget)  # type: ignore[arg-type]
    assert broken.outcome is Outcome.NOT_REPRESENTABLE
    right = check("gpt", from_spec(spec), network=oracle_of(spec), **budget)  # type: ignore[arg-type]
    assert right.outcome is Outcome.REPRESENTABLE


def test_kl_of_another_law_is_that_of_enumeration() -> None:
    p, q = from_spec("ising:rows=2,columns=2"), bits(0.5, 0.5, 0.5, 0.6)
    _, of_p = enumerated(p)
    _, of_q = enumerated(q)
    network = TokenPredictorSignature().oracle(q)
    result = check("gpt", p, network=network, lengths=[4], steps=[1], samples=2000)
    estimate = result.cells[0].estimates["kl"]
    assert estimate.kind == "exact"
    assert estimate.value == pytest.approx(float(of_p @ np.log(of_p / of_q)), abs=1e-12)


@pytest.mark.parametrize(
    "spec", ["parity:4", "ising:rows=2,columns=2", "latin:2", "gaussian:ar1,tokens=2"]
)
def test_float32_gives_the_same_findings_on_these_laws_too(
    spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = from_spec(spec)
    double = survey(target, network="none", samples=200, steps=[1, 4])
    monkeypatch.setattr(engine, "placement", lambda _: (torch.device("cpu"), torch.float32))
    require_the_same_findings(survey(target, network="none", samples=200, steps=[1, 4]), double)


def require_the_same_findings(single: SurveyResult, double: SurveyResult) -> None:
    assert single.settings.dtype == "float32"
    for a, b in zip(single.families, double.families, strict=True):
        assert a.error == b.error
        assert (a.outcome, a.axes, a.loop_order) == (b.outcome, b.axes, b.loop_order)
        for one, other in zip(a.cells, b.cells, strict=True):
            assert one.model_calls == other.model_calls
            for name, estimate in one.estimates.items():
                expected = other.estimates[name]
                # A row whose uniform draw falls between two roundings takes another symbol.
                slack = 2e-3 * max(expected.scale, 1.0)
                assert estimate.value == pytest.approx(expected.value, abs=slack)
