"""How often verdicts are right, over models whose true divergences are known in closed form.

    .venv/bin/python tests/benchmarks/verdicts.py [SAMPLES ...]

The target is N(0, I) or a row of independent bits. The models differ in their mean, in their scale,
along one axis or in one correlation, by as much as makes the largest of the divergences asked for a
quarter of its tolerance, or a half, or twice or four times it. Asked for is what a route to it is
known for: KL with a log-density, W2 with coupled draws, W2 and MMD with draws alone, or all three
with everything. A model that has draws alone is also judged by its KL from below, by itself and
beside the other two: it can be refused, and never accepted. At most 1% of the definite verdicts may
be wrong; of the cases at half or at twice a tolerance with a density or a coupling, at least 90%
should be decided at 2,000 samples.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import brentq

from capcheck.core.budget import Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.sequences import Kind
from capcheck.divergences import DIVERGENCES, tolerances
from capcheck.divergences.evidence import ModelEvidence
from capcheck.divergences.reference import Reference
from capcheck.judging.verdict import judge
from capcheck.procedures.trace import Traces
from capcheck.results.measurement import Measurement, Outcome
from capcheck.targets import CategoricalMixture, GaussianMixture, Target

RATIOS = (0.0, 0.25, 0.5, 2.0, 4.0)
"""Largest true divergence of a case, in tolerances (of KL, W2 and MMD squared)."""
DIMENSIONS = (2, 8, 16, 64)
BITS = 16
LARGEST = 3.0  # magnitude of a defect
ROUTES = {
    "draws": ("wasserstein", "mmd"),
    "density": ("kl",),
    "coupling": ("wasserstein",),
    "everything": ("kl", "wasserstein", "mmd"),
    "KL from below": ("kl",),
    "draws and KL from below": ("kl", "wasserstein", "mmd"),
}
"""What is asked for where that is known."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """N(mean, root root^T), and how far it is from N(0, I) in tolerances.

    Attributes:
        mean: (D,).
        root: (D, D), symmetric: x = mean + root z is the optimal map from N(0, I).
        ratio: Of the largest divergence, `largest_ratio`.
    """

    mean: np.ndarray
    root: np.ndarray
    ratio: float


def shifted(m: float, D: int) -> tuple[np.ndarray, np.ndarray]:
    """Every mean is off by m."""
    return np.full(D, m), np.eye(D)


def scaled(m: float, D: int) -> tuple[np.ndarray, np.ndarray]:
    """Every deviation is too small by a factor exp(-m)."""
    return np.zeros(D), math.exp(-m) * np.eye(D)


def squeezed(m: float, D: int) -> tuple[np.ndarray, np.ndarray]:
    """One deviation is too small by a factor exp(-m)."""
    root = np.eye(D)
    root[0, 0] = math.exp(-m)
    return np.zeros(D), root


def correlated(m: float, D: int) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours (1, 2), (3, 4), .. are correlated by tanh(m)."""
    pair = np.array([[1.0, math.tanh(m)], [math.tanh(m), 1.0]])
    along, axes = np.linalg.eigh(pair)
    return np.zeros(D), np.kron(np.eye(D // 2), axes * np.sqrt(along) @ axes.T)


DEFECTS: dict[str, Callable[[float, int], tuple[np.ndarray, np.ndarray]]] = {
    "shifted": shifted,
    "scaled": scaled,
    "squeezed": squeezed,
    "correlated": correlated,
}


def divergences(mean: np.ndarray, root: np.ndarray, bandwidths: np.ndarray) -> dict[str, float]:
    """True KL per token, W2 squared over the squared spread, MMD squared over kernel variance."""
    D = len(mean)
    along, axes = np.linalg.eigh(root)
    v, m2 = along**2, (axes.T @ mean) ** 2  # variances along the axes, squared means
    kl = 0.5 * float(np.sum(np.log(v) + (1 + m2) / v - 1))
    w2 = float(np.sum(m2 + (1 - along) ** 2))

    def kernel(variance: np.ndarray, m2: np.ndarray, h: float) -> float:
        scale = variance / h**2 + 1
        return float(np.prod(scale**-0.5) * np.exp(-0.5 * np.sum(m2 / (variance + h**2))))

    none, one = np.zeros(D), np.ones(D)
    mmd = max(
        (kernel(2 * v, none, h) - 2 * kernel(v + 1, m2, h) + kernel(2 * one, none, h))
        / (1 - kernel(2 * one, none, h))
        for h in bandwidths
    )
    return {"kl": kl / D, "wasserstein": w2 / D, "mmd": mmd}


def largest_ratio(found: dict[str, float], asked: tuple[str, ...]) -> float:
    """The largest divergence in units of its tolerance."""
    traits = DIVERGENCES["continuous"]
    return max(
        float(max(found[name], 0.0) ** (1 / traits[name].power)) / traits[name].tolerance
        for name in asked
    )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One case and what was said of it."""

    name: str
    route: str
    ratio: float
    certifiable: bool
    outcome: Outcome

    @property
    def wrong(self) -> bool:
        """Whether a definite verdict contradicts the truth."""
        truth = Outcome.REPRESENTABLE if self.ratio <= 1 else Outcome.NOT_REPRESENTABLE
        return self.outcome not in (truth, Outcome.INCONCLUSIVE)


def verdicts(
    samples: int,
    dimensions: tuple[int, ...] = DIMENSIONS,
    routes: Sequence[str] = tuple(ROUTES),
) -> Iterator[Verdict]:
    """Every case at a number of samples, by some routes."""
    for D in dimensions:
        target = GaussianMixture(torch.zeros(1, D, 1).double(), torch.eye(D).double()[None])
        references = {
            asked: Reference(target, divergences=asked, samples=samples, seed=0)
            for asked in {ROUTES[route] for route in (*routes, "everything")}
        }
        bandwidths = np.array(references["kl", "wasserstein", "mmd"].bandwidths)
        for defect, make in DEFECTS.items():
            for ratio in RATIOS:
                for route in routes:
                    name = f"{defect}, D = {D}, {ratio} tolerances, {route}"
                    reference = references[ROUTES[route]]
                    found = _gaussian(name, reference, make, D, ratio, route, bandwidths)
                    if found is not None:
                        yield found
    yield from _bits(samples)


def _gaussian(
    name: str,
    reference: Reference,
    make: Callable[[float, int], tuple[np.ndarray, np.ndarray]],
    D: int,
    ratio: float,
    route: str,
    bandwidths: np.ndarray,
) -> Verdict | None:
    """One case; None if no such defect is so large."""
    asked = ROUTES[route]

    def excess(m: float) -> float:
        return largest_ratio(divergences(*make(m, D), bandwidths), asked) - ratio

    if ratio and excess(LARGEST) < 0:
        return None
    mean, root = make(brentq(excess, 0, LARGEST) if ratio else 0.0, D)
    seed = np.random.SeedSequence([sum(map(ord, name)), len(reference.draws)])
    z = np.random.default_rng(seed).normal(size=(len(reference.draws), D))
    model = ModelEvidence(samples=torch.from_numpy(mean + z @ root)[..., None])
    if route in ("density", "everything"):
        inverse = np.linalg.inv(root)
        y = (reference.draws[..., 0].numpy() - mean) @ inverse
        log_q = -0.5 * (y**2).sum(1) - 0.5 * D * math.log(2 * math.pi)
        log_q += np.linalg.slogdet(inverse)[1]
        density = LogDensity(values=torch.from_numpy(log_q), method="closed form")
        model = replace(model, log_density=density)
    if route in ("coupling", "everything"):
        exact = torch.from_numpy(z)[..., None]
        model = replace(model, limit=lambda _: exact)
    outcome = _judged(reference, model, asked)
    certifiable = route in ("density", "coupling")
    return Verdict(name=name, route=route, ratio=ratio, certifiable=certifiable, outcome=outcome)


def _bits(samples: int) -> Iterator[Verdict]:
    """Independent bits of probability 0.3, of which the model's differ."""

    def law(p: float) -> Target:
        return CategoricalMixture(torch.tensor([[1 - p, p]]).double().expand(BITS, 2)[None])

    def kl(p: float) -> float:
        return 0.3 * math.log(0.3 / p) + 0.7 * math.log(0.7 / (1 - p))

    def excess(p: float, ratio: float) -> float:
        # W1 of independent bits is the sum of |0.3 - p|; two draws differ in 0.42 of the bits.
        return max(kl(p) / 0.01, abs(0.3 - p) / 0.42 / 0.05) - ratio

    target = law(0.3)
    reference = Reference(target, divergences=("kl", "wasserstein"), samples=samples, seed=0)
    for ratio in RATIOS:
        p = brentq(excess, 0.3, 0.9, args=(ratio,)) if ratio else 0.3
        uniform = np.random.default_rng(int(10 * ratio)).random((samples, BITS))
        density = LogDensity(values=law(p).log_prob(reference.draws), method="closed form")
        x = torch.from_numpy((uniform < p).astype(np.int64))
        model = ModelEvidence(samples=x, log_density=density)
        outcome = _judged(reference, model, ("kl", "wasserstein"))
        name = f"bits, N = {BITS}, {ratio} tolerances, density"
        yield Verdict(name=name, route="density", ratio=ratio, certifiable=True, outcome=outcome)


def _judged(reference: Reference, model: ModelEvidence, asked: tuple[str, ...]) -> Outcome:
    found = reference.estimates(model)
    measurement = Measurement(
        budget=Budget(length=0, steps=1),
        samples=len(model.samples),
        model_calls=1,
        tokens_processed=1,
        traces=Traces(),
        estimates={name: found[name] for name in asked},
    )
    kind: Kind = "continuous" if model.samples.is_floating_point() else "categorical"
    (cell,) = judge([measurement], tolerances(asked, None, kind), level=0.95)
    return cell.outcome


def summary(found: list[Verdict]) -> tuple[int, int, int, int]:
    """Definite verdicts, wrong ones, cases that should be decided, and those that are."""
    definite = [v for v in found if v.outcome is not Outcome.INCONCLUSIVE]
    clear = [v for v in found if v.certifiable and (v.ratio <= 0.5 or v.ratio >= 2)]
    decided = [v for v in clear if v.outcome is not Outcome.INCONCLUSIVE]
    return len(definite), sum(v.wrong for v in definite), len(clear), len(decided)


def main() -> None:
    """Print what was wrong or left open, and the shares."""
    for samples in [int(text) for text in sys.argv[1:]] or [500, 2000]:
        found = list(verdicts(samples))
        for verdict in found:
            if verdict.wrong:
                print(f"WRONG: {verdict.name}: {verdict.outcome.value}")
            elif verdict.certifiable and verdict.outcome is Outcome.INCONCLUSIVE:
                print(f"open: {verdict.name}")
        definite, wrong, clear, decided = summary(found)
        print(
            f"{samples} samples: {len(found)} cases, {definite} definite verdicts, {wrong} wrong; "
            f"{decided} of {clear} clear cases decided"
        )
        for route in ROUTES:
            far = [v for v in found if v.route == route and v.ratio >= 2]
            refused = sum(v.outcome is Outcome.NOT_REPRESENTABLE for v in far)
            near = [v for v in found if v.route == route and v.ratio <= 0.5]
            accepted = sum(v.outcome is Outcome.REPRESENTABLE for v in near)
            print(
                f"    {route}: {refused} of {len(far)} refused at twice a tolerance or more, "
                f"{accepted} of {len(near)} accepted at half or less"
            )


if __name__ == "__main__":
    main()
