"""Tables, constraint sets and automata: counts and total correlations that are known."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from capcheck.core.errors import InputError
from capcheck.core.randomness import CounterRandomness
from capcheck.targets import CategoricalMixture, from_spec, from_table, uniform_over
from capcheck.targets.categorical.automata import balanced_brackets, even_parity
from capcheck.targets.categorical.tables import latin_squares, small_sudokus
from capcheck.targets.target import Target


def support(target: Target) -> tuple[torch.Tensor, torch.Tensor]:
    """Every sequence of positive probability, and its probability, by enumeration."""
    spec = target.spec
    x = torch.tensor(list(itertools.product(range(spec.dim), repeat=spec.tokens)))
    p = target.log_prob(x).exp()
    return x[p > 0], p[p > 0]


def total_correlation(target: Target) -> float:
    """E[log p(x) - sum_i log p_i(x_i)] over the support, with p_i from the predictor."""
    x, p = support(target)
    blank = torch.zeros(1, target.spec.tokens, dtype=torch.int64)
    law = target.marginals(blank, torch.ones(1, target.spec.tokens)).mean()[0]  # (N, V)
    of_tokens = law.log().gather(1, x.T).sum(0)
    return float(p @ (p.log() - of_tokens))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("copy:tokens=5,symbols=3", 4 * math.log(3)),  # (N - 1) ln V
        ("copy:tokens=1,symbols=3", 0.0),
        ("copy:tokens=3,symbols=1", 0.0),
        ("shuffle:4", 4 * math.log(4) - math.log(24)),  # N ln N - ln N!
        ("shuffle:5", 5 * math.log(5) - math.log(120)),
        ("replacement:6", 5 * math.log(6 / 5)),  # (N - 1) ln(N / (N - 1))
        ("replacement:2", math.log(2)),
        ("parity:5", math.log(2)),  # 2^4 strings of 5 fair bits
        ("latin:3", 9 * math.log(3) - math.log(12)),
    ],
)
def test_total_correlations_are_those_of_closed_forms(spec: str, expected: float) -> None:
    assert total_correlation(from_spec(spec)) == pytest.approx(expected)


def test_latin_squares_are_as_many_as_are_known() -> None:
    assert [len(latin_squares(n)) for n in (1, 2, 3, 4)] == [1, 2, 12, 576]
    for square in latin_squares(4):
        grid = np.array(square).reshape(4, 4)
        assert all(len(set(line)) == 4 for line in (*grid, *grid.T))
    assert len(set(latin_squares(4))) == 576


def test_there_are_288_small_sudokus() -> None:
    boards = small_sudokus()
    assert len(boards) == len(set(boards)) == 288
    for board in boards:
        grid = np.array(board).reshape(4, 4)
        boxes = [grid[i : i + 2, j : j + 2].ravel() for i in (0, 2) for j in (0, 2)]
        assert all(len(set(group)) == 4 for group in (*grid, *grid.T, *boxes))
    target = from_spec("sudoku")
    assert target.spec.grid == (4, 4)
    assert float(target.log_prob(torch.tensor(boards[:1]))) == pytest.approx(-math.log(288))


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        ("latin:3", 12),
        ("shuffle:4", 24),
        ("replacement:5", 5),
        ("copy:tokens=4,symbols=3", 3),
        ("parity:6", 32),
        ("brackets:8", 14),  # the fourth Catalan number
        ("brackets:2", 1),
    ],
)
def test_constraint_sets_are_uniform_over_as_many_sequences_as_they_should(
    spec: str, count: int
) -> None:
    target = from_spec(spec)
    x, p = support(target)
    assert len(x) == count
    assert p.tolist() == pytest.approx([1 / count] * count)
    drawn = target.sample(200, CounterRandomness(0))
    assert {tuple(row) for row in drawn.tolist()} <= {tuple(row) for row in x.tolist()}


def test_parity_and_brackets_hold_on_every_sequence() -> None:
    x, _ = support(from_spec("parity:5"))
    assert (x.sum(1) % 2 == 0).all()
    x, _ = support(from_spec("brackets:6"))
    depth = (1 - 2 * x).cumsum(1)
    assert (depth >= 0).all()
    assert (depth[:, -1] == 0).all()


@pytest.mark.parametrize(("coupling", "field"), [(0.4, 0.0), (-0.7, 0.3), (0.0, 0.5)])
def test_an_ising_strip_is_its_energy_normalised_by_enumeration(
    coupling: float, field: float
) -> None:
    target = from_spec(f"ising:rows=3,columns=2,coupling={coupling},field={field}")
    x = np.array(list(itertools.product((0, 1), repeat=6)))
    s = (2 * x - 1).reshape(-1, 3, 2)
    bonds = (s[:, 1:] * s[:, :-1]).sum((1, 2)) + (s[:, :, 1:] * s[:, :, :-1]).sum((1, 2))
    energy = coupling * bonds + field * s.sum((1, 2))
    expected = energy - np.log(np.exp(energy).sum())
    assert target.log_prob(torch.from_numpy(x)).tolist() == pytest.approx(expected.tolist())
    assert target.spec.grid == (3, 2)


def test_a_table_is_the_law_that_it_lists() -> None:
    joint = torch.tensor(np.random.default_rng(0).uniform(size=(3, 3, 3)))
    joint[0, 1, 2] = 0
    target = from_table(7 * joint)
    p = joint / joint.sum()
    x = torch.tensor(list(itertools.product(range(3), repeat=3)))
    assert target.log_prob(x).exp().tolist() == pytest.approx(p.flatten().tolist())
    assert target.log_prob(torch.tensor([[0, 1, 2]])).item() == -math.inf
    assert target.spec.mean.numpy() == pytest.approx(
        np.stack([p.sum((1, 2)), p.sum((0, 2)), p.sum((0, 1))])
    )
    known = torch.tensor([[1.0, 0.0, 1.0]])
    law = target.marginals(torch.tensor([[0, 2, 0]]), known).mean()[0]
    given = p[:, 2] / p[:, 2].sum()  # (first, third) given that the second is 2
    assert law[0].tolist() == pytest.approx(given.sum(1).tolist())
    assert law[2].tolist() == pytest.approx(given.sum(0).tolist())
    assert target.provenance.exactness == "enumerated"


def test_a_table_of_counts_is_normalised_and_keeps_its_vocabulary() -> None:
    target = from_table(torch.tensor([[3, 0, 0], [0, 1, 0], [0, 0, 0]]), grid=(1, 2))
    assert target.spec.dim == 3
    assert target.spec.grid == (1, 2)
    x = torch.tensor([[0, 0], [1, 1], [2, 2]])
    assert target.log_prob(x).exp().tolist() == [0.75, 0.25, 0.0]


@pytest.mark.parametrize(
    ("joint", "message"),
    [
        (torch.tensor(1.0), r"the vocabulary, for every token, got \(\)"),
        (torch.ones(2, 3), r"got \(2, 3\)"),
        (torch.ones(0), r"got \(0,\)"),
        (torch.tensor([0.5, -0.1]), "not negative"),
        (torch.tensor([0.5, torch.nan]), "finite"),
        (torch.tensor([0.5, torch.inf]), "finite"),
        (torch.zeros(2, 2), "not all 0"),
        (torch.ones(2, dtype=torch.complex64), "real numbers, got torch.complex64"),
    ],
)
def test_bad_tables_are_refused(joint: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_table(joint)


def test_a_table_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capcheck.targets.categorical.tables.LARGEST", 8)
    assert isinstance(from_table(torch.ones(2, 2, 2)), CategoricalMixture)
    with pytest.raises(InputError, match="between 1 and 8 sequences"):
        from_table(torch.ones(3, 3))
    endless = ([i % 2, 0] for i in itertools.count())
    with pytest.raises(InputError, match=r"between 1 and 8 sequences .*, got more"):
        uniform_over(endless, vocabulary=2, description="all")


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([], "between 1 and 262144 .*, got 0"),
        ([(0, 1), (1, 0), (0, 1)], "pairs must list every sequence once, got one twice"),
        ([(0, 3)], "below the vocabulary 3, got 3"),
        ([(0, -1)], "at least 0, got -1"),
        ([[]], "sequences of at least 1 token"),
        ([(0.0, 1.7)], r"sequences of integers, got \(0.0, 1.7\)"),
        ([("a", "b")], "sequences of integers, got"),
        ([0, 1], "sequences of integers, got 0"),
        ([[[0]]], "sequences of integers, got"),
    ],
)
def test_bad_sets_of_sequences_are_refused(sequences: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        uniform_over(sequences, vocabulary=3, description="pairs")


def test_sequences_of_several_lengths_are_refused() -> None:
    with pytest.raises(InputError, match=r"length|tokens"):
        uniform_over([(0, 1), (1,)], vocabulary=2, description="ragged")


# Constraint sets with weights, against sums over a list that is spelled out here.

LISTED = [(0, 1, 2), (2, 1, 0), (1, 1, 1), (0, 1, 2), (0, 0, 2)]
WEIGHTS = [0.5, 3.0, 1.25, 2.0, 0.25]


def masses(listed: Sequence[tuple[int, ...]], weights: Sequence[float]) -> dict[Any, float]:
    """The share of every sequence."""
    total: dict[Any, float] = {}
    for row, weight in zip(listed, weights, strict=True):
        total[row] = total.get(row, 0.0) + weight / sum(weights)
    return total


def check_conditionals(target: Target, law: dict[Any, float]) -> None:
    """Each token's law given every set of known tokens and every value of them, to 1e-10."""
    N, V = target.spec.tokens, target.spec.dim
    rows = list(itertools.product(range(V), repeat=N))
    x, listed, p = torch.tensor(rows), np.array(list(law)), np.array(list(law.values()))
    shares = np.array([law.get(row, 0.0) for row in rows])
    assert target.log_prob(x).exp().numpy() == pytest.approx(shares, abs=1e-10)
    for hidden in itertools.product((0.0, 1.0), repeat=N):
        levels = torch.tensor([hidden]).expand(len(rows), N)
        found = target.marginals(x, levels).mean().numpy()  # (V^N, N, V)
        for row, laws in zip(rows, found, strict=True):
            mass = p * ((listed == row) | (np.array(hidden) == 1)).all(1)
            if mass.sum() > 0:
                expected = [np.bincount(column, mass, V) / mass.sum() for column in listed.T]
                assert laws == pytest.approx(np.array(expected), abs=1e-10)


