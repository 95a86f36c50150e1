"""Quantiles of mixtures against a distribution function of 40 digits, and by the law of draws."""

from __future__ import annotations

from typing import Any

import mpmath  # type: ignore[import-untyped]
import numpy as np
import pytest
import torch
from scipy import stats

from capcheck.core.randomness import CounterRandomness
from capcheck.laws import MixtureOfGaussians
from capcheck.laws import inversion as module
from capcheck.laws.inversion import mixture_quantiles
from capcheck.networks.oracles.rosenblatt import Rosenblatt
from capcheck.targets import from_spec

LEVELS = [1e-300, 1e-30, 1e-9, 0.01, 0.2, 0.3, 0.5, 0.7, 0.999, 1 - 1e-9, 1 - 2.0**-50]
RNG = np.random.default_rng(0)
# name: weights, means, deviations
CASES: dict[str, tuple[Any, Any, Any]] = {
    "one": ([1.0], [3.0], [2.0]),
    "overlapping": (RNG.dirichlet(np.ones(10)), RNG.normal(size=10), RNG.uniform(0.3, 2, 10)),
    "55 deviations apart": ([0.5, 0.5], [-27.5, 27.5], [1.0, 1.0]),
    "80 deviations apart": ([0.3, 0.7], [-40.0, 40.0], [1.0, 1.0]),
    "2000 deviations apart": ([0.2, 0.2, 0.6], [-1000.0, 0.0, 1000.0], [1.0, 1.0, 1.0]),
    "bits at a small bandwidth": ([0.7, 0.3], [0.0, 1.0], [1e-4, 1e-4]),
    "wide and narrow": ([0.25, 0.25, 0.5], [0.0, 1.0, -1.0], [1e-8, 1.0, 1e8]),
    "hardly any weight": ([1e-12, 1 - 1e-12], [-50.0, 50.0], [1.0, 0.1]),
    "no weight": ([0.0, 1.0], [-1e6, 2.0], [1.0, 0.5]),
    "many": (np.ones(400) / 400, RNG.normal(size=400), np.full(400, 1e-3)),
}


def exact_tails(case: tuple[Any, Any, Any], x: float) -> tuple[Any, Any]:
    """F(x) and 1 - F(x) to 40 digits, for weights that are divided by their sum."""
    with mpmath.workdps(40):
        w, m, s = ([mpmath.mpf(float(v)) for v in part] for part in case)
        z = [(mpmath.mpf(x) - a) / b for a, b in zip(m, s, strict=True)]
        below = [mpmath.erfc(-v / mpmath.sqrt(2)) / 2 for v in z]
        above = [mpmath.erfc(v / mpmath.sqrt(2)) / 2 for v in z]
        total = mpmath.fsum(w)
        pairs = (mpmath.fsum(a * b for a, b in zip(w, of, strict=True)) for of in (below, above))
        low, high = (side / total for side in pairs)
        return low, high


def off(case: tuple[Any, Any, Any], x: float, u: float) -> float:
    """By how much the smaller tail at x misses that of u, as a share of it."""
    low, high = exact_tails(case, x)
    with mpmath.workdps(40):
        exact = mpmath.mpf(u)
        return float((low - exact) / exact if u <= 0.5 else (1 - exact - high) / (1 - exact))


def require_quantile(case: tuple[Any, Any, Any], x: float, u: float) -> None:
    """Fail unless F(x) = u to 1e-12 of the smaller tail, or the next few numbers enclose u."""
    if abs(off(case, x, u)) <= 1e-12:
        return
    around = 8 * float(np.spacing(abs(x)))
    assert off(case, x - around, u) <= 0 <= off(case, x + around, u), (x, u, off(case, x, u))


