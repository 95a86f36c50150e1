"""Tables, constraint sets and automata: counts and total correlations that are known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from capcheck.errors import InputError
from capcheck.randomness import CounterRandomness
from capcheck.targets import CategoricalMixture, from_spec, from_table, uniform_over
from capcheck.targets.tables import latin_squares, small_sudokus
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
    ],
)
def test_bad_tables_are_refused(joint: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_table(joint)


def test_a_table_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capcheck.targets.tables.LARGEST", 8)
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
    ],
)
def test_bad_sets_of_sequences_are_refused(sequences: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        uniform_over(sequences, vocabulary=3, description="pairs")


def test_sequences_of_several_lengths_are_refused() -> None:
    with pytest.raises(InputError, match=r"length|tokens"):
        uniform_over([(0, 1), (1,)], vocabulary=2, description="ragged")
