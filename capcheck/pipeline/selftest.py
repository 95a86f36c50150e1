"""capcheck against what it did not compute: closed forms, a null control, and planted defects.

Every expected number stands here by a formula that shares no code with the rest of capcheck, so
that an installation, a library or a device that computes wrongly is noticed where it is.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from capcheck.api import check
from capcheck.core.errors import reason_of
from capcheck.core.record import Record
from capcheck.laws import TokenLaw
from capcheck.results.measurement import Outcome
from capcheck.results.survey import CheckResult
from capcheck.runs.environment import full_precision
from capcheck.runs.options import placement
from capcheck.samplers.check_sampler import check_sampler
from capcheck.targets import GaussianMixture, Provenance, from_spec, uniform_over

__all__ = ["SelfTest", "selftest"]

RHO, TOKENS = 0.9, 4
SPREAD, STEPS = 0.5, 6
SEEDS = 5


class SelfTest(Record):
    """One test.

    Attributes:
        name: What is tested, in a few words.
        expected: What has to be found.
        found: What was found.
        passed: Whether these agree.
        seconds: Seconds that it took.
    """

    name: str
    expected: str
    found: str
    passed: bool
    seconds: float


def selftest(device: str = "auto") -> Iterator[SelfTest]:
    """Run every test, and yield each as soon as it is done.

    Args:
        device: Device to run on; see `RunOptions`.

    Raises:
        InputError: There is no such device.
    """
    place, _ = placement(device)
    exact = 1e-9 if place.type == "cpu" else 1e-3
    for name, test in TESTS.items():
        began = time.monotonic()
        try:
            expected, found, passed = test(str(place), exact)
        except Exception as error:  # what breaks the test fails it, and the others go on
            expected, found, passed = "no error", reason_of(error), False
        yield SelfTest(
            name=name,
            expected=expected,
            found=found,
            passed=passed,
            seconds=time.monotonic() - began,
        )


Found = tuple[str, str, bool]


def _equal(expected: float, found: float | None, exact: float) -> Found:
    close = found is not None and math.isclose(found, expected, rel_tol=exact, abs_tol=exact)
    return f"{expected:.6g}", "unavailable" if found is None else f"{found:.6g}", close


def _value(result: CheckResult, divergence: str) -> float | None:
    return result.cells[-1].estimates[divergence].value


def _lost_dependence(device: str, exact: float) -> Found:
    """All tokens at once lose the total correlation, -(N - 1)/2 log(1 - rho^2) of an AR(1)."""
    place = torch.arange(TOKENS)
    covariance = RHO ** (place - place[:, None]).abs().double()
    target = GaussianMixture(torch.zeros(1, TOKENS, 1, dtype=torch.float64), covariance[None])
    options = {"rounds": 1, "order": "fixed"}
    found = check("maskgit", target, options=options, lengths=[TOKENS], steps=[1], device=device)
    return _equal(-0.5 * (TOKENS - 1) * math.log(1 - RHO**2), _value(found, "kl"), exact)


def _ddim_variance(steps: int) -> float:
    """Variance of DDIM's samples of N(0, s^2), whose denoiser multiplies by a known factor."""
    factor = 1.0
    for j in range(steps, 0, -1):
        t, s = (0.5 * math.pi * k / steps for k in (j, j - 1))
        alpha, sigma = math.cos(t), math.sin(t)
        mean = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2)
        factor *= math.cos(s) * mean + math.sin(s) * (1 - alpha * mean) / sigma
    return factor**2


def _narrow() -> GaussianMixture:
    covariance = SPREAD**2 * torch.eye(TOKENS, dtype=torch.float64)
    provenance = Provenance(description="a narrow Gaussian", unit=1.0)  # the noise's deviation is 1
    means = torch.zeros(1, TOKENS, 1, dtype=torch.float64)
    return GaussianMixture(means, covariance[None], provenance=provenance)


def _ddim(device: str, divergence: str, **keywords: Any) -> CheckResult:
    return check(
        "diffusion",
        _narrow(),
        lengths=[0],
        steps=[STEPS],
        divergences=[divergence],
        device=device,
        **keywords,
    )


def _ddim_kl(device: str, exact: float) -> Found:
    ratio = SPREAD**2 / _ddim_variance(STEPS)
    expected = 0.5 * TOKENS * (ratio - 1 - math.log(ratio))
    return _equal(expected, _value(_ddim(device, "kl"), "kl"), exact)


def _ddim_w2(device: str, exact: float) -> Found:
    expected = TOKENS * (math.sqrt(_ddim_variance(STEPS)) - SPREAD) ** 2
    return _equal(expected, _value(_ddim(device, "wasserstein"), "wasserstein"), exact)