def check_frequencies(target: Target, law: dict[Any, float], draws: int = 4000) -> None:
    """Chi-square of the sequences that are drawn; every one of the law expects at least 5."""
    drawn = Counter(map(tuple, target.sample(draws, CounterRandomness(3)).tolist()))
    assert set(drawn) <= set(law)
    expected = np.array([draws * p for p in law.values()])
    assert expected.min() >= 5
    assert stats.chisquare([drawn[row] for row in law], expected).pvalue > 1e-4


def test_a_weighted_set_is_the_list_it_was_made_of_and_weights_of_equal_rows_add_up() -> None:
    target = uniform_over(LISTED, vocabulary=3, description="few", weights=WEIGHTS)
    law = masses(LISTED, WEIGHTS)
    check_conditionals(target, law)
    check_frequencies(target, law)
    assert len(target.weights) == 4
    assert target.provenance.exactness == "enumerated"


def test_an_automaton_takes_weights_of_its_symbols() -> None:
    # p(x) ~ 0.2^k 0.8^(5-k) over the strings whose number k of ones is even.
    every = list(itertools.product((0, 1), repeat=5))
    rows = [row for row in every if sum(row) % 2 == 0]
    law = masses(rows, [0.2 ** sum(row) * 0.8 ** (5 - sum(row)) for row in rows])
    target = from_spec("parity:5,ones=0.2")
    check_conditionals(target, law)
    check_frequencies(target, law)
    table = uniform_over(list(law), vocabulary=2, description="same", weights=list(law.values()))
    check_conditionals(table, law)


