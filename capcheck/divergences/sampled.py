"""Divergences measured from a model's draws: which estimator stands for each, and its null floor.

A measure is made once for a target, with the target's draws and what is known of it in closed form,
and then meets the draws of every cell.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from capcheck.divergences.certificates import (
    coupling_squared,
    hamming_marginals,
    lower_certificates,
)
from capcheck.divergences.estimate import Kind, Term
from capcheck.divergences.mmd import (
    BANDWIDTHS,
    kernel_row_means,
    median_distance,
    mmd_squared_terms,
    mmd_squared_to_known,
)
from capcheck.divergences.wasserstein import (
    FAITHFUL,
    LARGEST,
    Ground,
    corrected_transport,
    transport,
)
from capcheck.targets.target import Target


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What draws tell of a divergence.

    Attributes:
        kind: What its value is.
        method: How it was had.
        rows: Rows of each sample set.
        terms: Functionals whose largest is the divergence, or an estimand said to be below it.
        below: Functionals that are at most the divergence.
        above: Functionals that are at least the divergence.
    """

    kind: Kind
    method: str
    rows: int
    terms: Sequence[Term] = ()
    below: Sequence[Term] = ()
    above: Sequence[Term] = ()


RESOLUTION = 1e-5  # share of the squared spread below which coupled draws are not told apart


class SampledMeasure(ABC):
    """An estimator bound to a target."""

    @abstractmethod
    def of(self, samples: Tensor, limit: Tensor | None = None) -> Measured:
        """Measure a model by its draws.

        Args:
            samples: (n, N, d), or (n, N) integers; finite.
            limit: Draws of the target that were made from the same random numbers, if there are.
        """


class SampledWasserstein(SampledMeasure):
    """W2 squared, or W1 of categorical tokens.

    By certificates from below and, if the draws are coupled with some of the target, from above; in
    few dimensions by corrected transport as well. Of categorical tokens corrected transport is
    only a lower bound: the cost between samples of one law falls like m^-1/2 there, and its
    correction takes too much away from a small distance.

    Args:
        target: The target.
        draws: (n, N, d) draws of it.
    """

    def __init__(self, target: Target, draws: Tensor) -> None:
        self._spec = target.spec
        self._draws = _flat(draws, self._spec.counted)
        D = self._draws.shape[1]
        self._by_transport = self._spec.kind == "categorical" or D <= FAITHFUL
        self._m = min(len(draws) // 2, LARGEST)
        self._ground: Ground = "squared Euclidean" if self._spec.kind == "continuous" else "Hamming"
        if self._by_transport:
            self._p, p_other = self._halves(self._draws)
            self._floor = transport(self._p, p_other, self._ground)

    def of(self, samples: Tensor, limit: Tensor | None = None) -> Measured:
        """Measure a model by its draws."""
        x = _flat(samples, self._spec.counted)
        above: list[Term] = []
        if limit is not None and self._spec.kind == "continuous":
            resolution = RESOLUTION * self._spec.spread**2
            y = _flat(limit, self._spec.counted)
            above = [coupling_squared(x, y, resolution=resolution)]
        coupled = ", and from above by draws that share their random numbers" if above else ""
        below = self._from_below(x)
        if not self._by_transport:
            return Measured(
                kind="two bounds" if above else "lower bound",
                method=f"certified from below by moments and projections{coupled}",
                rows=len(x),
                below=below,
                above=above,
            )
        term = corrected_transport(self._p, self._floor, *self._halves(x), self._ground)
        categorical = self._ground == "Hamming"
        certified = "; certified from below by moments and projections"
        return Measured(
            kind="lower bound" if categorical else "estimate",
            method=f"exact transport between samples under the {self._ground} distance, "
            "self-distance corrected; interval conservative"
            + ("; it falls short of W1, as do its tokens' laws" if categorical else certified)
            + coupled,
            rows=self._m,
            terms=[term],
            below=below,
            above=above,
        )

    def _from_below(self, x: np.ndarray) -> list[Term]:
        moments = [self._spec.mean, self._spec.variance]
        mean, variance = (
            moment[list(self._spec.counted)].double().cpu().numpy() for moment in moments
        )
        if self._spec.kind == "categorical":
            return [hamming_marginals(x, mean)]
        return lower_certificates(x, self._draws, mean=mean.ravel(), variance=variance.ravel())

    def _halves(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The first m rows and the m after them."""
        return x[: self._m], x[self._m : 2 * self._m]


class SampledMMD(SampledMeasure):
    """Squared MMD at three bandwidths, as a share of the kernel variance of the target.

    Args:
        target: The target.
        draws: (n, N, d) draws of it.
    """

    def __init__(self, target: Target, draws: Tensor) -> None:
        self._target = target
        self._counted = list(target.spec.counted)
        self._draws = draws[:, self._counted].flatten(1)
        unit = median_distance(self._draws)
        self.bandwidths = tuple(unit * multiple for multiple in BANDWIDTHS)
        """h of each kernel, in token units."""
        known = [
            target.kernel_self_mean(h) if target.spec.scored is None else None
            for h in self.bandwidths
        ]
        self._self_means = [mean for mean in known if mean is not None]
        self._closed_form = None not in known
        if not self._closed_form:
            within = kernel_row_means(self._draws, self._draws, self.bandwidths, same=True)
            self._self_means = [float(of_rows.mean()) for of_rows in within]
        self.variances = tuple(1 - own if own < 1 else 1.0 for own in self._self_means)
        """1 - E k(Y, Y') of each kernel; 1 for a law of one sequence."""

    def of(self, samples: Tensor, limit: Tensor | None = None) -> Measured:
        """Measure a model by its draws."""
        x = samples[:, self._counted].flatten(1)
        if self._closed_form:
            means = [self._target.kernel_mean(samples, h) for h in self.bandwidths]
            terms = mmd_squared_to_known(x, self.bandwidths, means, self._self_means)
        else:
            terms = mmd_squared_terms(x, self._draws, bandwidths=self.bandwidths)
        against = "the target's closed-form kernel means" if self._closed_form else "target draws"
        return Measured(
            kind="estimate",
            method=f"U-statistic against {against}, largest of three bandwidths; "
            "interval conservative",
            rows=len(samples),
            terms=[term.scaled(1 / v) for term, v in zip(terms, self.variances, strict=True)],
        )


def _flat(x: Tensor, counted: Sequence[int]) -> np.ndarray:
    """The counted tokens of some sequences, (n, D) in float64."""
    rows: np.ndarray = x[:, list(counted)].flatten(1).to("cpu", torch.float64).numpy()
    return rows
