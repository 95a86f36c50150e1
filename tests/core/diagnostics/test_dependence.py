"""The dependence that is kept, against enumeration and against chains of two symbols.

A symmetric chain of two symbols that flips with probability e has rho_d = (1 - 2e)^d: two tokens at
distance d are equal with probability (1 + rho_d) / 2, each pair of equal ones with half of that.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from reference import quality as reference
from reference.sequences import Sequences, markov
from scipy import stats
from torch import Tensor

from capcheck.core.randomness import CounterRandomness
from capcheck.diagnostics.dependence import dependence_of, distances, kept, pairs_of
from capcheck.diagnostics.figure import Mean
from capcheck.targets import MarkovChain, from_table
from capcheck.targets.target import CategoricalTarget

FLIP = 0.1
TOKENS = 9


def symmetric(flip: float = FLIP, tokens: int = TOKENS) -> MarkovChain:
    stay = torch.tensor([[1 - flip, flip], [flip, 1 - flip]], dtype=torch.float64)
    return MarkovChain([torch.full((2,), 0.5).double(), stay], tokens=tokens)


def draws(target: CategoricalTarget, name: str, n: int) -> Tensor:
    return target.sample(n, CounterRandomness(0, name=name))


def coins(n: int, name: str = "coins") -> Tensor:
    return (CounterRandomness(0, name=name).uniform((n, TOKENS)) < 0.5).long()


def table(tokens: int, vocabulary: int, *, zeros: bool) -> tuple[CategoricalTarget, Sequences]:
    rng = np.random.default_rng(3)
    joint = rng.dirichlet(np.full(vocabulary**tokens, 0.4))
    if zeros:
        joint[rng.random(len(joint)) < 0.7] = 0
    joint = (joint / joint.sum()).reshape((vocabulary,) * tokens)
    listed = {x: float(joint[x]) for x in itertools.product(range(vocabulary), repeat=tokens)}
    return from_table(torch.from_numpy(joint)), Sequences(listed, vocabulary)


def chain() -> tuple[CategoricalTarget, Sequences]:
    rng = np.random.default_rng(5)
    tables = [rng.dirichlet(np.ones(3)), rng.dirichlet(np.ones(3), size=3)]
    return MarkovChain([torch.from_numpy(t) for t in tables], tokens=5), markov(tables, 5)


@pytest.mark.parametrize("shown", [5, 12, 25])
@pytest.mark.parametrize("law", ["table", "table with zeros", "chain"])
def test_the_scores_are_those_of_enumerated_pairs(law: str, shown: int) -> None:
    target, listed = chain() if law == "chain" else table(4, 3, zeros="zeros" in law)
    N, n = target.spec.tokens, 10
    x = np.random.default_rng(0).integers(0, 3, size=(n, N))
    found = pairs_of(target, torch.from_numpy(x), shown=shown)
    for d, pairs in zip(distances(N), found, strict=True):
        scored = [
            reference.scores(listed, x[turn % n], place, place + step)
            for turn in range(shown)
            for place in [turn * N // shown]
            for step in (-d, d)
            if 0 <= place + step < N
        ]
        possible = [s for s, _ in scored if math.isfinite(s)]
        assert pairs.impossible == pytest.approx(1 - len(possible) / len(scored), abs=1e-12)
        assert pairs.score is not None
        assert pairs.score.value == pytest.approx(np.mean([c for _, c in scored]), abs=1e-12)
        if pairs.information is not None:
            assert pairs.information.value == pytest.approx(np.mean(possible), abs=1e-12)


def test_distances_are_the_powers_of_two_below_the_number_of_tokens() -> None:
    assert [distances(N) for N in (1, 2, 4, 5)] == [(), (1,), (1, 2), (1, 2, 4)]


def test_the_targets_own_pairs_have_its_mutual_information_and_discrimination() -> None:
    found = pairs_of(symmetric(), draws(symmetric(), "own", 20_000), shown=20_000)
    for d, pairs in zip(distances(TOKENS), found, strict=True):
        rho = (1 - 2 * FLIP) ** d
        different = (1 - rho) / 2
        entropy = -different * math.log(different) - (1 - different) * math.log(1 - different)
        # E c = (1 + rho)/2 rho/(2 + rho) - (1 - rho)/2 rho/(2 - rho) = rho^2 / (4 - rho^2).
        expected = math.log(2) - entropy, rho**2 / (4 - rho**2)
        for mean, value in zip((pairs.information, pairs.score), expected, strict=True):
            assert mean is not None
            assert abs(mean.value - value) < 4 * math.sqrt(mean.variance)
            assert mean.variance < 1e-4


def test_mutual_information_by_enumeration_is_the_closed_form() -> None:
    stay = np.array([[1 - FLIP, FLIP], [FLIP, 1 - FLIP]])
    listed = markov([np.full(2, 0.5), stay], 5)
    for d in (1, 2, 4):
        q = (1 - (1 - 2 * FLIP) ** d) / 2
        closed = math.log(2) + q * math.log(q) + (1 - q) * math.log(1 - q)
        assert reference.mutual_information(listed, d) == pytest.approx(closed, abs=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_dependent_rows_is_the_share_that_is_kept(share: float) -> None:
    target, n = symmetric(), 8000
    dependent = draws(target, "model", n)
    x = torch.where(torch.arange(n)[:, None] % 10 < 10 * share, dependent, coins(n))
    own = pairs_of(target, draws(target, "own", n), shown=n)
    found = dependence_of(pairs_of(target, x, shown=n), own, tokens=TOKENS, level=0.99)
    assert [at.distance for at in found] == [1, 2, 4, 8]
    for at in found[:3]:
        assert at.kept.low is not None
        assert at.kept.high is not None
        assert at.kept.low < share < at.kept.high
        assert at.kept.high - at.kept.low < 0.4
    assert found[0].information.target == pytest.approx(
        math.log(2) + FLIP * math.log(FLIP) + (1 - FLIP) * math.log(1 - FLIP), abs=0.02
    )


def test_a_repeated_symbol_exaggerates_and_a_flipped_one_is_below_zero() -> None:
    target, n = symmetric(), 4000
    own = pairs_of(target, draws(target, "own", n), shown=n)
    repeated = coins(n)[:, :1].expand(-1, TOKENS)
    flipped = draws(symmetric(1 - FLIP), "flipped", n)
    rho = 1 - 2 * FLIP  # 0.8
    # Equal tokens score rho / (2 + rho): kept = (1 + (4 - rho^2) / (rho (2 + rho))) / 2 = 1 / rho.
    # Flipped ones score (1-rho)/2 rho/(2+rho) - (1+rho)/2 rho/(2-rho) = -3 rho^2 / (4 - rho^2).
    for x, expected in ((repeated, 1 / rho), (flipped, (1 - 3) / 2)):
        near = dependence_of(pairs_of(target, x, shown=n), own, tokens=TOKENS, level=0.99)[0].kept
        assert near.low is not None
        assert near.high is not None
        assert near.low < expected < near.high
        assert near.high - near.low < 0.3
    far = dependence_of(pairs_of(target, flipped, shown=n), own, tokens=TOKENS, level=0.99)[1].kept
    assert far.low is not None
    assert far.high is not None
    assert far.low < 1 < far.high  # two flips are none


def test_pairs_that_cannot_occur_are_counted_and_score_lowest() -> None:
    # 1 never follows 1; the marginals are (2/3, 1/3) throughout.
    start = torch.tensor([2 / 3, 1 / 3], dtype=torch.float64)
    follows = torch.tensor([[0.5, 0.5], [1.0, 0.0]], dtype=torch.float64)
    target = MarkovChain([start, follows], tokens=3)
    x = torch.tensor([[1, 1, 0], [0, 0, 0], [0, 1, 1], [1, 0, 1]])
    near = pairs_of(target, x, shown=12)[0]
    assert near.impossible == pytest.approx(2 / 8)  # each of the 8 pairs is seen from both ends
    # Pairs 11, 10, 00, 00, 01, 11, 10, 01: c(00) = (1/3 - 4/9) / (1/3 + 4/9) = -1/7 and
    # c(01) = c(10) = (1/3 - 2/9) / (1/3 + 2/9) = 1/5.
    assert near.score is not None
    assert near.score.value == pytest.approx((-2 - 2 / 7 + 4 / 5) / 8)


def test_independent_tokens_have_no_dependence_to_keep() -> None:
    target = symmetric(0.5)
    pairs = pairs_of(target, coins(500), shown=500)
    found = dependence_of(pairs, pairs, tokens=TOKENS, level=0.95)
    assert {at.kept.value for at in found} == {None}
    assert "not clearly above 0" in found[0].kept.method


def test_the_interval_is_fiellers() -> None:
    draws, target = (
        Mean(value=0.2, variance=0.03**2, rows=500),
        Mean(value=0.5, variance=4e-4, rows=400),
    )
    figure = kept(draws, target, level=0.9)
    t = stats.t.ppf(0.95, 399)
    # (c - r C)^2 = t^2 (var c + r^2 var C) as a polynomial in r.
    roots = np.roots([0.25 - t**2 * 4e-4, -2 * 0.2 * 0.5, 0.2**2 - t**2 * 0.03**2])
    assert sorted((1 + roots) / 2) == pytest.approx([figure.low, figure.high], rel=1e-9)
    assert figure.value == pytest.approx((1 + 0.4) / 2)


def test_the_interval_covers_as_often_as_it_says() -> None:
    target, level, repetitions, n = symmetric(), 0.9, 200, 80
    found = 0
    for k in range(repetitions):
        x = draws(target, f"model {k}", n)
        x[n // 4 :] = coins(n, f"coins {k}")[n // 4 :]
        model, own = (pairs_of(target, rows, shown=n) for rows in (x, draws(target, f"own {k}", n)))
        figure = kept(model[0].score, own[0].score, level=level)
        assert figure.low is not None
        assert figure.high is not None
        found += figure.low <= 0.25 <= figure.high
    # 200 trials at 0.9 have a standard deviation of 4.2.
    assert abs(found - level * repetitions) < 4 * math.sqrt(repetitions * level * (1 - level))
