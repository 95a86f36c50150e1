"""Continuous laws fitted to rows, against scikit-learn and scipy."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from reference.splits import split
from scipy import stats
from scipy.stats import multivariate_normal, norm
from sklearn.covariance import LedoitWolf
from sklearn.mixture import GaussianMixture as FittedMixture

from capcheck.core.errors import InputError
from capcheck.targets.from_data import fitted_continuous
from capcheck.targets.from_data.fitted_continuous import (
    fit_diagonal_mixture,
    fit_gaussian,
    fit_gaussian_mixture,
    from_sklearn,
)


def ledoit_wolf(rows: np.ndarray) -> Any:
    """Scipy's Gaussian with scikit-learn's shrunk covariance of the rows at unit variance."""
    flat = rows.reshape(len(rows), -1)
    deviation = flat.std(0)
    fitted = LedoitWolf().fit(flat / deviation)
    covariance = fitted.covariance_ * np.outer(deviation, deviation)
    return multivariate_normal(flat.mean(0), covariance)


@pytest.fixture
def correlated() -> np.ndarray:
    rng = np.random.default_rng(5)
    mixing = rng.normal(size=(4, 4)) * [1, 5, 0.1, 2]
    return (rng.normal(size=(150, 4)) @ mixing + [3, -2, 0, 100]).reshape(150, 2, 2)


def test_one_gaussian_is_that_of_ledoit_and_wolf(correlated: np.ndarray) -> None:
    target = fit_gaussian(correlated, grid=(1, 2))
    expected = ledoit_wolf(correlated).logpdf(correlated.reshape(150, 4))
    assert target.log_prob(torch.tensor(correlated)).tolist() == pytest.approx(expected.tolist())
    assert target.spec.grid == (1, 2)


def test_the_held_out_score_is_that_of_a_gaussian_of_the_other_rows(
    correlated: np.ndarray,
) -> None:
    train, test = split(150)
    held_out = fit_gaussian(correlated).provenance.held_out
    assert held_out is not None
    law = ledoit_wolf(correlated[train])
    assert held_out.rows == 30
    assert held_out.log_likelihood == pytest.approx(
        law.logpdf(correlated[test].reshape(30, 4)).mean()
    )
    assert held_out.in_sample == pytest.approx(law.logpdf(correlated[train].reshape(120, 4)).mean())
    independent = norm(correlated[train].mean(0), correlated[train].std(0))
    baseline = independent.logpdf(correlated[test]).sum((1, 2)).mean()
    assert held_out.baseline == pytest.approx(baseline)
    assert held_out.baseline_name == "independent tokens"
    assert not held_out.memorises


@pytest.mark.parametrize("covariance", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("tokens", [2, 4])
def test_a_mixture_of_scikit_learn_keeps_its_density(
    correlated: np.ndarray, covariance: str, tokens: int
) -> None:
    flat = correlated.reshape(150, 4)
    model = FittedMixture(3, covariance_type=covariance, random_state=0).fit(flat)
    target = from_sklearn(model, tokens=tokens)
    assert (target.spec.tokens, target.spec.dim) == (tokens, 4 // tokens)
    x = torch.tensor(flat.reshape(150, tokens, -1))
    expected = model.score_samples(flat)
    assert target.log_prob(x).tolist() == pytest.approx(expected.tolist())


def test_a_mixture_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(InputError, match="must be fitted"):
        from_sklearn(FittedMixture(2), tokens=2)
    model = FittedMixture(1).fit(np.random.default_rng(0).normal(size=(20, 4)))
    for tokens in (3, 0):
        with pytest.raises(InputError, match=f"must divide the 4 features.*got {tokens}"):
            from_sklearn(model, tokens=tokens)


MEANS = np.array([[-4.0, 0.0], [4.0, 1.0]])
COVARIANCES = np.array([[[1.0, 0.8], [0.8, 2.0]], [[0.5, -0.3], [-0.3, 0.5]]])


def two_modes(n: int, *, full: bool) -> np.ndarray:
    rng = np.random.default_rng(2)
    modes = [
        rng.multivariate_normal(m, C if full else np.diag(np.diag(C)), size=k)
        for m, C, k in zip(MEANS, COVARIANCES, (3 * n // 10, 7 * n // 10), strict=True)
    ]
    rows: np.ndarray = rng.permutation(np.concatenate(modes))
    return rows[..., None]


def test_full_covariances_are_recovered() -> None:
    target = fit_gaussian_mixture(two_modes(3000, full=True), 2)
    order = target.means[:, 0, 0].argsort()
    assert target.means[order][..., 0].numpy() == pytest.approx(MEANS, abs=0.12)
    assert target.covariances[order].numpy() == pytest.approx(COVARIANCES, abs=0.15)
    assert target.weights[order].tolist() == pytest.approx([0.3, 0.7], abs=0.01)
    held_out = target.provenance.held_out
    assert held_out is not None
    assert held_out.baseline_name == "one Gaussian"
    assert held_out.log_likelihood > held_out.baseline


def test_diagonal_covariances_are_recovered() -> None:
    target = fit_diagonal_mixture(two_modes(3000, full=False), 2)
    order = target.means[:, 0, 0].argsort()
    assert target.means[order][..., 0].numpy() == pytest.approx(MEANS, abs=0.12)
    deviations = np.sqrt(np.diagonal(COVARIANCES, axis1=1, axis2=2))
    assert target.scales[order][..., 0].numpy() == pytest.approx(deviations, abs=0.05)
    held_out = target.provenance.held_out
    assert held_out is not None
    assert held_out.baseline_name == "independent tokens"
    assert not held_out.memorises


@pytest.mark.parametrize(
    ("fit", "covariance"), [(fit_gaussian_mixture, "full"), (fit_diagonal_mixture, "diag")]
)
@pytest.mark.parametrize("n", [300, 1000])
def test_the_number_of_components_is_the_one_that_scikit_learn_scores_best(
    fit: Any, covariance: str, n: int
) -> None:
    rows = two_modes(n, full=True)[..., 0]
    train, test = split(n)
    deviation = rows[train].std(0)
    scores = {
        size: FittedMixture(size, covariance_type=covariance, reg_covar=1e-4, random_state=0)
        .fit(rows[train] / deviation)
        .score(rows[test] / deviation)
        - np.log(deviation).sum()
        for size in (1, 2, 4, 8, 16)
    }
    best = max(scores, key=lambda size: scores[size])
    target = fit(rows[..., None])
    assert len(target.means) == best > 1
    held_out = target.provenance.held_out
    assert held_out is not None
    assert held_out.log_likelihood == pytest.approx(scores[best], abs=1e-6)


def test_a_size_that_is_asked_for_is_kept() -> None:
    rows = two_modes(200, full=True)
    assert len(fit_gaussian_mixture(rows, 3).weights) == 3
    assert len(fit_diagonal_mixture(rows, 1).means) == 1


def test_the_unit_of_the_data_changes_nothing_but_the_unit() -> None:
    rows = two_modes(300, full=True)
    factors = np.array([1e-6, 1e6])[:, None]
    small, large = fit_gaussian_mixture(rows, 2), fit_gaussian_mixture(rows * factors, 2)
    x = torch.tensor(rows[:20])
    scaled = large.log_prob(x * torch.tensor(factors))  # the factors' logarithms sum to 0
    assert scaled.tolist() == pytest.approx(small.log_prob(x).tolist(), rel=1e-6)


@pytest.mark.parametrize("fit", [fit_gaussian_mixture, fit_diagonal_mixture])
@pytest.mark.parametrize(
    "rows",
    [
        np.repeat(np.random.default_rng(0).normal(size=(3, 2, 1)), 20, axis=0),
        np.ones((40, 2, 1)),
    ],
    ids=["three rows, many times", "one row, many times"],
)
def test_repeated_rows_are_fitted_by_one_gaussian_around_their_mean(
    fit: Any, rows: np.ndarray
) -> None:
    target = fit(rows)
    mean, covariance = target.gaussian()
    assert mean.tolist() == pytest.approx(rows.mean(0).flatten().tolist())
    law = stats.multivariate_normal(mean.numpy(), covariance.numpy())
    expected = law.logpdf(rows.reshape(len(rows), -1))
    assert target.log_prob(torch.tensor(rows)).tolist() == pytest.approx(expected.tolist())


@pytest.mark.parametrize("fit", [fit_gaussian_mixture, fit_diagonal_mixture])
def test_two_rows_are_too_few_for_a_mixture(fit: Any) -> None:
    with pytest.raises(InputError, match="at least 3 rows to fit a law to, got 2"):
        fit(np.random.default_rng(0).normal(size=(2, 2, 1)))


@pytest.mark.parametrize(
    "rows",
    [np.random.default_rng(0).normal(size=(2, 2, 1)), np.ones((2, 3, 1)), np.ones((40, 2, 1))],
    ids=["two rows", "one row twice", "one row, many times"],
)
def test_a_gaussian_of_repeated_or_few_rows_is_a_law_around_their_mean(rows: np.ndarray) -> None:
    target = fit_gaussian(rows)
    moments = target.gaussian()
    assert moments is not None
    mean, covariance = (moment.numpy() for moment in moments)
    assert mean.tolist() == pytest.approx(rows.mean(0).flatten().tolist())
    assert np.linalg.eigvalsh(covariance).min() > 0
    flat = rows.reshape(len(rows), -1) - mean
    z = np.linalg.solve(np.linalg.cholesky(covariance), flat.T)
    log_volume = 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]
    expected = -0.5 * (z**2).sum(0) - log_volume
    found = target.log_prob(torch.tensor(rows))
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-4)


@pytest.mark.parametrize(
    ("fit", "rows", "least"),
    [(fit_gaussian, 1, 2), (fit_gaussian_mixture, 2, 3), (fit_diagonal_mixture, 2, 3)],
)
def test_one_row_to_fit_to_is_too_few(fit: Any, rows: int, least: int) -> None:
    with pytest.raises(InputError, match=f"at least {least} rows to fit a law to, got {rows}"):
        fit(np.arange(2.0 * rows).reshape(rows, 2, 1))
    fit(np.arange(2.0 * least).reshape(least, 2, 1))  # what the message asks for is enough


@pytest.mark.parametrize("fit", [fit_gaussian, fit_gaussian_mixture, fit_diagonal_mixture])
def test_rows_that_are_not_finite_are_refused(fit: Any) -> None:
    rows = np.random.default_rng(0).normal(size=(20, 2, 1))
    rows[3, 0] = np.nan
    with pytest.raises(InputError, match="finite, got NaN or infinity"):
        fit(rows)
    with pytest.raises(InputError, match="shape"):
        fit(rows[..., 0])


GAUSSIANS = [fit_gaussian, fit_gaussian_mixture, fit_diagonal_mixture]
gaussians = pytest.mark.parametrize("fit", GAUSSIANS)


@gaussians
@pytest.mark.parametrize("offset", [1e6, 1e9])
def test_data_far_from_zero_are_fitted_like_data_around_it(fit: Any, offset: float) -> None:
    rows = two_modes(200, full=True)
    near, far = fit(rows), fit(rows + offset)
    assert len(far.means) == len(near.means)
    x = torch.tensor(rows[:50])
    expected = near.log_prob(x).numpy()
    assert far.log_prob(x + offset).numpy() == pytest.approx(expected, abs=1e-9 * offset**0.9)
    assert np.abs(expected - near.log_prob(x + 0.1).numpy()).max() > 0.02  # a shift is seen
    if fit is fit_diagonal_mixture and offset == 1e9:  # scikit-learn subtracts squares
        with pytest.raises(ValueError, match="ill-defined"):
            FittedMixture(2, covariance_type="diag", reg_covar=1e-4).fit(rows[..., 0] + offset)


@gaussians
@pytest.mark.parametrize("unit", [1e-80, 1e-9, 1e9, 1e80])
def test_the_unit_of_data_with_a_constant_column_changes_nothing(fit: Any, unit: float) -> None:
    rows = np.concatenate([two_modes(200, full=True), np.full((200, 1, 1), 0.5)], 1)
    one, other = fit(rows), fit(unit * rows)
    x = torch.tensor(rows[:20])
    expected = (one.log_prob(x) - 3 * math.log(unit)).tolist()
    assert other.log_prob(unit * x).tolist() == pytest.approx(expected, rel=1e-6)
    before, after = one.provenance.held_out, other.provenance.held_out
    assert before is not None
    assert after is not None
    assert after.baseline + 3 * math.log(unit) == pytest.approx(before.baseline, rel=1e-6)


@gaussians
def test_columns_of_very_different_size_keep_their_spread(fit: Any) -> None:
    # One is 1e15 times the other, and not constant for that.
    rows = two_modes(200, full=True)
    factors = np.array([1e15, 1.0])[:, None]
    x = torch.tensor(rows[:20])
    expected = (fit(rows).log_prob(x) - 15 * math.log(10)).tolist()
    found = fit(rows * factors).log_prob(x * torch.tensor(factors))
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("fit", [fit_gaussian_mixture, fit_diagonal_mixture])
def test_a_fit_that_did_not_converge_says_so(fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).normal(size=(60, 3, 1))
    assert "EM" not in fit(rows, 2).provenance.description
    monkeypatch.setattr(fitted_continuous, "ROUNDS", 2)
    description = fit(rows, 4).provenance.description  # and scikit-learn's warning is no error
    assert description.endswith("(EM stopped after 2 rounds), fitted to 60 rows")


@pytest.mark.parametrize("fit", [fit_gaussian_mixture, fit_diagonal_mixture])
def test_rows_that_repeat_allow_fewer_components(fit: Any) -> None:
    rng = np.random.default_rng(0)
    few = np.concatenate([np.zeros((90, 2, 1)), rng.normal(size=(9, 2, 1))])
    with pytest.raises(InputError, match="between 1 and 5 for 99 rows, 10 of them distinct, got 6"):
        fit(few, 6)
    law = fit(few, 5)
    assert float(law.weights.max()) >= 0.9 - 1e-6  # ninety rows are one point
    if fit is fit_gaussian_mixture:
        covariances = law.covariances.numpy()
    else:
        covariances = [np.diag(s.flatten() ** 2) for s in law.scales.numpy()]
    parts = [
        np.log(w) + stats.multivariate_normal(m.flatten(), C).logpdf(few[..., 0])
        for w, m, C in zip(law.weights.numpy(), law.means.numpy(), covariances, strict=True)
    ]
    found = law.log_prob(torch.tensor(few))
    assert found.tolist() == pytest.approx(np.logaddexp.reduce(parts).tolist(), rel=1e-5)


@gaussians
@pytest.mark.parametrize("unit", [1e-95, 1e-200, 1e101, 1e200])
def test_data_whose_squares_are_no_numbers_are_refused(fit: Any, unit: float) -> None:
    rows = unit * np.random.default_rng(0).normal(size=(20, 2, 1))
    with pytest.raises(InputError, match="rescale"):
        fit(rows)


@gaussians
def test_other_real_numbers_are_fitted_as_float64(fit: Any) -> None:
    rows = np.random.default_rng(0).integers(-9, 9, size=(40, 2, 1))
    expected = fit(rows.astype(np.float64)).fingerprint
    for dtype in (np.int16, np.float32, np.float16):
        assert fit(rows.astype(dtype)).fingerprint == expected
    for other in (rows.astype(complex), rows > 0, rows.astype(str)):
        with pytest.raises(InputError, match="data must be"):
            fit(other)


def test_a_number_of_tokens_must_be_whole() -> None:
    model = FittedMixture(1).fit(np.random.default_rng(0).normal(size=(20, 4)))
    for tokens in (2.0, -2, True):
        with pytest.raises(InputError, match=f"tokens must .*got {tokens}"):
            from_sklearn(model, tokens=tokens)  # type: ignore[arg-type]


def test_fits_repeat_themselves_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = two_modes(100, full=True)
        assert (
            fit_gaussian_mixture(rows, 2).fingerprint == fit_gaussian_mixture(rows, 2).fingerprint
        )
