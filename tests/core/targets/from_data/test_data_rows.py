"""The rows of the data beside a law, and the scores of the laws that were tried."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from capcheck.core.excerpt import EXAMPLE_NUMBERS, EXAMPLES, excerpt
from capcheck.core.randomness import CounterRandomness
from capcheck.data import choice
from capcheck.data.laws import build_law
from capcheck.targets import from_samples, from_spec
from capcheck.targets.provenance import HeldOut
from capcheck.targets.target import Target


def numbers(n: int) -> np.ndarray:
    """Rows whose first number is the index of the row."""
    x = np.random.default_rng(2).normal(size=(n, 3, 2))
    x[:, 0, 0] = np.arange(n)
    return x


def ids(n: int) -> np.ndarray:
    found: np.ndarray = np.random.default_rng(2).integers(0, 4, size=(n, 6))
    return found


def held_out_of(target: Target) -> HeldOut:
    assert target.provenance.held_out is not None
    return target.provenance.held_out


@pytest.mark.parametrize("law", ["rows", "gaussian", "mixture:2", "diagonal", "auto"])
def test_rows_of_numbers_are_the_held_out_ones(law: str) -> None:
    x = numbers(100)
    target = build_law(x, law, grid=None)
    shown = np.array(target.provenance.data_rows)
    assert shown.shape == (20, 3, 2)  # a fifth of the rows
    # The split is that of seed 0; each row is known by its first number.
    expected = set(np.random.default_rng(0).permutation(100)[:20])
    assert {int(row) for row in shown[:, 0, 0]} == expected
    np.testing.assert_allclose(shown, x[shown[:, 0, 0].astype(int)], rtol=5e-4)
    assert build_law(x, law, grid=None).provenance.data_rows == target.provenance.data_rows


@pytest.mark.parametrize("law", ["rows", "markov:1", "classes:2", "hmm:4", "auto"])
def test_rows_of_token_ids_are_rows_of_the_data(law: str) -> None:
    x = ids(100)
    target = build_law(x, law, grid=None, vocabulary=4)
    shown = target.provenance.data_rows
    assert np.shape(shown) == (20, 6)
    assert {tuple(row) for row in shown} <= {tuple(row) for row in x.tolist()}
    draws = target.sample(20, CounterRandomness(1)).tolist()
    assert not {tuple(row) for row in draws} <= {tuple(row) for row in x.tolist()}  # the twin


def test_copies_of_a_row_are_shown_as_often_as_they_occur() -> None:
    # One row makes nine tenths of the data: 180 of 200 held-out rows are expected.
    x = ids(1000)
    x[:900] = x[0]
    shown = build_law(x, "rows", grid=None, vocabulary=4).provenance.data_rows
    assert len(shown) == EXAMPLES
    assert sum(row == x[0].tolist() for row in shown) == pytest.approx(180, abs=20)
    assert list(shown[:20]) != sorted(shown)[:20]  # in random order


def test_rows_of_large_weight_are_shown_first() -> None:
    x = numbers(1000)
    heavy = np.where(np.arange(1000) < 500, 1.0, 1e-9)
    target = from_samples(x, weights=heavy)
    assert np.array(target.provenance.data_rows)[:50, 0, 0].max() < 500


def test_without_held_out_rows_any_are_shown() -> None:
    assert build_law(np.eye(3)[:, :, None], "rows", grid=None).provenance.held_out is None
    shown = build_law(np.eye(3)[:, :, None], "rows", grid=None).provenance.data_rows
    assert sorted(np.reshape(shown, (3, 3)).tolist()) == np.eye(3)[::-1].tolist()


def test_there_are_at_most_as_many_as_there_are_samples() -> None:
    for n, N in ((1100, 3), (300, 400), (60, 6000)):
        x = np.random.default_rng(0).normal(size=(n, N, 1))
        target = from_samples(x, bandwidth=0.5)
        count = len(target.provenance.data_rows)
        # 200 of 3 numbers each, 4096 // 400 = 10, and eight in any case.
        assert count == len(excerpt(target.sample(300, CounterRandomness(0))))
        assert count == max(8, min(EXAMPLES, EXAMPLE_NUMBERS // N))


def test_a_law_without_data_has_no_rows() -> None:
    assert from_spec("modes:tokens=2").provenance.data_rows == ()


def test_rows_are_no_part_of_the_fingerprint() -> None:
    target = build_law(numbers(60), "rows", grid=None)
    other = target.with_provenance(data_rows=([[0.0]],))
    assert other.fingerprint == target.fingerprint
    assert "data_rows" not in repr(target.provenance)


@pytest.mark.parametrize(
    ("law", "names"),
    [
        ("rows", ["one Gaussian", "rows"]),
        ("gaussian", ["independent tokens", "gaussian"]),
        ("mixture:2", ["one Gaussian", "mixture:2"]),
        ("diagonal", ["independent tokens", *(f"diagonal:{k}" for k in (1, 2, 4, 8, 16))]),
    ],
)
def test_an_explicit_law_is_scored_beside_a_simpler_one(law: str, names: list[str]) -> None:
    held_out = held_out_of(build_law(numbers(100), law, grid=None))
    assert [one.name for one in held_out.candidates] == names
    assert [one.baseline for one in held_out.candidates] == [True] + [False] * (len(names) - 1)
    assert held_out.candidates[0].log_likelihood == held_out.baseline
    (chosen,) = (one for one in held_out.candidates if one.chosen)
    assert chosen.log_likelihood == held_out.log_likelihood
    assert held_out.log_likelihood == max(
        one.log_likelihood or -np.inf for one in held_out.candidates[1:]
    )


def chosen_of(target: Target) -> str:
    (chosen,) = (one.name for one in held_out_of(target).candidates if one.chosen)
    return chosen


@pytest.mark.parametrize(
    ("make", "vocabulary", "names"),
    [
        (numbers, None, {"rows", "diagonal", "gaussian", "mixture"}),
        (ids, 4, {"rows", "markov", "classes", "hmm"}),
    ],
)
def test_auto_keeps_the_score_of_every_law(
    make: Callable[[int], np.ndarray], vocabulary: int | None, names: set[str]
) -> None:
    rows = make(120)
    target = build_law(rows, "auto", grid=None, vocabulary=vocabulary)
    candidates = held_out_of(target).candidates
    assert {one.name.partition(":")[0] for one in candidates if not one.baseline} == names
    assert candidates[0].baseline
    chosen = chosen_of(target)
    again = build_law(rows, chosen, grid=None, vocabulary=vocabulary)
    assert again.fingerprint == target.fingerprint
    for name in names:  # an independent fit of each law has the best score that is told of it
        alone = held_out_of(build_law(rows, name, grid=None, vocabulary=vocabulary))
        told = [one for one in candidates if one.name.partition(":")[0] == name]
        assert max(one.log_likelihood or -np.inf for one in told) == alone.log_likelihood


def test_auto_says_why_a_law_has_no_score_or_was_preferred(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(choice, "EQUAL", 1e9)
    monkeypatch.setitem(choice.NUMBERS, "diagonal", 100)
    rows = np.random.default_rng(4).normal(size=(200, 4, 1))
    target = build_law(rows, "auto", grid=None)
    assert chosen_of(target) == "rows"
    told = {one.name: one for one in held_out_of(target).candidates}
    assert told["rows"].note.startswith("preferred, as more families have an oracle on it")
    assert told["gaussian"].note == ""
    assert told["diagonal"].log_likelihood is None
    assert told["diagonal"].note == "not fitted, as the fit would take long"


def test_auto_says_which_laws_saw_part_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(choice.NUMBERS, "diagonal", 100)
    monkeypatch.setitem(choice.SQUARES, "gaussian", 600 * 12**2)
    monkeypatch.setitem(choice.SQUARES, "mixture", 100)
    x = np.random.default_rng(4).normal(size=(1000, 12)) @ np.triu(np.ones((12, 12)))
    target = build_law(x[..., None], "auto", grid=None)
    told = {one.name: one for one in held_out_of(target).candidates}
    assert told["gaussian"].note == "fitted to 600 of the rows"
    assert told["rows"].note == ""
    assert told["mixture"].note == "not fitted, as the fit would take long"


def test_auto_says_which_laws_are_not_possible() -> None:
    x = np.random.default_rng(4).integers(0, 5000, size=(60, 256))
    target = build_law(x, "auto", grid=None, vocabulary=5000)
    told = {one.name: one for one in held_out_of(target).candidates}
    assert told["rows"].note.startswith("not possible: law 'rows' must have at most 4096 different")
    assert told["markov"].note == "not fitted, as its tables would be too large"
    assert chosen_of(target).startswith("hmm:")


def test_an_excerpt_holds_the_first_rows_to_four_digits() -> None:
    x = torch.tensor([[[1.23456]], [[-2e-7]], [[12345.6]]])
    assert excerpt(x) == [[[1.235]], [[-2e-7]], [[12350.0]]]
    assert excerpt(torch.tensor([[3, 4]])) == [[3, 4]]
