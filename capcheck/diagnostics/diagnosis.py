"""Diagnoses: additional tests of a family's draws at its largest budget. No verdict uses them.

| name | quantity | unit | null |
|---|---|---|---|
| `classifier` | accuracy of a classifier of model against target | share of right answers | 1/2 |
| `stein` | kernel Stein discrepancy squared, tokens in standard deviations | 1 | 0 |
| `permutation` | MMD squared, mean of three kernels, against random relabellings | 1 | 0 |
| `neighbours` | KL(target to model) by nearest neighbours | nats | value of fresh target draws |

Every p-value is for the hypothesis that both laws are equal. A test that is not available has the
reason as its `method`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from scipy import stats
from torch import Tensor

from capcheck.core.arguments import shown, texts
from capcheck.core.errors import InputError, near
from capcheck.core.randomness import Randomness
from capcheck.core.record import Record
from capcheck.diagnostics.classifier import classifier_test
from capcheck.diagnostics.neighbours import nearest_neighbour_kl
from capcheck.diagnostics.permutation import permutation_test
from capcheck.diagnostics.stein import NOISE, smoothed_scores, stein_test
from capcheck.divergences.estimate import GROUPS, Term
from capcheck.divergences.lost import lost_clause, lost_rows
from capcheck.divergences.mmd import BANDWIDTHS, median_distance, mmd_squared_terms
from capcheck.targets.target import ContinuousTarget, Target

__all__ = ["DIAGNOSES", "LABELS", "MOST", "Diagnoser", "Diagnosis", "chosen_diagnoses"]

LABELS = {
    "classifier": "classifier accuracy",
    "stein": "KSD squared",
    "permutation": "MMD squared, permuted",
    "neighbours": "KL by neighbours, nats",
}
DIAGNOSES = tuple(LABELS)
MOST = 5_000  # most rows of each sample that are tested: seconds of time


class Diagnosis(Record):
    """One test of a model's draws against the target.

    Attributes:
        name: Name of the test, from `DIAGNOSES`.
        value: Measured value, or None if the test is not available.
        low: Lower end of the interval of the value.
        high: Upper end of the interval of the value.
        level: Confidence of [low, high].
        p_value: Probability of a value at least as large if model and target were equal.
        null: Mean of the value if model and target were equal.
        samples: Number of rows of each sample that the value was computed from.
        method: Method of the test, or the reason why it is not available.
    """

    name: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    level: float
    p_value: float | None = None
    null: float | None = None
    samples: int = 0
    method: str

    @property
    def label(self) -> str:
        """Name in tables."""
        return LABELS.get(self.name, self.name)

    def __str__(self) -> str:
        if self.value is None:
            return f"unavailable: {self.method}"
        ends = f"[{self.low:.3g}, {self.high:.3g}]"
        return f"{self.value:.3g} {ends}, null {self.null:.3g}, p = {self.p_value:.2g}"


def chosen_diagnoses(names: str | Iterable[str] | None) -> tuple[str, ...]:
    """Check names of diagnoses and return them in the order of the module's table; may be empty.

    Raises:
        InputError: A name is unknown.
    """
    names = () if names is None else names
    names = texts("diagnose", names, "names of diagnoses", "write ['classifier']")
    for name in names:
        if name not in DIAGNOSES:
            raise InputError(
                f"diagnose names {shown(name)}, which is unknown; {near(name, DIAGNOSES)}"
            )
    return tuple(name for name in DIAGNOSES if name in names)


class Diagnoser:
    """Runs the chosen diagnoses of a model's draws against one target.

    Args:
        target: The target.
        draws: (n, N, d) or (n, N) draws of the target.
        names: Names of the diagnoses.
        level: Confidence of the intervals.
        rng: Source of row orders, relabellings, signs and smoothing noise.
    """

    def __init__(
        self, target: Target, draws: Tensor, *, names: Sequence[str], level: float, rng: Randomness
    ) -> None:
        self._target = target
        self._names = names
        self._level = level
        self._rng = rng
        self._draws = self._flat(draws)

    def diagnose(self, samples: Tensor) -> tuple[Diagnosis, ...]:
        """Run every chosen diagnosis of a model's draws, (n, N, d) or (n, N)."""
        tests: dict[str, Callable[[Tensor], Diagnosis]] = {
            "classifier": self._classifier,
            "stein": self._stein,
            "permutation": self._permutation,
            "neighbours": self._neighbours,
        }
        lost = int(lost_rows(samples, self._target.spec.spread or 1.0).sum())
        found = []
        for name in self._names:
            try:
                if lost:
                    raise InputError(lost_clause(lost, len(samples)))
                found.append(tests[name](samples))
            except InputError as error:
                found.append(Diagnosis(name=name, level=self._level, method=str(error).rstrip(".")))
        return tuple(found)

    def _classifier(self, samples: Tensor) -> Diagnosis:
        x = self._flat(samples)
        test = classifier_test(self._draws, x, rng=self._rng, level=self._level)
        return Diagnosis(
            name="classifier",
            value=test.accuracy,
            low=test.low,
            high=test.high,
            level=self._level,
            p_value=test.p_value,
            null=0.5,
            samples=test.rows // 2,
            method="logistic regression on coordinates, squares and products, asked about rows "
            "that it has not seen; exact binomial interval and p-value",
        )

    def _stein(self, samples: Tensor) -> Diagnosis:
        target = self._target
        if not isinstance(target, ContinuousTarget) or target.spec.scored is not None:
            raise InputError("a Stein discrepancy needs a density of numbers, all of them scored")
        x, scores = smoothed_scores(target, samples[:MOST], rng=self._rng)
        test = stein_test(x, scores, c=math.sqrt(2 * x.shape[1]), rng=self._rng)
        method = (
            f"U-statistic with the inverse multiquadric kernel, draws and target smoothed by "
            f"{NOISE:g} standard deviations; interval conservative, p-value by wild bootstrap"
        )
        return self._of_term("stein", test.ksd_squared, test.p_value, 0.0, len(x), method)

    def _permutation(self, samples: Tensor) -> Diagnosis:
        x, y = self._draws, self._flat(samples)
        # Exchangeability needs a bandwidth that does not depend on the labels of the rows.
        pooled = torch.cat([x, y])
        some = self._rng.stream("bandwidth").uniform((len(pooled),)).argsort()[:1000]
        unit = median_distance(pooled[some.to(pooled.device)])
        bandwidths = [unit * multiple for multiple in BANDWIDTHS]
        test = permutation_test(x, y, bandwidths=bandwidths, rng=self._rng)
        terms = mmd_squared_terms(x, y, bandwidths=bandwidths)
        mean = Term(
            label="mean",
            value=test.statistic,
            standard_error=sum(t.standard_error for t in terms)
            / len(terms),  # an upper bound, whatever the correlation
            degrees=terms[0].degrees,
            groups=(),
        )
        method = (
            f"U-statistic, mean of {len(terms)} Gaussian kernels; interval conservative, p-value "
            f"of {len(test.permuted)} relabellings"
        )
        return self._of_term("permutation", mean, test.p_value, 0.0, min(len(x), len(y)), method)

    def _neighbours(self, samples: Tensor) -> Diagnosis:
        x = self._draws
        fresh = self._flat(self._target.sample(len(x), self._rng.stream("fresh")))
        null, term = (nearest_neighbour_kl(x, y) for y in (fresh, self._flat(samples)))
        error = math.hypot(term.standard_error, null.standard_error)
        p_value = float(stats.t.sf((term.value - null.value) / error, GROUPS - 1))
        method = (
            "distances to fifth neighbours; its bias, which falls slowly with the rows, is not in "
            "the interval; p-value of the difference from the null, approximate"
        )
        return self._of_term("neighbours", term, p_value, null.value, len(x), method)

    def _of_term(
        self, name: str, term: Term, p_value: float, null: float, rows: int, method: str
    ) -> Diagnosis:
        low, high = term.interval(self._level)
        return Diagnosis(
            name=name,
            value=term.value,
            low=low,
            high=high,
            level=self._level,
            p_value=p_value,
            null=null,
            samples=rows,
            method=method,
        )

    def _flat(self, x: Tensor) -> Tensor:
        """The counted tokens of the first `MOST` sequences, (n, D)."""
        return x[:MOST, list(self._target.spec.counted)].flatten(1)
