"""Inference-time scaling: Song & Zhou 2025, https://arxiv.org/abs/2503.07154.

The paper behind the project has two worked examples of an inference procedure that no training can
mend. It prints no numbers for them; these are the closed forms.

A denoiser that is not told where it lands: along an axis of variance v one step of DDIM from t to
s multiplies by (alpha_s alpha_t v + sigma_s sigma_t) / (alpha_t^2 v + sigma_t^2), so that k steps
make a variance that is the squared product. One step from noise returns the mean, a variance of 0.
With the target time as an argument (a flow map) every number of steps makes v. Levels are j / k,
and alpha = cos(pi t / 2), sigma = sin(pi t / 2). Two numbers of variance 1 and correlation 1/2 have
axes of variance 1/2 and 3/2.

Two words by independent heads: "high card" and "full house", equally likely. Both words are drawn
from their marginals, so that "high house" comes with probability 1/4, half of what is said exists,
and KL is the total correlation, ln 2.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import torch

from capcheck.published.cells import cell_of, exact_kl, share_of_valid
from capcheck.published.claim import Claim, closed_form
from capcheck.targets import from_spec, uniform_over

__all__ = ["claims"]

SOURCE = "inference-time-scaling"
_claim = functools.partial(closed_form, source=SOURCE)
CORRELATION = 0.5
TIMES, HEADS = "target time of DDIM", "two words at once"
HANDS = (("high", "card"), ("full", "house"))


def claims() -> Iterator[Claim]:
    """Variances by number of steps, and the law of two words."""
    target = from_spec(f"gaussian:equicorrelated,tokens=2,rho={CORRELATION:g}")
    for family, steps in (("diffusion", (1, 2, 4, 16)), ("flow_map", (1, 4))):
        for k in steps:
            cell = cell_of(family, target, {"path": "cosine"}, steps=k)
            assert cell.law is not None
            covariance = torch.tensor(cell.law.covariances[0], dtype=torch.float64)
            found = torch.linalg.eigvalsh(covariance).tolist()
            for v, value in zip((1 - CORRELATION, 1 + CORRELATION), found, strict=True):
                closed = ddim_variance(v, k) if family == "diffusion" else v
                what = "DDIM" if family == "diffusion" else "flow map"
                quantity = f"variance of an axis of {v:g}, {what}, steps {k}"
                yield _claim(TIMES, quantity, closed, value, by=f"check('{family}')")
    yield from _of_two_words()


def _of_two_words() -> Iterator[Claim]:
    words = sorted({word for hand in HANDS for word in hand})
    rows = [[words.index(word) for word in hand] for hand in HANDS]
    target = uniform_over(rows, vocabulary=len(words), description="high card or full house")
    heads = cell_of("multi_token", target, {"heads": 2})
    one_by_one = cell_of("gpt", target)
    assert heads.law is not None
    place = words.index("high") * len(words) + words.index("house")
    by = {"by": "check('multi_token')"}
    yield _claim(HEADS, "KL, nats, both heads at once", math.log(2), exact_kl(heads), **by)
    chance = heads.law.probabilities[place]
    yield _claim(HEADS, 'probability of "high house"', 0.25, chance, **by)
    yield _claim(HEADS, "share of hands that exist", 0.5, share_of_valid(target, heads), **by)
    yield _claim(HEADS, "KL, nats, one by one", 0.0, exact_kl(one_by_one), by="check('gpt')")


def ddim_variance(v: float, k: int) -> float:
    """The variance of k steps of DDIM on N(0, v), from a variance of 1."""
    factor = 1.0
    for j in range(k, 0, -1):
        t, s = (0.5 * math.pi * m / k for m in (j, j - 1))
        alpha_t, sigma_t = (0.0, 1.0) if j == k else (math.cos(t), math.sin(t))
        alpha_s, sigma_s = math.cos(s), math.sin(s)
        over = alpha_t**2 * v + sigma_t**2
        factor *= (alpha_s * alpha_t * v + sigma_s * sigma_t) / over
    return factor**2
