"""Laws by name: the table in the module, and one sentence for each wrong name or size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf

from capcheck.core.errors import InputError
from capcheck.data import Layout, load_target
from capcheck.data.laws import build_law
from capcheck.targets import (
    CategoricalMixture,
    DiagonalMixture,
    GaussianMixture,
    HiddenMarkov,
    MarkovChain,
    ProductMixture,
)
from capcheck.targets.target import Target

NUMBERS = np.random.default_rng(0).normal(size=(100, 4, 1))
IDS = np.random.default_rng(1).integers(0, 3, (100, 4))


def law(name: str, *, ids: bool, **facts: float) -> Target:
    rows, vocabulary = (IDS, 3) if ids else (NUMBERS, None)
    return build_law(rows, name, grid=None, vocabulary=vocabulary, **facts)


@pytest.mark.parametrize(
    ("name", "ids", "kind", "description"),
    [
        ("rows", False, ProductMixture, "100 distinct rows"),
        ("gaussian", False, GaussianMixture, "Gaussian"),
        ("mixture:2", False, GaussianMixture, "mixture of 2 Gaussians"),
        ("diagonal:3", False, DiagonalMixture, "mixture of 3 diagonal"),
        ("rows", True, CategoricalMixture, "distinct rows"),
        ("classes:2", True, CategoricalMixture, "mixture of 2 products"),
        ("markov:0", True, MarkovChain, "order 0"),
        ("markov:2", True, MarkovChain, "order 2"),
        ("hmm:5", True, HiddenMarkov, "5 states"),
    ],
)
def test_every_name_builds_the_law_that_the_table_gives(
    name: str, ids: bool, kind: type[Target], description: str
) -> None:
    target = law(name, ids=ids)
    assert type(target) is kind
    assert description in target.provenance.description
    assert target.provenance.exactness == "fitted surrogate"


@pytest.mark.parametrize(
    ("name", "ids"),
    [("mixture", False), ("diagonal", False), ("classes", True), ("markov", True), ("hmm", True)],
)
def test_a_size_that_is_left_out_is_chosen(name: str, ids: bool) -> None:
    held_out = law(name, ids=ids).provenance.held_out
    assert held_out is not None
    # No other size that was open to choice predicts the held-out rows better by much: sizes are
    # tried from small to large until one is worse.
    smallest = {"hmm": 4, "markov": 1}.get(name, 1)
    alone = law(f"{name}:{smallest}", ids=ids).provenance.held_out
    assert alone is not None
    assert held_out.log_likelihood >= alone.log_likelihood


def test_the_law_of_a_file_is_fitted_to_its_standardised_rows(
    tmp_path: Path, rows: np.ndarray
) -> None:
    np.save(tmp_path / "rows.npy", 5 * rows + 1)
    target = load_target(str(tmp_path / "rows.npy"), Layout(), law="gaussian")
    assert isinstance(target, GaussianMixture)
    centred = rows - rows.mean(0)
    standard = centred / np.sqrt((centred**2).mean())
    deviation = standard.std(0)
    fitted = LedoitWolf().fit(standard / deviation)
    expected = fitted.covariance_ * np.outer(deviation, deviation)
    assert target.covariances[0].numpy() == pytest.approx(expected, abs=1e-8)


def test_grids_reach_the_law() -> None:
    assert build_law(IDS, "markov", grid=(2, 2), vocabulary=3).spec.grid == (2, 2)
    assert build_law(NUMBERS, "gaussian", grid=(2, 2)).spec.grid == (2, 2)
    assert build_law(NUMBERS, "rows", grid=(2, 2)).spec.grid == (2, 2)


def test_a_bandwidth_smooths_the_rows() -> None:
    target = law("rows", ids=False, bandwidth=0.3)
    assert target.provenance.bandwidth == 0.3
    assert isinstance(target, ProductMixture)
    expected = 0.3 * torch.from_numpy(NUMBERS.std(0))
    assert target.scales.numpy() == pytest.approx(expected.numpy())


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, float("nan"), float("inf")])
def test_a_bandwidth_that_is_none_is_refused(bandwidth: float) -> None:
    with pytest.raises(InputError, match="bandwidth must be positive"):
        law("rows", ids=False, bandwidth=bandwidth)


@pytest.mark.parametrize(
    ("name", "ids", "message"),
    [
        (
            "markov",
            False,
            "'markov' is for categorical tokens, .*; use auto, rows",
        ),
        ("classes:2", False, "'classes' is for categorical tokens"),
        ("gaussian", True, "'gaussian' is for continuous tokens, and these are categorical"),
        (
            "mixture:2",
            True,
            "'mixture' is for continuous .*; use auto, rows, classes, markov, hmm",
        ),
        ("gausian", False, "'gausian' is unknown; did you mean 'gaussian'"),
        ("markow:2", True, "'markow' is unknown; did you mean 'markov'"),
        ("", True, "'' is unknown; known are"),
        ("gaussian:3", False, "'gaussian' has no size, got '3'; leave it out"),
        ("rows:2", True, "'rows' has no size, got '2'"),
        ("rows:", False, "'rows' has no size, got ''"),
        ("mixture:two", False, "'mixture' must have a whole number as its size, got 'two'"),
        ("mixture:", False, "must have a whole number as its size, got ''"),
        ("hmm:2.5", True, "must have a whole number as its size, got '2.5'"),
        ("hmm:-1", True, "must have a whole number as its size, got '-1'"),
        ("classes:²", True, "must have a whole number as its size, got '²'"),
        ("mixture:0", False, "a whole number of at least 1, got 0"),
        ("diagonal:51", False, "50 .*got 51"),
        ("classes:51", True, "50 .*got 51"),
        ("hmm:0", True, "a whole number of at least 1, got 0"),
        ("markov:51", True, "below the 4 tokens .*, got 51"),
        ("markov:4", True, "below the 4 tokens .*, got 4"),  # a window has 4 tokens: 3 of the past
    ],
)
def test_wrong_names_and_sizes_are_refused_in_one_sentence(
    name: str, ids: bool, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        law(name, ids=ids)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "ids"), [("gaussian", False), ("rows", True), ("markov", True)])
def test_a_bandwidth_for_another_law_is_refused(name: str, ids: bool) -> None:
    with pytest.raises(InputError, match="bandwidth smooths the rows of continuous data"):
        law(name, ids=ids, bandwidth=0.3)


@pytest.mark.parametrize("n", [1, 5])
def test_equal_rows_of_ids_are_refused_with_a_cure_that_there_is(n: int) -> None:
    with pytest.raises(InputError, match=f"2 distinct rows of token ids, got 1 in {n}; add rows"):
        build_law(np.repeat(IDS[:1], n, 0), "rows", grid=None, vocabulary=3)
    assert build_law(np.eye(2, dtype=int), "rows", grid=None, vocabulary=2).spec.tokens == 2


def test_ids_of_too_many_symbols_are_told_how_many_there_may_be() -> None:
    with pytest.raises(InputError, match=r"at most 262144 .* for 4 tokens, got 262145; use"):
        build_law(IDS, "rows", grid=None, vocabulary=262145)  # 2^20 / 4 = 262144


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("markov", "a Markov chain must have at most 4096 symbols, .* got 5000; use the law hmm"),
        ("markov:1", "a Markov chain must have at most 4096 symbols, .* got 5000; use the law hmm"),
        ("classes", "symbols x tokens must be at most 1048576, got 5000 x 256; use the law hmm"),
        ("rows", "at most 4096 different token ids for 256 tokens, got 5000; use the law hmm"),
    ],
)
def test_laws_whose_tables_many_symbols_fill_name_the_one_that_is_left(
    name: str, message: str
) -> None:
    rows = np.random.default_rng(0).integers(0, 5000, (20, 256))
    with pytest.raises(InputError, match=message) as caught:
        build_law(rows, name, grid=None, vocabulary=5000)
    assert "\n" not in str(caught.value)