def _parity(device: str, exact: float) -> Found:
    """The product of the marginals of parity is uniform over twice as many sequences: ln 2."""
    found = check("gpt", from_spec("parity:6"), lengths=[0], steps=[1], device=device)
    return _equal(math.log(2), _value(found, "kl"), exact)


def _chain_rule(device: str, exact: float) -> Found:
    found = check("gpt", from_spec("parity:6"), lengths=[6], steps=[1], device=device)
    return _equal(0.0, _value(found, "kl"), exact)


def _null_control(device: str, exact: float) -> Found:
    """An exact procedure is not refused from draws alone, whatever the seed."""
    target = from_spec("modes:tokens=2,modes=3,gap=6")
    outcomes = [
        check(
            "gpt",
            target,
            lengths=[2],
            steps=[1],
            samples=500,
            divergences=["wasserstein", "mmd"],
            seed=seed,
            level=0.999,
            device=device,
        ).outcome
        for seed in range(SEEDS)
    ]
    refused = outcomes.count(Outcome.NOT_REPRESENTABLE)
    return f"0 of {SEEDS} seeds refused", f"{refused}", refused == 0


def _right_network(device: str, exact: float) -> Found:
    """A network that is the oracle by its formula adds nothing."""

    def network(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = torch.cos(0.5 * math.pi * t), torch.sin(0.5 * math.pi * t)
        return (alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2))[..., None] * x

    found = _ddim(device, "wasserstein", network=network)
    part = found.found.gaps[0].part("network")
    size = math.nan if part is None else part.value
    return "adds 0", f"adds {size:.3g}", abs(size) < max(exact, 1e-6)


def _wrong_network(device: str, exact: float) -> Found:
    def network(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = torch.cos(0.5 * math.pi * t), torch.sin(0.5 * math.pi * t)
        return 0.7 * (alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2))[..., None] * x

    found = _ddim(device, "wasserstein", network=network)
    return "not representable", found.outcome.value.replace("_", " "), found.outcome.exit_code == 1


def _dropped_mode(device: str, exact: float) -> Found:
    """A predictor that never writes one of four equally likely sequences: KL is infinite."""
    sequences = [[0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 1, 1]]
    target, fewer = (
        uniform_over(rows, vocabulary=2, description="odd parity")
        for rows in (sequences, sequences[:3])
    )

    def network(tokens: Tensor, known: Tensor) -> TokenLaw:
        law = fewer.to(device=tokens.device, dtype=target.dtype)
        return law.marginals(tokens, (~known.bool()).to(law.dtype))

    found = check("gpt", target, network=network, lengths=[3], steps=[1], device=device)
    kl = _value(found, "kl")
    refused = found.outcome is Outcome.NOT_REPRESENTABLE
    words = f"{found.outcome.value.replace('_', ' ')}, KL {kl}"
    return "not representable, KL inf", words, refused and kl == math.inf


def _repeated_level(device: str, exact: float) -> Found:
    """A sampler that asks twice at one level is noticed by lint."""

    def sampler(network: Any, noise: Tensor, steps: int, generator: Any) -> Tensor:
        x = noise
        levels = [j / steps for j in range(steps, -1, -1)]
        levels[1] = levels[0]
        for t, s in itertools.pairwise(levels):
            x = x + (s - t) * (x - network(x, t)) / t
        return x

    kinds = {
        found.kind
        for found in check_sampler(sampler, config={"path": "linear"}, lint_only=True).findings
    }
    return "repeated_level", ", ".join(sorted(kinds)) or "nothing", "repeated_level" in kinds


def _products(device: str, exact: float) -> Found:
    """Matrix products have the digits of their type: no TF32."""
    a = torch.randn(256, 256, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with full_precision():
        near = (a.float().to(device) @ a.float().to(device)).cpu().double()
    error = float((near - a @ a).abs().max())
    return "error below 1e-3", f"{error:.1e}", error < 1e-3


TESTS: dict[str, Callable[[str, float], Found]] = {
    "matrix products in float32": _products,
    "KL of an AR(1) in one round: its total correlation": _lost_dependence,
    "KL of DDIM on a Gaussian, by its recursion": _ddim_kl,
    "W2 squared of DDIM on a Gaussian": _ddim_w2,
    "KL of parity's marginals: ln 2": _parity,
    "KL of the chain rule: 0": _chain_rule,
    "null control: an exact procedure": _null_control,
    "a network equal to the oracle": _right_network,
    "planted: a denoiser that is 30% too small": _wrong_network,
    "planted: a sequence that is never written": _dropped_mode,
    "planted: a sampler that repeats a level": _repeated_level,
}
