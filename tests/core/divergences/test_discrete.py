"""Exact divergences of small laws against linear programming, brute force and closed forms."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.special import entr, rel_entr

from capcheck.core.budget import Budget
from capcheck.core.errors import CapcheckError, InputError
from capcheck.divergences import discrete as module
from capcheck.divergences.discrete import (
    compare,
    hamming_w1,
    hamming_w1_bounds,
    kernel_mean,
    kl,
    mmd_squared,
    total_variation,
)
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe
from capcheck.targets import from_spec
from capcheck.targets.categorical.sequence_law import SequenceLaw, target_law

Array = NDArray[np.float64]
SHAPES = [(2, 1), (2, 5), (3, 3), (5, 2), (4, 3), (7, 1)]  # V, N


def law(probabilities: Array, vocabulary: int, tokens: int) -> SequenceLaw:
    log_p = torch.tensor(probabilities, dtype=torch.float64).flatten().log()
    return SequenceLaw(
        log_probabilities=log_p, vocabulary=vocabulary, tokens=tokens, method="given"
    )


def random_pair(V: int, N: int, seed: int = 0) -> tuple[SequenceLaw, SequenceLaw]:
    """Two laws, about a third of whose sequences are impossible."""
    rng = np.random.default_rng(seed)
    weights = rng.exponential(size=(2, V**N)) ** 2 * (rng.random((2, V**N)) > 1 / 3)
    weights[:, 0] += 0.1
    p, q = weights / weights.sum(1, keepdims=True)
    return law(p, V, N), law(q, V, N)


def product(*of_tokens: list[float]) -> SequenceLaw:
    """Independent tokens."""
    joint = np.ones(1)
    for p in of_tokens:
        joint = np.multiply.outer(joint, p).ravel()
    return law(joint, len(of_tokens[0]), len(of_tokens))


def of_spec(spec: str) -> SequenceLaw:
    found = target_law(from_spec(spec))
    assert isinstance(found, SequenceLaw)
    return found


def by_gpt(spec: str, length: int) -> SequenceLaw:
    procedure = Procedure.of(build_probe("gpt"), from_spec(spec))
    found = procedure.exact_law(Budget(length=length, steps=1))
    assert isinstance(found, SequenceLaw)
    return found


def differing(V: int, N: int) -> Array:
    """Number of tokens that differ between all pairs of sequences."""
    x = np.array(list(itertools.product(range(V), repeat=N)))
    counts: Array = (x[:, None] != x).sum(2).astype(float)
    return counts


def w1_by_linear_program(p: SequenceLaw, q: SequenceLaw) -> float:
    """Over all couplings of the whole laws: nothing is cancelled beforehand."""
    costs, n = differing(p.vocabulary, p.tokens), len(p.probabilities)
    rows, columns = np.kron(np.eye(n), np.ones(n)), np.kron(np.ones(n), np.eye(n))
    masses = np.concatenate([p.probabilities.numpy(), q.probabilities.numpy()])
    tight = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    solved = linprog(costs.ravel(), A_eq=np.vstack([rows, columns]), b_eq=masses, options=tight)
    assert solved.status == 0
    return float(solved.fun)


# Kullback-Leibler, total variation


@pytest.mark.parametrize(("V", "N"), SHAPES)
def test_kl_and_total_variation_are_those_of_scipy_and_numpy(V: int, N: int) -> None:
    p, q = random_pair(V, N)
    mixed = law(0.9 * q.probabilities.numpy() + 0.1 * p.probabilities.numpy(), V, N)
    of_p, of_mixed = p.probabilities.numpy(), mixed.probabilities.numpy()
    assert kl(p, mixed) == pytest.approx(rel_entr(of_p, of_mixed).sum(), abs=1e-12)
    assert kl(p, mixed) != pytest.approx(rel_entr(of_mixed, of_p).sum(), abs=1e-3)
    largest = np.maximum(of_p - of_mixed, 0).sum()  # the event {p > q} shows the difference best
    assert total_variation(p, mixed) == pytest.approx(largest, abs=1e-14)


def test_kl_is_infinite_where_the_model_cannot_go() -> None:
    p, q = product([0.5, 0.5]), product([1.0, 0.0])
    assert kl(p, q) == math.inf
    assert kl(q, p) == pytest.approx(math.log(2))
    found = compare(p, q, bandwidths=[1.0])
    assert found.kl == math.inf
    assert found.reverse_kl == pytest.approx(math.log(2))
    assert (found.total_variation, found.w1) == (0.5, 0.5)


def test_kl_keeps_its_digits_near_zero_and_far_out() -> None:
    # Bernoulli(1/2) and (1/2 + e): KL = -1/2 ln(1 - 4 e^2) = 2 e^2 + O(e^4).
    e = 1e-7
    assert kl(product([0.5, 0.5]), product([0.5 - e, 0.5 + e])) == pytest.approx(2 * e**2, rel=1e-2)
    # ln p = -800 is no longer a float64; ln p = -740 is one with few digits.
    for far in (-800.0, -740.0, -40.0):
        tiny = torch.tensor([0.0, far], dtype=torch.float64)
        p = SequenceLaw(log_probabilities=tiny, vocabulary=2, tokens=1, method="given")
        q = SequenceLaw(log_probabilities=tiny.flip(0), vocabulary=2, tokens=1, method="given")
        assert kl(p, q) == pytest.approx(-far)
        assert kl(p, product([1.0, 0.0])) == math.inf
        assert kl(product([1.0, 0.0]), p) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("copy:tokens=5,symbols=3", 4 * math.log(3)),  # (N - 1) ln V
        ("copy:tokens=6,symbols=1", 0.0),
        ("parity:6", math.log(2)),
        ("shuffle:4", 4 * math.log(4) - math.log(24)),  # N ln N - ln N!
        ("replacement:8", 7 * math.log(8 / 7)),  # (N - 1) ln(N / (N - 1))
        ("latin:2", 4 * math.log(2) - math.log(2)),
    ],
)
def test_nothing_placed_costs_the_total_correlation(spec: str, expected: float) -> None:
    p = of_spec(spec)
    assert kl(p, by_gpt(spec, 0)) == pytest.approx(expected, abs=1e-12)
    assert kl(p, by_gpt(spec, p.tokens)) == pytest.approx(0, abs=1e-12)


def test_what_placing_leaves_is_what_entropies_say() -> None:
    # KL(l) = sum_{i>l} H(x_i, x_<=l) - (N - l - 1) H(x_<=l) - H(x), here of an Ising strip.
    spec, N = "ising:rows=2,columns=3", 6
    p = of_spec(spec).probabilities.numpy().reshape((2,) * N)

    def entropy(*tokens: int) -> float:
        return float(entr(p.sum(tuple(i for i in range(N) if i not in tokens))).sum())

    for placed in range(N):
        seen = tuple(range(placed))
        expected = sum(entropy(*seen, i) for i in range(placed, N))
        expected -= (N - placed - 1) * entropy(*seen) + entropy(*range(N))
        assert kl(of_spec(spec), by_gpt(spec, placed)) == pytest.approx(expected, abs=1e-12)


# Maximum mean discrepancy


@pytest.mark.parametrize(("V", "N"), [*SHAPES, (1, 3)])
@pytest.mark.parametrize("h", [0.3, 1.0, 4.0])
def test_the_kernel_along_axes_is_the_kernel_between_sequences(V: int, N: int, h: float) -> None:
    p, q = random_pair(V, N) if V > 1 else (of_spec("copy:tokens=3,symbols=1"),) * 2
    kernel = np.exp(-differing(V, N) / h**2)
    of_p, of_q = p.probabilities.numpy(), q.probabilities.numpy()
    difference = of_p - of_q
    assert mmd_squared(p, q, bandwidth=h) == pytest.approx(
        difference @ kernel @ difference, abs=1e-14
    )
    assert kernel_mean(p, q, bandwidth=h) == pytest.approx(of_p @ kernel @ of_q, rel=1e-13)
    if V > 1 and h >= 1:  # a narrow kernel is nearly the identity
        assert mmd_squared(p, q, bandwidth=h) != pytest.approx(
            difference @ kernel**1.1 @ difference, rel=1e-3
        )


def test_kernel_means_are_those_of_the_target() -> None:
    target = from_spec("ising:rows=2,columns=3")
    law = of_spec("ising:rows=2,columns=3")
    for h in (0.5, 1.5):
        assert kernel_mean(law, law, bandwidth=h) == pytest.approx(target.kernel_self_mean(h))


# Transport


@pytest.mark.parametrize(("V", "N"), SHAPES)
@pytest.mark.parametrize("seed", [0, 1])
def test_w1_is_that_of_a_linear_program(V: int, N: int, seed: int) -> None:
    p, q = random_pair(V, N, seed)
    expected = w1_by_linear_program(p, q)
    assert hamming_w1(p, q) == pytest.approx(expected, abs=1e-9)
    assert hamming_w1(q, p) == pytest.approx(expected, abs=1e-9)
    found = compare(p, q, bandwidths=[])
    assert found.w1 == found.w1_low == found.w1_high
    assert found.w1 is not None
    # One of two laws moved a little is noticed.
    moved = law(0.99 * p.probabilities.numpy() + 0.01 * q.probabilities.numpy(), V, N)
    assert abs(w1_by_linear_program(moved, q) - found.w1) > 1e-4


@pytest.mark.parametrize(("V", "N"), SHAPES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bounds_hold_a_linear_programs_answer(V: int, N: int, seed: int) -> None:
    p, q = random_pair(V, N, seed)
    exact, (low, high) = w1_by_linear_program(p, q), hamming_w1_bounds(p, q)
    assert low <= exact + 1e-9
    assert high >= exact - 1e-9
    apart = total_variation(p, q)
    assert apart <= low + 1e-12
    assert high <= N * apart + 1e-12
    of_tokens = sum(total_variation(p.onto([i]), q.onto([i])) for i in range(N))
    assert of_tokens <= low + 1e-12
    if N > 1:
        assert high < N * apart - 1e-3  # neither bound is the trivial one
        assert low < high


def test_beyond_the_limit_bounds_stand_for_w1(monkeypatch: pytest.MonkeyPatch) -> None:
    p, q = random_pair(2, 6)
    exact = compare(p, q, bandwidths=[])
    remaining = p.probabilities - q.probabilities
    pairs = int((remaining > 0).sum() * (remaining < 0).sum())
    monkeypatch.setattr(module, "PAIRS", pairs)
    assert compare(p, q, bandwidths=[]) == exact
    monkeypatch.setattr(module, "PAIRS", pairs - 1)
    found = compare(p, q, bandwidths=[])
    assert found.w1 is None
    assert exact.w1 is not None
    assert total_variation(p, q) < found.w1_low <= exact.w1 <= found.w1_high < 2 * exact.w1
    assert dataclasses.replace(found, w1=exact.w1, w1_low=exact.w1, w1_high=exact.w1) == exact
    monkeypatch.setattr(module, "PAIRS", 0)  # not even for the halves, whose bounds are then added
    looser = compare(p, q, bandwidths=[])
    assert total_variation(p, q) <= looser.w1_low <= found.w1_low
    assert looser.w1_high == found.w1_high


def test_independent_tokens_are_moved_one_by_one() -> None:
    # Coupling each token by itself costs the sum of their total variations, and nothing less does.
    p, q = product([0.5, 0.5], [0.8, 0.2], [0.1, 0.9]), product([0.2, 0.8], [0.7, 0.3], [0.1, 0.9])
    assert hamming_w1(p, q) == pytest.approx(0.3 + 0.1)
    p, q = product([0.2, 0.3, 0.5], [1.0, 0.0, 0.0]), product([0.5, 0.3, 0.2], [0.0, 0.5, 0.5])
    assert hamming_w1(p, q) == pytest.approx(0.3 + 1)


@pytest.mark.parametrize("tokens", [3, 12, 16])
def test_half_of_the_strings_are_one_flip_from_even_parity(tokens: int) -> None:
    # 2^15 strings against 2^15 of the other parity are too many, but the bounds meet.
    spec = f"parity:{tokens}"
    found = compare(of_spec(spec), by_gpt(spec, 0), bandwidths=[1.0])
    assert found.kl == pytest.approx(math.log(2), abs=1e-11)
    assert found.reverse_kl == math.inf
    assert found.total_variation == pytest.approx(0.5)
    assert found.w1 == pytest.approx(0.5)
    assert found.w1_low == pytest.approx(found.w1_high)


def test_a_symbol_copied_is_far_from_independent_symbols() -> None:
    # The nearest constant string is N minus the largest count away; a fair coin's strings of 3
    # have largest counts 3 (2 of 8) and 2 (6 of 8), and the plan is balanced: W1 = 6/8.
    spec = "copy:tokens=3,symbols=2"
    found = compare(of_spec(spec), by_gpt(spec, 0), bandwidths=[1.0, 2.0])
    assert found.w1 == pytest.approx(6 / 8)
    assert found.total_variation == pytest.approx(1 - 2 / 8)
    assert found.kl == pytest.approx(2 * math.log(2))
    assert len(found.mmd_squared) == 2


def test_equal_laws_are_at_no_distance_whatever_rounding_says() -> None:
    p, _ = random_pair(2, 8)
    noisy = p.probabilities.numpy() * (1 + 1e-14 * np.random.default_rng(0).normal(size=256))
    found = compare(p, law(noisy, 2, 8), bandwidths=[1.0])
    assert found.w1 == 0
    assert found.kl == pytest.approx(0, abs=1e-14)
    assert found.mmd_squared[0] == pytest.approx(0, abs=1e-25)
    one = of_spec("copy:tokens=100,symbols=1")
    assert compare(one, one, bandwidths=[1.0]).w1 == 0


def test_many_symbols_of_a_single_token_need_no_plan() -> None:
    p, q = random_pair(60_000, 1)
    found = compare(p, q, bandwidths=[1.0])
    assert found.w1 == pytest.approx(total_variation(p, q))


def test_the_law_of_some_tokens_is_nearer() -> None:
    p, q = random_pair(3, 4)
    whole, part = (compare(a, b, bandwidths=[1.0]) for a, b in ((p, q), (p.onto([1]), q.onto([1]))))
    assert part.total_variation < whole.total_variation
    assert part.w1 is not None
    assert whole.w1 is not None
    assert part.w1 < whole.w1


# Errors


def test_laws_of_different_sequences_are_refused() -> None:
    p, q = of_spec("parity:4"), of_spec("copy:tokens=2,symbols=4")  # 16 sequences each
    for of_pair in (kl, total_variation, hamming_w1, hamming_w1_bounds):
        with pytest.raises(InputError, match=r"same sequences, got 2\^4 and 4\^2"):
            of_pair(p, q)
    with pytest.raises(InputError, match="same sequences"):
        compare(p, q, bandwidths=[1.0])


@pytest.mark.parametrize("h", [0.0, -1.0, math.inf, math.nan])
def test_a_bandwidth_is_positive_and_finite(h: float) -> None:
    p, q = random_pair(2, 3)
    with pytest.raises(InputError, match="positive and finite"):
        mmd_squared(p, q, bandwidth=h)


def test_a_plan_that_was_not_finished_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unfinished(*_: object, **__: object) -> tuple[float, dict[str, object]]:
        return 0.0, {"result_code": 3, "warning": "numItermax reached"}

    monkeypatch.setattr("ot.emd2", unfinished)
    with pytest.raises(CapcheckError, match="numItermax reached"):
        hamming_w1(*random_pair(2, 4))
