"""The reference: target draws and null floors that all cells of a run are measured against.

Every cell meets the same target draws, so that its estimates are paired with those of other cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from capcheck.divergences import DIVERGENCES
from capcheck.divergences.estimate import Estimate, Kind, Term
from capcheck.divergences.kl import is_same_law, kl_term
from capcheck.divergences.mmd import (
    BANDWIDTHS,
    kernel_row_means,
    median_distance,
    mmd_squared,
    mmd_squared_to_known,
)
from capcheck.divergences.wasserstein import (
    FAITHFUL,
    LARGEST,
    Ground,
    corrected_transport,
    transport,
)
from capcheck.errors import CapcheckError
from capcheck.probe import LogDensity, Unavailable
from capcheck.randomness import CounterRandomness
from capcheck.targets.target import Target

Measure = Callable[[Tensor], Sequence[Term]]


class Reference:
    """Target draws, and the estimators that they define.

    Args:
        target: The target.
        divergences: Names of the divergences to measure.
        samples: n, draws of the target and of the model, at least 2.
        seed: Seed of all draws.
        replicate: Independent repetition.
        level: Confidence of the intervals.
    """

    def __init__(
        self,
        target: Target,
        *,
        divergences: Sequence[str],
        samples: int,
        seed: int,
        replicate: int = 0,
        level: float = 0.95,
    ) -> None:
        self._target = target
        self._level = level
        self._divergences = DIVERGENCES[target.spec.kind]
        self._names = tuple(divergences)
        rng = CounterRandomness(seed, replicate=replicate, name="target", device=target.device)
        self.draws = target.sample(samples, rng)
        """(n, N, d) draws of the target."""
        self.log_prob = target.log_prob(self.draws)
        """(n,) their log-density, nats."""
        self._measures: dict[str, Measure] = {}
        self._methods: dict[str, str] = {}
        self._rows: dict[str, int] = {}
        self._kinds: dict[str, Kind] = {"mmd": "estimate"}
        if "wasserstein" in self._names:
            self._prepare_wasserstein()
        self._prepare_mmd()
        fresh = target.sample(samples, rng.stream("null"))
        self._null = {name: self._measures[name](fresh) for name in self._measures}

    def estimates(
        self, samples: Tensor, log_density: LogDensity | Unavailable
    ) -> dict[str, Estimate]:
        """Every divergence of the model that made these samples, by name.

        Args:
            samples: (n, N, d) draws of the model.
            log_density: The model's log-density at `draws`, or why it cannot be had.
        """
        same = (
            isinstance(log_density, LogDensity)
            and not log_density.bound
            and is_same_law(self.log_prob, log_density.values)
        )
        if same:
            self._require_agreement(samples)
            return {name: self._exactly_zero(name) for name in self._names}
        return {
            name: self._kl(log_density) if name == "kl" else self._sampled(name, samples)
            for name in self._names
        }

    def _require_agreement(self, samples: Tensor) -> None:
        """A density equal to the target's is believed only if the samples do not contradict it."""
        tolerance = self._divergences["mmd"].tolerance
        finite = bool(samples.isfinite().all())
        terms = self._measures["mmd"](samples) if finite else []
        if not finite or any(term.interval(0.9999)[0] > tolerance for term in terms):
            raise CapcheckError(
                "run() and log_density() of the probe disagree: the density is the target's, "
                "and the samples are not."
            )

    def _exactly_zero(self, name: str) -> Estimate:
        return Estimate.exact(
            0.0,
            level=self._level,
            method="the sampled law equals the target: all log-ratios vanish up to rounding",
            unit=self._divergences[name].unit,
            scale=self._divergences[name].scale(self._target.spec),
            power=self._divergences[name].power,
        )

    def _kl(self, log_density: LogDensity | Unavailable) -> Estimate:
        if isinstance(log_density, Unavailable):
            return self._unavailable("kl", log_density.reason)
        term = kl_term(self.log_prob - log_density.values)
        # What auxiliary tokens add to the divergence can only make it larger.
        auxiliary = self._target.spec.scored is not None
        of_all = ", of all tokens with the auxiliary ones" if auxiliary else ""
        return self._estimate(
            "kl",
            [term],
            kind="upper bound" if log_density.bound or auxiliary else "estimate",
            method=f"log-density by {log_density.method}, averaged over target draws{of_all}",
            samples=len(self.draws),
            null=0.0,  # the target's own density gives exactly 0 at every draw
            null_error=0.0,
        )

    def _sampled(self, name: str, samples: Tensor) -> Estimate:
        if not bool(samples.isfinite().all()):
            bad = int((~samples.isfinite()).flatten(1).any(1).sum())
            return self._unavailable(name, f"{bad} of {len(samples)} samples are not finite")
        null = max(self._null[name], key=lambda term: term.value)
        return self._estimate(
            name,
            self._measures[name](samples),
            kind=self._kinds[name],
            method=self._methods[name],
            samples=self._rows[name],
            null=null.value,
            null_error=max(term.standard_error for term in self._null[name]),
        )

    def _estimate(
        self, name: str, terms: Sequence[Term], *, kind: Kind, **facts: Any
    ) -> Estimate:
        divergence = self._divergences[name]
        return Estimate.of(
            terms,
            level=self._level,
            kind=kind,
            unit=divergence.unit,
            scale=divergence.scale(self._target.spec),
            power=divergence.power,
            **facts,
        )

    def _unavailable(self, name: str, reason: str) -> Estimate:
        return Estimate.unavailable(reason, level=self._level, unit=self._divergences[name].unit)

    def _prepare_wasserstein(self) -> None:
        spec = self._target.spec
        m = min(len(self.draws) // 2, LARGEST)
        ground: Ground = "squared Euclidean" if spec.kind == "continuous" else "Hamming"
        p, p_other = _halves(self._flat(self.draws), m)
        floor = transport(p, p_other, ground)

        def measure(samples: Tensor) -> list[Term]:
            return [corrected_transport(p, floor, *_halves(self._flat(samples), m), ground)]

        self._measures["wasserstein"] = measure
        self._rows["wasserstein"] = m
        D = p.shape[1]
        if spec.kind == "continuous":
            faithful, where = D <= FAITHFUL, f"in {D} dimensions it falls short of W2^2"
        else:
            # The cost between samples of one law falls only like m^-1/2 here, and its correction
            # takes too much away from a small distance.
            faithful, where = False, "it falls short of W1"
        self._kinds["wasserstein"] = "estimate" if faithful else "lower bound"
        self._methods["wasserstein"] = (
            f"exact transport between samples under the {ground} distance, self-distance "
            "corrected; interval conservative" + ("" if faithful else f"; {where}")
        )

    def _prepare_mmd(self) -> None:
        target, flat = self._target, self._flat(self.draws)
        unit = median_distance(flat)
        bandwidths = [unit * multiple for multiple in BANDWIDTHS]
        self_means = [
            target.kernel_self_mean(h) if target.spec.scored is None else None for h in bandwidths
        ]
        known = [mean for mean in self_means if mean is not None]
        closed_form = len(known) == len(bandwidths)
        if not closed_form:
            within = kernel_row_means(flat, flat, bandwidths, same=True)
            known = [float(of_rows.mean()) for of_rows in within]
        variances = [1 - own if own < 1 else 1.0 for own in known]  # 1: a law of one sequence

        def to_known(samples: Tensor) -> list[Term]:
            means = [target.kernel_mean(samples, h) for h in bandwidths]
            terms = mmd_squared_to_known(samples.flatten(1), bandwidths, means, known)
            return [term.scaled(1 / v) for term, v in zip(terms, variances, strict=True)]

        def to_draws(samples: Tensor) -> list[Term]:
            terms = [mmd_squared(self._flat(samples), flat, h) for h in bandwidths]
            return [term.scaled(1 / v) for term, v in zip(terms, variances, strict=True)]

        self._measures["mmd"] = to_known if closed_form else to_draws
        self._rows["mmd"] = len(self.draws)
        against = "the target's closed-form kernel means" if closed_form else "target draws"
        self._methods["mmd"] = (
            f"U-statistic against {against}, largest of three bandwidths; interval conservative"
        )

    def _flat(self, x: Tensor) -> Tensor:
        """The counted tokens of some sequences, (n, D)."""
        return x[:, list(self._target.spec.counted)].flatten(1)


def _halves(x: Tensor, m: int) -> tuple[np.ndarray, np.ndarray]:
    """The first m rows and the m after them, in float64."""
    wide = x.to("cpu", torch.float64).numpy()
    return wide[:m], wide[m : 2 * m]
