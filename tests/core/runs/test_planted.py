"""The null control and five planted defects, each at a true divergence of at least two tolerances.

The target knows no procedure here: a model is its draws, and its log-density where it has one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from capcheck import Outcome, check
from capcheck.core.budget import Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness
from capcheck.core.sequences import Kind
from capcheck.divergences import tolerances
from capcheck.divergences.evidence import ModelEvidence
from capcheck.divergences.reference import Reference
from capcheck.judging.verdict import judge
from capcheck.procedures.trace import Traces
from capcheck.results.measurement import Measurement
from capcheck.targets import CategoricalMixture, GaussianMixture, from_spec
from capcheck.targets.target import Target

SAMPLES = 2000
NAMES = ("kl", "wasserstein", "mmd")


def verdict(
    target: Target,
    samples: Tensor,
    density: LogDensity | None = None,
    names: Sequence[str] = NAMES,
) -> Outcome:
    reference = Reference(target, divergences=names, samples=SAMPLES, seed=0)
    model = ModelEvidence(samples=samples)
    if density is not None:
        model = ModelEvidence(samples=samples, log_density=density)
    kind: Kind = target.spec.kind
    measurement = Measurement(
        budget=Budget(length=0, steps=1),
        samples=SAMPLES,
        model_calls=1,
        tokens_processed=1,
        traces=Traces(),
        estimates=reference.estimates(model),
    )
    (cell,) = judge([measurement], tolerances(names, None, kind), level=0.95)
    return cell.outcome


def is_caught(target: Target, samples: Tensor) -> bool:
    """Whether draws alone refuse a model: by all divergences, and by KL from below alone."""
    return all(
        verdict(target, samples, names=names) is Outcome.NOT_REPRESENTABLE
        for names in (NAMES, ("kl",))
    )


def draws(target: Target, name: str = "model") -> Tensor:
    return target.sample(SAMPLES, CounterRandomness(0, name=name))


SPECS = ["modes:tokens=3,modes=3,gap=6", "gaussian:ar1,tokens=16", "parity:6", "brackets:40"]


@pytest.mark.parametrize("spec", SPECS)
def test_the_target_against_itself_is_representable(spec: str) -> None:
    target = from_spec(spec)
    drawn = target.sample(SAMPLES, CounterRandomness(0, name="target"))
    density = LogDensity(values=target.log_prob(drawn), method="its own")
    assert verdict(target, draws(target), density) is Outcome.REPRESENTABLE


@pytest.mark.parametrize("tokens", [2, 64])
def test_half_the_variance_is_caught(tokens: int) -> None:
    # W2 of N(0, I) and N(0, I/2) is 1 - sqrt(1/2) = 0.29 of the spread: 2.9 tolerances.
    assert 1 - math.sqrt(0.5) >= 2 * 0.1
    target = GaussianMixture(torch.zeros(1, tokens, 1).double(), torch.eye(tokens).double()[None])
    assert is_caught(target, math.sqrt(0.5) * draws(target))


def test_a_dropped_mode_is_caught() -> None:
    # Modes at -6, 0 and 6 of unit width. Without the highest, quantiles differ: W2 by quadrature.
    target = from_spec("modes:tokens=1,modes=3,gap=6")
    samples = target.sample(4 * SAMPLES, CounterRandomness(0, name="model")).flatten()
    centres = np.array([-6.0, 0.0, 6.0]) + float(target.spec.mean)
    width = math.sqrt(float(target.spec.variance) - 24)  # 36 * 2/3 between the modes
    u = (np.arange(20_000) + 0.5) / 20_000

    def quantiles(kept: np.ndarray) -> np.ndarray:
        x = np.linspace(centres[0] - 9 * width, centres[-1] + 9 * width, 40_001)
        cdf = stats.norm.cdf((x[:, None] - kept) / width).mean(1)
        return np.interp(u, cdf, x)

    w2 = math.sqrt(float(np.mean((quantiles(centres) - quantiles(centres[:2])) ** 2)))
    assert w2 / target.spec.spread >= 2 * 0.1
    below = samples[samples < centres[1] + 3]
    model = below[:SAMPLES].reshape(-1, 1, 1)
    assert is_caught(target, model)


def test_a_low_temperature_is_caught() -> None:
    # Bits of 0.3 at temperature 0.6: p^(1/0.6), normalised. KL per token by its definition.
    hot, cold = 0.3, 0.3 ** (1 / 0.6) / (0.3 ** (1 / 0.6) + 0.7 ** (1 / 0.6))
    kl = hot * math.log(hot / cold) + (1 - hot) * math.log((1 - hot) / (1 - cold))
    assert kl >= 2 * 0.01

    def bits(p: float) -> CategoricalMixture:
        return CategoricalMixture(torch.tensor([[1 - p, p]]).double().expand(16, 2)[None])

    target, model = bits(hot), bits(cold)
    drawn = target.sample(SAMPLES, CounterRandomness(0, name="target"))
    density = LogDensity(values=model.log_prob(drawn), method="closed form")
    assert verdict(target, draws(model), density) is Outcome.NOT_REPRESENTABLE
    assert is_caught(target, draws(model))


def test_half_the_steps_are_caught() -> None:
    # DDIM on N(0, v): each step multiplies by (a_s a_t v + s_s s_t) / (a_t^2 v + s_t^2).
    rho = 0.9
    place = np.arange(4)
    along = np.linalg.eigvalsh(rho ** np.abs(place[:, None] - place))

    def kl_per_token(k: int) -> float:
        t = np.linspace(1, 0, k + 1)
        a, s = np.sin(0.5 * np.pi * (1 - t)), np.sin(0.5 * np.pi * t)
        factor = np.ones(4)
        for i in range(k):
            factor *= (a[i + 1] * a[i] * along + s[i + 1] * s[i]) / (a[i] ** 2 * along + s[i] ** 2)
        v = factor**2
        return float(0.5 * (along / v - 1 + np.log(v / along)).sum() / 4)

    enough = next(k for k in (8, 16, 32, 64, 128) if kl_per_token(k) <= 0.01)
    fewer = enough // 4
    assert kl_per_token(fewer) >= 2 * 0.01
    result = check(
        "diffusion", from_spec("gaussian:ar1,tokens=4,rho=0.9"), steps=[fewer, enough], lengths=[4]
    )
    assert [cell.outcome for cell in result.cells] == [
        Outcome.NOT_REPRESENTABLE,
        Outcome.REPRESENTABLE,
    ]
    assert result.cells[0].estimates["kl"].value == pytest.approx(4 * kl_per_token(fewer), rel=1e-9)


def test_shuffled_tokens_are_caught() -> None:
    # Two tokens at correlation 0.9 against independent ones: W2 of the Gaussians by its formula,
    # tr S + tr I - 2 tr S^1/2 = 4 - 2 (sqrt(1.9) + sqrt(0.1)).
    w2 = math.sqrt(4 - 2 * (math.sqrt(1.9) + math.sqrt(0.1)))
    assert w2 / math.sqrt(2) >= 2 * 0.1
    target = from_spec("gaussian:ar1,tokens=2,rho=0.9")
    shuffled = draws(target).clone()
    shuffled[:, 1] = shuffled[
        torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(0)), 1
    ]
    assert is_caught(target, shuffled)