def quantiles(case: tuple[Any, Any, Any], u: torch.Tensor) -> torch.Tensor:
    w, m, s = (torch.tensor(np.asarray(part)).to(u)[None, None] for part in case)
    return mixture_quantiles(w / w.sum(), m, s, u)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_distribution_function_at_a_quantile_is_its_level(case: tuple[Any, Any, Any]) -> None:
    u = torch.tensor(LEVELS, dtype=torch.float64)
    for level, x in zip(LEVELS, quantiles(case, u[:, None])[:, 0].tolist(), strict=True):
        require_quantile(case, x, level)
    x = float(quantiles(case, torch.tensor([[0.999]]).to(u)))
    with pytest.raises(AssertionError):  # twin: a number that is off by a millionth
        require_quantile(case, x * (1 + 1e-6), 0.999)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_single_precision_ends_at_its_own_digits(case: tuple[Any, Any, Any]) -> None:
    levels = [1e-30, 1e-5, 0.2, 0.5, 0.7, 1 - 2.0**-20]
    u = torch.tensor(levels, dtype=torch.float32)
    found = quantiles(case, u[:, None])[:, 0]
    assert found.dtype == torch.float32
    w, m, s = (np.asarray(part, dtype=np.float32).astype(float) for part in case)
    rounded = (w, m, s)
    for level, x in zip(u.tolist(), found.tolist(), strict=True):
        around = 64 * float(np.spacing(np.float32(abs(x) + s.max() * 1e-3)))
        near = abs(off(rounded, x, level)) <= 1e-4
        assert near or off(rounded, x - around, level) <= 0 <= off(rounded, x + around, level)


def test_a_point_mass_is_its_own_quantile() -> None:
    # Atoms at 0 and 5 of weights 0.3 and 0.2, and a Gaussian at 2 between them.
    parts = ([0.3, 0.5, 0.2], [0.0, 2, 5], [0.0, 0.1, 0])
    w, m, s = (torch.tensor([[part]], dtype=torch.float64) for part in parts)
    u = torch.tensor([[0.001], [0.299], [0.55], [0.81], [0.999]], dtype=torch.float64)
    found = mixture_quantiles(w, m, s, u)[:, 0]
    assert found[[0, 1, 3, 4]].tolist() == [0, 0, 5, 5]
    assert float(found[2]) == pytest.approx(2.0, abs=1e-12)  # 0.3 + 0.5 / 2
    law = MixtureOfGaussians(w.log(), m[..., None], s.square()[..., None])
    at = torch.tensor([[[0.0]], [[5.0]], [[4.0]]]).double()
    assert law.cdf(at)[:, 0].tolist() == pytest.approx([0.3, 1.0, 0.8])


def test_rows_do_not_know_each_other() -> None:
    rng = CounterRandomness(0)
    w = rng.uniform((60, 3, 5))
    w = w / w.sum(-1, keepdim=True)
    m, s, u = 30 * rng.normal((1, 3, 5)), rng.uniform((1, 1, 5)), rng.uniform((60, 3))
    whole = mixture_quantiles(w, m, s, u)
    alone = torch.cat([mixture_quantiles(w[[i]], m, s, u[[i]]) for i in range(60)])
    assert (whole - alone).abs().max() < 1e-12
    assert torch.equal(whole[:, [1]], mixture_quantiles(w[:, [1]], m[:, [1]], s, u[:, [1]]))


@pytest.mark.parametrize("gap", [55, 80, 500])
def test_draws_of_distant_modes_follow_their_law(gap: int) -> None:
    target = from_spec(f"modes:tokens=1,modes=2,gap={gap}")
    draw = Rosenblatt(target=target)
    x = draw(CounterRandomness(1).normal((10_000, 1, 1)))[:, 0, 0].numpy()

    def law(at: Any) -> Any:
        return 0.5 * (stats.norm.cdf(at + gap / 2) + stats.norm.cdf(at - gap / 2))

    assert stats.kstest(x, law).pvalue > 1e-3
    # Twin: a map that is wrong for one draw of fifteen, by some deviations of its mode.
    wrong = np.where(np.arange(len(x)) % 15 == 0, x + 5, x)
    assert stats.kstest(wrong, law).pvalue < 1e-3
    # Of each mode by itself, which a wrong spread inside the modes does not pass.
    own = x[x < 0] + gap / 2
    assert stats.kstest(own, stats.norm.cdf).pvalue > 1e-3
    assert stats.kstest(1.2 * own, stats.norm.cdf).pvalue < 1e-3


def test_a_bracket_is_bisected_to_its_end_where_no_step_helps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "FREE", 0)  # no step but bisections
    u = torch.tensor(LEVELS[2:], dtype=torch.float64)
    for case in (CASES["80 deviations apart"], CASES["wide and narrow"]):
        for level, x in zip(LEVELS[2:], quantiles(case, u[:, None])[:, 0].tolist(), strict=True):
            require_quantile(case, x, level)
