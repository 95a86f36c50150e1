"""Estimators of divergences from a model's draws, for models without an exact law or density.

A `SampledMeasure` is built once per target, from the target's draws and its closed forms (moments,
kernel means), and is then applied to the draws of every cell.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from capcheck.divergences.certificates import lower_certificates
from capcheck.divergences.coupling import coupling_squared
from capcheck.divergences.estimate import RESOLVED, Term
from capcheck.divergences.hamming_marginals import hamming_marginals
from capcheck.divergences.hamming_windows import hamming_windows
from capcheck.divergences.lost import lost_clause, lost_rows
from capcheck.divergences.measured import Measured
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
    Transport,
    corrected_transport,
    in_halves,
    transport,
)
from capcheck.targets.target import Target

__all__ = [
    "RESOLUTION",
    "UNRESOLVED",
    "WINDOWS",
    "SampledMMD",
    "SampledMeasure",
    "SampledWasserstein",
]

RESOLUTION = 1e-5  # coupling cost, as a share of the squared spread, below which draws are equal
WINDOWS = (1, 2, 4)  # tokens of the windows whose laws bound W1 of token ids from below
UNRESOLVED = 500  # rows of each set that are transported where more would not resolve a tolerance


class SampledMeasure(ABC):
    """An estimator of one divergence from one target.

    Attributes:
        fewest_draws: Fewest draws of a model that are measured as all draws are.
    """

    fewest_draws: int = 0

    @abstractmethod
    def of(self, samples: Tensor, limit: Tensor | None = None) -> Measured:
        """Measure a model's divergence from its draws.

        Args:
            samples: Draws of the model, (n, N, d), or (n, N) integers. Rows may be lost, see
                `capcheck.divergences.lost`.
            limit: Draws of the target made from the same random numbers as the first samples, or
                None.
        """


class SampledWasserstein(SampledMeasure):
    """The estimator of W2 squared, or of W1 for categorical tokens.

    Certificates bound the divergence from below and, if the draws are coupled with target draws,
    from above. In at most `FAITHFUL` dimensions, and for categorical tokens, corrected transport
    estimates it as well. For categorical tokens corrected transport is only a lower bound: the cost
    between two samples of one law falls like m^-1/2, and the correction subtracts too much from a
    small distance. Continuous tokens are centred at the target's mean and divided by its root mean
    variance for the computation; results are in token units.

    Args:
        target: The target.
        draws: Draws of the target, (n, N, d) or (n, N).
        bound: Tolerance in the unit of the divergence. Where all draws together would not resolve
            it, `UNRESOLVED` rows of each set are transported. All are if it is not given.
    """

    def __init__(self, target: Target, draws: Tensor, *, bound: float = math.inf) -> None:
        self._spec = target.spec
        counted = list(self._spec.counted)
        self._mean, variance = (
            moment[counted].double().cpu().flatten().numpy()
            for moment in (self._spec.mean, self._spec.variance)
        )  # (D,), or (N V,) of one-hot vectors
        self._unit = 1.0
        if self._spec.kind == "continuous":
            self._unit = math.sqrt(float(variance.mean())) or 1.0
        self._variance = variance / self._unit**2
        self._draws = self._flat(draws)
        D = self._draws.shape[1]
        self._by_transport = self._spec.kind == "categorical" or D <= FAITHFUL
        self._ground: Ground = "squared Euclidean" if self._spec.kind == "continuous" else "Hamming"
        self._floors: dict[int, tuple[Transport, list[Transport]]] = {}
        if self._by_transport:
            self._m = self._rows_to_transport(bound / self._unit**2)
            self._floors_of(self._m)
            if self._spec.kind == "continuous":  # the estimate depends on the number of rows
                self.fewest_draws = 2 * self._m

    def of(self, samples: Tensor, limit: Tensor | None = None) -> Measured:
        """Measure a model's divergence from its draws; see `SampledMeasure.of`."""
        measured = self._in_own_unit(samples, limit)
        square = self._unit**2
        return dataclasses.replace(
            measured,
            terms=[term.scaled(square) for term in measured.terms],
            below=[term.scaled(square) for term in measured.below],
            above=[term.scaled(square) for term in measured.above],
        )

    def _in_own_unit(self, samples: Tensor, limit: Tensor | None) -> Measured:
        lost = int(lost_rows(samples[:, list(self._spec.counted)], self._unit).sum())
        if lost:
            return Measured(
                kind="estimate",
                method=f"{lost_clause(lost, len(samples))}, where no cost is finite",
                rows=len(samples),
                terms=[Term.infinite("W2^2")],
            )
        x = self._flat(samples)
        above: list[Term] = []
        if limit is not None and self._spec.kind == "continuous":
            resolution = RESOLUTION * float(self._variance.sum())
            exact = self._flat(limit)
            shared = min(len(x), len(exact))
            above = [coupling_squared(x[:shared], exact[:shared], resolution=resolution)]
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
        m = min(self._m, len(x) // 2)
        floor, half_floors = self._floors_of(m)
        p, sets = self._draws[:m], _two_sets(x, m)
        term = corrected_transport(p, floor, *sets, self._ground, half_floors=half_floors)
        categorical = self._ground == "Hamming"
        certified = "; certified from below by moments and projections"
        return Measured(
            kind="lower bound" if categorical else "estimate",
            method=f"exact transport between samples under the {self._ground} distance, "
            "self-distance corrected; interval conservative"
            + (
                "; it falls short of W1, as do the laws of tokens and windows"
                if categorical
                else certified
            )
            + coupled,
            rows=m,
            terms=[term],
            below=below,
            above=above,
        )

    def _from_below(self, x: np.ndarray) -> list[Term]:
        if self._spec.kind == "categorical":
            ids, known = x.astype(np.int64), self._draws.astype(np.int64)
            windows = [w for w in WINDOWS if w <= x.shape[1]]
            of_windows = [hamming_windows(ids, known, width=width) for width in windows]
            if self._spec.estimated_from is not None:  # a bound needs the laws themselves
                return of_windows
            return [hamming_marginals(ids, self._mean.reshape(x.shape[1], -1)), *of_windows]
        origin = np.zeros_like(self._mean)  # _flat has moved the target's mean there
        return lower_certificates(x, self._draws, mean=origin, variance=self._variance)

    def _flat(self, x: Tensor) -> np.ndarray:
        """The counted tokens of sequences as float64 rows (n, D), centred and in the own unit."""
        rows: np.ndarray = (
            x[:, list(self._spec.counted)].flatten(1).to("cpu", torch.float64).numpy()
        )
        return (rows - self._mean) / self._unit if self._spec.kind == "continuous" else rows

    def _floors_of(self, m: int) -> tuple[Transport, list[Transport]]:
        """The transport between two sets of m draws of the target, and between halves of them."""
        if m not in self._floors:
            p, other = _two_sets(self._draws, m)
            halves = [
                transport(*half)
                for half in zip(in_halves(p), in_halves(other), strict=True)
                if self._ground == "squared Euclidean" and m > 3
            ]
            self._floors[m] = transport(p, other, self._ground), halves
        return self._floors[m]

    def _rows_to_transport(self, bound: float) -> int:
        """Rows of each set, fewer where not even all of them would resolve a tolerance.

        Token ids have a lower bound only, which more rows make tighter.
        """
        most = min(len(self._draws) // 2, LARGEST)
        if self._spec.kind == "categorical" or len(self._draws) < 4 * UNRESOLVED:
            return most
        p, p_other, q, q_other = (
            self._draws[place * UNRESOLVED : (place + 1) * UNRESOLVED] for place in range(4)
        )
        floor = transport(p, p_other, self._ground)
        error = corrected_transport(p, floor, q, q_other, self._ground).standard_error
        hopeless = error * math.sqrt(UNRESOLVED / most) > RESOLVED * bound
        return UNRESOLVED if hopeless else most


def _two_sets(x: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows 0 to m - 1 and rows m to 2m - 1 of a sample."""
    return x[:m], x[m : 2 * m]


class SampledMMD(SampledMeasure):
    """The estimator of squared MMD at three bandwidths, as a share of the target's kernel variance.

    Args:
        target: The target.
        draws: Draws of the target, (n, N, d) or (n, N).
        known: Whether to use the closed forms of the target's kernel means, where it has them.
    """

    def __init__(self, target: Target, draws: Tensor, *, known: bool = True) -> None:
        self._target = target
        self._counted = list(target.spec.counted)
        self._draws = draws[:, self._counted].flatten(1)
        unit = median_distance(self._draws)
        self.bandwidths = tuple(unit * multiple for multiple in BANDWIDTHS)
        """Bandwidth h of each kernel, in token units."""
        known = known and target.spec.scored is None
        means = [target.kernel_self_mean(h) if known else None for h in self.bandwidths]
        self._self_means = [mean for mean in means if mean is not None]
        self._closed_form = None not in means
        if not self._closed_form:
            within = kernel_row_means(self._draws, self._draws, self.bandwidths, same=True)
            self._self_means = [float(of_rows.mean()) for of_rows in within]
        self.variances = tuple(1 - own if own < 1 else 1.0 for own in self._self_means)
        """Variance 1 - E k(Y, Y') of each kernel; set to 1 for a law of a single sequence."""

    def of(self, samples: Tensor, limit: Tensor | None = None) -> Measured:
        """Measure a model's divergence from its draws; see `SampledMeasure.of`."""
        x = samples[:, self._counted].flatten(1)
        lost = lost_rows(x, max(self.bandwidths))
        if self._closed_form:
            means = [self._kernel_mean(samples, lost, h) for h in self.bandwidths]
            terms = mmd_squared_to_known(x, self.bandwidths, means, self._self_means)
        else:
            terms = mmd_squared_terms(x, self._draws, bandwidths=self.bandwidths)
        count = int(lost.sum())
        against = "the target's closed-form kernel means" if self._closed_form else "target draws"
        return Measured(
            kind="estimate",
            method=f"U-statistic against {against}, largest of three bandwidths; "
            "interval conservative" + (f"; {lost_clause(count, len(x))}" if count else ""),
            rows=len(samples),
            terms=[term.scaled(1 / v) for term, v in zip(terms, self.variances, strict=True)],
        )

    def _kernel_mean(self, samples: Tensor, lost: Tensor, bandwidth: float) -> Tensor:
        """Kernel mean E k(x, Y) of each sample, (n,); 0 for a lost row."""
        if not bool(lost.any()):
            return self._target.kernel_mean(samples, bandwidth)
        means = torch.zeros(len(samples), dtype=torch.float64, device=samples.device)
        if not bool(lost.all()):
            means[~lost] = self._target.kernel_mean(samples[~lost], bandwidth).double()
        return means
