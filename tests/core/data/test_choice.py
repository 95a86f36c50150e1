"""The law `auto` takes the family of laws that the rows were drawn from."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from capcheck.core.errors import InputError
from capcheck.core.randomness import CounterRandomness
from capcheck.data import Layout, choice, load_target
from capcheck.data.laws import build_law
from capcheck.targets import (
    CategoricalMixture,
    DiagonalMixture,
    GaussianMixture,
    HiddenMarkov,
    MarkovChain,
    ProductMixture,
)


def gaussian(n: int) -> np.ndarray:
    rng = np.random.default_rng(4)
    root = np.eye(12) + 0.4 * rng.normal(size=(12, 12))
    return (rng.normal(size=(n, 12)) @ root.T).reshape(n, 6, 2)


def two_widths(n: int) -> np.ndarray:
    """A mixture of a narrow and a wide product of Gaussians."""
    rng = np.random.default_rng(4)
    wide = rng.random((n, 1, 1)) < 0.5
    return rng.normal(size=(n, 8, 1)) * np.where(wide, 3.0, 0.05)


def ring(n: int) -> np.ndarray:
    """Points around a circle, which few Gaussians follow badly."""
    rng = np.random.default_rng(4)
    angle = rng.uniform(0, 2 * np.pi, n)
    points = np.stack([np.cos(angle), np.sin(angle), np.cos(7 * angle)], 1)
    return (points + 0.03 * rng.normal(size=points.shape))[..., None]


def chain(n: int) -> np.ndarray:
    rng = np.random.default_rng(4)
    move = rng.dirichlet(np.full(12, 0.2), size=12)
    x = np.zeros((n, 30), dtype=np.int64)
    for i in range(1, 30):
        x[:, i] = [rng.choice(12, p=move[v]) for v in x[:, i - 1]]
    return x[:, 20:]


def copies(n: int) -> np.ndarray:
    """Twenty sequences, over and over."""
    rng = np.random.default_rng(4)
    return rng.integers(0, 50, size=(20, 8))[rng.integers(0, 20, size=n)]


@pytest.mark.parametrize(
    ("make", "kind"),
    [(gaussian, GaussianMixture), (two_widths, DiagonalMixture), (ring, ProductMixture)],
)
def test_numbers_get_a_law_of_their_kind(make: object, kind: type) -> None:
    rows = make(600)  # type: ignore[operator]
    target = build_law(rows, "auto", grid=None)
    assert type(target) is kind
    assert "--law auto preferred it to " in target.provenance.description


def test_token_ids_get_a_law_of_their_kind() -> None:
    assert isinstance(build_law(chain(500), "auto", grid=None, vocabulary=12), MarkovChain)
    assert isinstance(build_law(copies(500), "auto", grid=None, vocabulary=50), CategoricalMixture)


def test_the_score_that_is_told_is_that_of_unseen_rows() -> None:
    rows = gaussian(2000)
    target = build_law(rows, "auto", grid=None)
    flat = rows.reshape(2000, 12)
    order = np.random.default_rng(0).permutation(2000)
    test, train = flat[order[:400]], flat[order[400:]]
    expected = stats.multivariate_normal(train.mean(0), np.cov(train.T)).logpdf(test).mean()
    held_out = target.provenance.held_out
    assert held_out is not None
    assert held_out.log_likelihood == pytest.approx(expected, abs=0.3)
    told = re.search(r"preferred it to (\w+), whose .* is (\S+)$", target.provenance.description)
    assert told is not None
    other = build_law(rows, told[1], grid=None).provenance.held_out
    assert other is not None
    assert float(told[2]) == pytest.approx(other.log_likelihood, abs=0.005)


def test_a_law_that_is_no_better_does_not_replace_a_preferred_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = two_widths(600)
    monkeypatch.setattr(choice, "EQUAL", 1e9)
    assert isinstance(build_law(rows, "auto", grid=None), ProductMixture)


def test_a_fit_that_takes_long_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(choice.NUMBERS, "diagonal", 100)
    monkeypatch.setitem(choice.SQUARES, "mixture", 100)
    target = build_law(two_widths(600), "auto", grid=None)
    assert not isinstance(target, DiagonalMixture)
    assert "; diagonal, mixture not tried, as the fit would take long" in (
        target.provenance.description
    )


def test_where_only_rows_would_be_left_laws_are_fitted_to_part_of_the_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = gaussian(3000)
    monkeypatch.setitem(choice.NUMBERS, "diagonal", 100)
    monkeypatch.setitem(choice.SQUARES, "gaussian", 1000 * 12**2)
    monkeypatch.setitem(choice.SQUARES, "mixture", 100)
    target = build_law(rows, "auto", grid=None)
    assert isinstance(target, GaussianMixture)
    assert "; fitted to 1,000 of the rows; diagonal, mixture not tried" in (
        target.provenance.description
    )
    flat = rows.reshape(3000, 12)
    mean = target.sample(4000, CounterRandomness(1)).flatten(1).mean(0).numpy()
    assert np.abs((mean - flat.mean(0)) / flat.std(0)).max() < 0.15  # not the first rows alone


def test_a_part_of_fewer_rows_than_numbers_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "LEAST", 1)
    for name in ("gaussian", "mixture"):
        monkeypatch.setitem(choice.SQUARES, name, 11 * 12**2)
    monkeypatch.setitem(choice.NUMBERS, "diagonal", 100)
    assert isinstance(build_law(gaussian(300), "auto", grid=None), ProductMixture)


def test_a_bandwidth_asks_for_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", gaussian(300))
    target = load_target(str(tmp_path / "rows.npy"), Layout(), bandwidth=0.2)
    assert isinstance(target, ProductMixture)
    assert target.provenance.bandwidth == 0.2


def test_rows_that_do_not_differ_are_refused() -> None:
    with pytest.raises(InputError, match="at least 2 distinct rows, got 1 in 30; add rows"):
        build_law(np.ones((30, 2, 1)), "auto", grid=None)


def test_few_rows_without_any_held_out_are_kept_as_rows() -> None:
    target = build_law(np.eye(3)[:, :, None], "auto", grid=None)
    assert isinstance(target, ProductMixture)


def topics(n: int, tokens: int) -> np.ndarray:
    """Words of 5,000, of which every row shows one third more often."""
    rng = np.random.default_rng(4)
    p = 1 / np.arange(1, 5001)
    x = rng.choice(5000, p=p / p.sum(), size=(n, tokens))
    found: np.ndarray = np.minimum(x - x % 3 + rng.integers(0, 3, (n, 1)), 4999)
    return found


def test_many_symbols_get_a_hidden_markov_model_and_the_reasons_why() -> None:
    target = build_law(topics(60, 256), "auto", grid=None, vocabulary=5000)
    assert isinstance(target, HiddenMarkov)
    assert target.provenance.description.endswith(
        "; rows not possible (law 'rows' must have at most 4096 different token ids for 256 "
        "tokens, got 5000); markov, classes not tried, as their tables would be too large"
    )
    held_out = target.provenance.held_out
    assert held_out is not None
    assert not held_out.memorises
