"""What the runs say together: violations of the floor, and the ranking.

Everything here is computed from the stored predictions and outcomes, and trains nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from scipy import stats

__all__ = [
    "LEVEL",
    "Record",
    "Verdict",
    "bounds",
    "interval",
    "ranking",
    "upper_end",
    "verdict",
    "violates",
]

LEVEL = 0.99  # one-sided confidence of all statements on floors together
ROUNDING = 1e-9  # nats by which rounding may take an exact outcome below an exact prediction
RESAMPLES = 10_000  # of the runs, for the interval of the rank correlation
SEED = 17  # of the resamples

Record = dict[str, Any]
"""A run with its prediction and outcome, as in results.json."""


class Verdict(TypedDict):
    """The statements of the page.

    Attributes:
        runs: Number of runs that are tested and ranked.
        each: One-sided confidence of the statement on one run.
        violations: Names of the runs whose outcome is significantly below the floor.
        bounds: Number of runs whose floor no network can pass, see `bounds`.
        violated: Names of those among the violations.
        below: Number of runs whose outcome is below the floor at all, by more than rounding.
        spearman: Rank correlation of prediction and outcome, in multiples of the tolerance.
        low, high: Its 95% interval by resampling runs.
        within: The rank correlation within each task of at least four runs.
        representable: Number of runs that capcheck called representable.
        separated: Whether all of these ended below all that it called not representable.
    """

    runs: int
    each: float
    violations: list[str]
    bounds: int
    violated: list[str]
    below: int
    spearman: float
    low: float
    high: float
    within: dict[str, float]
    representable: int
    separated: bool


def upper_end(outcome: Record, level: float) -> float:
    """The upper end of an outcome's interval at a one-sided level."""
    return float(outcome["value"]) + _half(outcome, level)


def interval(outcome: Record, level: float = 0.95) -> tuple[float, float]:
    """The two-sided interval of an outcome."""
    half = _half(outcome, 0.5 + level / 2)
    return float(outcome["value"]) - half, float(outcome["value"]) + half


def _half(outcome: Record, level: float) -> float:
    if not outcome["error"]:
        return 0.0
    return float(stats.t.ppf(level, outcome["degrees"])) * float(outcome["error"])


def violates(record: Record, each: float) -> bool:
    """Whether a run ended significantly below its floor.

    Args:
        record: The run; the lower end of its prediction has the same one-sided level.
        each: One-sided confidence of the statement on this run.
    """
    floor = float(record["prediction"]["low"])
    return upper_end(record["outcome"], each) < floor - ROUNDING


def bounds(record: Record) -> bool:
    """Whether no network of this kind can end below the floor of a run.

    So it is where the floor is 0; where one factorised law is sampled, of which the exact factors
    are the best; and for the linear VAE, whose floor is the least KL of its Gaussians. In random
    order the KL of the mixture over orders has a smaller minimum (`prediction.orders`), and a
    denoiser that is not at the optimum of its loss may make better steps.
    """
    predicted = record["prediction"]
    at_once = record["family"] in ("maskgit", "masked_diffusion") and predicted["calls"] == 1
    one_law = record["family"] in ("gpt", "multi_token", "vae")
    return bool(predicted["value"] == 0 or one_law or at_once)


def multiples(record: Record) -> tuple[float, float]:
    """Prediction and outcome in multiples of the default tolerance."""
    tolerance = record["prediction"]["tolerance"]
    return record["prediction"]["value"] / tolerance, record["outcome"]["value"] / tolerance


def ranking(records: Sequence[Record]) -> float:
    """Spearman's correlation of prediction and outcome; equal values share their mean rank."""
    pairs = np.array([multiples(record) for record in records])
    return _spearman(pairs)


def _spearman(pairs: np.ndarray) -> float:
    ranks = stats.rankdata(pairs, axis=0)
    if (np.ptp(ranks, axis=0) == 0).any():
        return math.nan
    return float(np.corrcoef(ranks.T)[0, 1])


def verdict(records: Sequence[Record]) -> Verdict:
    """The statements on all runs."""
    each = 1 - (1 - LEVEL) / len(records)
    pairs = np.array([multiples(record) for record in records])
    rng = np.random.default_rng(SEED)
    resampled = [
        _spearman(pairs[rng.integers(len(pairs), size=len(pairs))]) for _ in range(RESAMPLES)
    ]
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    tasks = list(dict.fromkeys(record["task"] for record in records))
    groups = {task: [r for r in records if r["task"] == task] for task in tasks}
    yes, no = (
        [multiples(r)[1] for r in records if (r["prediction"]["verdict"] == word)]
        for word in ("representable", "not representable")
    )
    return Verdict(
        runs=len(records),
        each=each,
        violations=[record["name"] for record in records if violates(record, each)],
        bounds=sum(map(bounds, records)),
        violated=[r["name"] for r in records if bounds(r) and violates(r, each)],
        below=sum(_below(record) for record in records),
        spearman=ranking(records),
        low=float(low),
        high=float(high),
        within={task: ranking(own) for task, own in groups.items() if len(own) >= 4},
        representable=len(yes),
        separated=max(yes, default=-math.inf) < min(no, default=math.inf),
    )


def _below(record: Record) -> bool:
    return bool(record["outcome"]["value"] < record["prediction"]["value"] - ROUNDING)
