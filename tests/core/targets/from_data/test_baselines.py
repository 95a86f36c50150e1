from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.covariance import LedoitWolf

from capcheck.targets.from_data import baselines, shrinkage
from capcheck.targets.from_data.baselines import gaussian_score


@pytest.mark.parametrize("shape", [(40, 4), (12, 30), (40, 1)])
def test_the_gaussian_of_the_rows_is_that_of_scikit_learn(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(5)
    mix = rng.normal(size=(shape[1], shape[1]))
    train, test = (rng.normal(size=(n, shape[1])) @ mix + 3 for n in (shape[0], 7))
    weights = rng.uniform(size=7)
    scale = train.std(0)
    fitted = LedoitWolf().fit(train / scale)
    law = stats.multivariate_normal(fitted.location_, fitted.covariance_)
    expected = np.average(law.logpdf(test / scale), weights=weights) - np.log(scale).sum()
    monkeypatch.setattr(shrinkage, "TILE", 100)
    found = gaussian_score(train[..., None], test[..., None], weights)
    assert found == pytest.approx(expected, rel=1e-9)
    if shape == (40, 4):  # a covariance that nothing is done to is another one
        plain = stats.multivariate_normal(fitted.location_, np.cov((train / scale).T, ddof=0))
        plain_score = np.average(plain.logpdf(test / scale), weights=weights) - np.log(scale).sum()
        assert abs(found - plain_score) > 1e-3


def test_a_gaussian_of_rows_in_a_plane_scores_what_lies_off_it_worse() -> None:
    train = np.array([[1.0, 2.0], [-1.0, -2.0]])[..., None]  # which Ledoit and Wolf do not shrink
    off = train + np.array([2.0, -1.0])[:, None]
    assert -math.inf < gaussian_score(train, off) < 0 < gaussian_score(train, train) < math.inf
    assert -math.inf < gaussian_score(train[:1], train) < gaussian_score(train[:1], train[:1])


def test_of_many_large_rows_the_first_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    train, test = rng.normal(size=(60, 6, 1)), rng.normal(size=(7, 6, 1))
    whole = gaussian_score(train, test)
    monkeypatch.setattr(baselines, "PRODUCTS", 20 * 6**2)
    assert gaussian_score(train, test) == pytest.approx(gaussian_score(train[:20], test))
    assert gaussian_score(train, test) != pytest.approx(whole)
    monkeypatch.setattr(baselines, "PRODUCTS", 1)  # but no fewer than twice the coordinates
    assert gaussian_score(train, test) == pytest.approx(gaussian_score(train[:12], test))