def test_other_weights_are_caught() -> None:
    target = uniform_over(LISTED, vocabulary=3, description="few", weights=WEIGHTS)
    unweighted = masses(LISTED, [1.0] * 5)
    with pytest.raises(AssertionError):
        check_conditionals(target, unweighted)
    with pytest.raises(AssertionError):
        check_frequencies(target, unweighted)
    nearly = masses(LISTED, [0.5, 3.0, 1.25, 2.0, 0.25 + 1e-8])
    with pytest.raises(AssertionError):
        check_conditionals(target, nearly)
    with pytest.raises(AssertionError):
        check_frequencies(from_spec("parity:5"), masses(*biased()))


def biased() -> tuple[list[tuple[int, ...]], list[float]]:
    """Strings of even parity, each one twice as likely for two ones more."""
    rows = [row for row in itertools.product((0, 1), repeat=5) if sum(row) % 2 == 0]
    return rows, [2.0 ** (sum(row) / 2) for row in rows]


def test_weights_may_be_large_and_have_gradients_and_equal_ones_change_nothing() -> None:
    rows = torch.tensor([[0, 1], [1, 0]])
    plain = uniform_over(rows, vocabulary=2, description="two")
    for weights in (
        torch.tensor([7, 7]),
        torch.full((2,), 1e308, dtype=torch.float64, requires_grad=True),
    ):
        target = uniform_over(rows, vocabulary=2, description="two", weights=weights)
        assert target.fingerprint == plain.fingerprint
        assert not target.log_prob(rows).requires_grad
    assert not from_table(torch.ones(2, 2).requires_grad_()).log_prob(rows).requires_grad


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, 2.0], r"weights must be 3 real numbers, .* shape \(2,\)"),
        ([1.0, 2.0, 0.0], "finite and positive, got 0; leave out"),
        ([1.0, 2.0, -1.0], "finite and positive, got -1"),
        ([1.0, 2.0, math.inf], "finite and positive, got inf"),
        ([1.0, 2.0, math.nan], "finite and positive, got nan"),
        ([1j, 2.0, 1.0], "weights must be numbers"),
        (["a", "b", "c"], "weights must be numbers"),
        (3.0, "weights must be a list of numbers"),
    ],
)
def test_bad_weights_are_refused(weights: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        uniform_over([(0,), (1,), (2,)], vocabulary=3, description="three", weights=weights)


def test_parities_that_are_no_law_are_refused() -> None:
    for ones in (0.0, 1.0, math.nan):
        with pytest.raises(InputError, match=r"parity.ones must be between 0 and 1, got"):
            even_parity(4, ones=ones)
    for tokens in (0, 3):
        with pytest.raises(InputError, match=f"even and at least 2, got {tokens}"):
            balanced_brackets(tokens)
