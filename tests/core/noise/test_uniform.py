"""Uniform noise on token ids, against matrices over symbols."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from capcheck.core.randomness import CounterRandomness
from capcheck.noise.uniform import (
    evidence_floor,
    log_noised,
    noised,
    reversed_laws,
    reversed_step,
    share_kept,
)

V = 4


def matrix(keep: float) -> np.ndarray:
    """The law of the noisy symbol, row by row of the clean one, (V, V)."""
    found: np.ndarray = keep * np.eye(V) + (1 - keep) / V
    return found


def test_noise_of_two_steps_is_that_of_one() -> None:
    t, s = 0.7, 0.3
    both = matrix(1 - s) @ matrix(share_kept(t, s))
    assert np.abs(both - matrix(1 - t)).max() < 1e-15
    assert np.abs(both - matrix(1 - s)).max() > 0.1


@pytest.mark.parametrize("keep", [0.0, 0.6, 1.0])
def test_noisy_tokens_have_the_law_of_the_matrix(keep: float) -> None:
    n = 20_000
    x = torch.arange(V).expand(n, V)
    y = noised(x, keep, V, CounterRandomness(0))
    for i in range(V):
        counts, law = np.bincount(y[:, i].numpy(), minlength=V), matrix(keep)[i]
        if keep == 1:
            assert counts.tolist() == (n * law).tolist()
            continue
        assert stats.chisquare(counts, n * law).pvalue > 1e-3
        if keep == 0.6:
            assert stats.chisquare(counts, n * matrix(0.55)[i]).pvalue < 1e-6
    table = log_noised(torch.arange(V)[None], torch.arange(V)[:, None], keep, V).exp().numpy()
    assert np.abs(table - matrix(keep)).max() < 1e-15


def test_the_floor_is_the_ratio_of_the_evidence() -> None:
    keep = torch.tensor([0.0, 0.3, 1.0]).double()
    expected = [matrix(k)[0, 1] / matrix(k)[1, 1] for k in keep.tolist()]
    assert evidence_floor(keep, V).tolist() == pytest.approx(expected, abs=1e-15)
    assert evidence_floor(keep, V + 1).tolist() != pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("t", "s"), [(1.0, 0.5), (0.7, 0.3), (0.2, 0.0), (1.0, 0.0)])
def test_steps_back_are_means_of_posteriors(t: float, s: float) -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(V), size=(3, V))
    z = np.arange(V)
    to_s, onward, whole = matrix(1 - s), matrix(share_kept(t, s)), matrix(1 - t)
    expected = np.zeros_like(p)  # sum over x_0 of p(x_0) q(x_t | x_s) q(x_s | x_0) / q(x_t | x_0)
    for r, i, x_0 in np.ndindex(p.shape):
        expected[r, i] += p[r, i, x_0] * onward[:, z[i]] * to_s[x_0] / whole[x_0, z[i]]
    P, x_t = torch.tensor(p), torch.tensor(z).expand(3, V)
    found = reversed_laws(P, x_t, t=t, s=s)
    assert np.abs(found.numpy() - expected).max() < 1e-14
    own = P.gather(-1, x_t[..., None])[..., 0]
    for y in range(V):
        one = reversed_step(P[..., y], own, x_t == y, t=t, s=s, vocabulary=V)
        assert np.abs(one.numpy() - expected[..., y]).max() < 1e-14
    other = reversed_laws(P, x_t.roll(1, 1), t=t, s=s)
    assert s == 0 or t == 1 or np.abs(other.numpy() - expected).max() > 1e-2
