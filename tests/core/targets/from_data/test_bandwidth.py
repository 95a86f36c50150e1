from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from sklearn.neighbors import KernelDensity

from capcheck.targets.from_data import bandwidth
from capcheck.targets.from_data.bandwidth import FEW, leave_one_out_bandwidth, queries
from capcheck.targets.from_data.empirical_categorical import QUERIES
from capcheck.targets.from_data.units import Standardised


def test_the_bandwidth_maximises_scikit_learns_leave_one_out_score(rows: np.ndarray) -> None:
    scaled = rows / rows.std(0)

    def score(h: float) -> float:
        left_out = [
            KernelDensity(bandwidth=h).fit(np.delete(scaled, r, 0)).score_samples(scaled[[r]])[0]
            for r in range(len(scaled))
        ]
        return float(np.mean(left_out))

    best = leave_one_out_bandwidth(rows[..., None], np.ones(len(rows)))
    assert score(best) > max(score(0.93 * best), score(1.07 * best))


def left_out_score(scaled: np.ndarray, w: np.ndarray, h: float, *, itself: bool = False) -> float:
    """Mean log-density of every row under the others, by enumeration of pairs."""
    squares = ((scaled[:, None] - scaled) ** 2).sum(-1)
    log_p = -squares / (2 * h**2) - scaled.shape[1] * np.log(h * np.sqrt(2 * np.pi)) + np.log(w)
    if not itself:
        np.fill_diagonal(log_p, -np.inf)
    return float(np.average(logsumexp(log_p, axis=1), weights=w))


@pytest.mark.parametrize("tile", [1, 7 * 60, 1 << 20])
def test_left_out_scores_are_sums_over_pairs(
    rows: np.ndarray, monkeypatch: pytest.MonkeyPatch, tile: int
) -> None:
    # Near neighbours at 1e-4 of the distances: expanding their squares must not lose them.
    rows = np.concatenate([rows[:30], rows[:30] + 1e-4])
    w = np.random.default_rng(0).uniform(0.1, 2, 60)
    mean = np.average(rows, axis=0, weights=w)
    scaled = rows / np.sqrt(np.average((rows - mean) ** 2, axis=0, weights=w))
    bandwidths = np.geomspace(1e-3, 1e1, 9)
    monkeypatch.setattr(bandwidth, "TILE", tile)
    found = bandwidth._left_out_scores(
        Standardised(rows[..., None], w),
        torch.from_numpy(w / w.sum()),
        torch.arange(60),
        bandwidths,
    )
    expected = np.array([left_out_score(scaled, w, h) for h in bandwidths])
    assert found - found[0] == pytest.approx(expected - expected[0], rel=1e-7)
    kept = np.array([left_out_score(scaled, w, h, itself=True) for h in bandwidths])
    assert found - found[0] != pytest.approx(kept - kept[0], rel=1e-2)  # left out, indeed


@pytest.mark.parametrize("few", [1, 4, 60])
def test_a_few_rows_say_where_and_all_rows_say_which(
    rows: np.ndarray, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(bandwidth, "FEW", few)
    scaled = rows / rows.std(0)
    best = leave_one_out_bandwidth(rows[..., None], np.ones(60))

    def score(h: float) -> float:
        return left_out_score(scaled, np.ones(60), h)

    assert score(best) > max(score(0.95 * best), score(1.05 * best))
    only = bandwidth._peak(
        Standardised(rows[..., None], np.ones(60)),
        torch.full((60,), 1 / 60, dtype=torch.float64),
        torch.tensor([0]),
        *(1e-3, 1e1),
    )[0]
    assert score(best) > score(only) + 0.01  # the first row alone would choose another


def test_the_bandwidth_stays_within_its_limits() -> None:
    far = np.array([[0.0], [1.0]])  # each can only be reached from the other
    assert 1e-3 <= leave_one_out_bandwidth(far[..., None], np.ones(2)) <= 1e1
    near = np.concatenate([np.arange(50) * 1e-9, 1 + np.arange(50) * 1e-9])[:, None, None]
    assert leave_one_out_bandwidth(near, np.ones(100)) == pytest.approx(1e-3)


def test_fewer_of_many_large_rows_are_scored() -> None:
    few, many, most = (
        queries(np.broadcast_to(0.0, (n, D, 1)))
        for n, D in ((1797, 8), (60_000, 784), (50_000, 3072))
    )
    assert (few, most) == (QUERIES, FEW + 60)
    assert FEW < many < QUERIES
