"""Wasserstein distance by exact transport between samples, corrected for its value at equal laws.

    T = C(P, Q) - 1/2 C(P, P') - 1/2 C(Q, Q')

where C is the optimal cost, W2 squared for the squared Euclidean distance and W1 for the Hamming
distance, and P, P', Q, Q' are four independent samples of m rows each. The raw cost C(P, Q) of
equal laws is far from 0, and is smaller for an under-dispersed model. T has mean 0 for equal laws,
is signed, and is never clamped. Its estimand E[T_m] approaches the distance from below as m grows:

    W2^2 - E[T_m] ~ c m^-r,  r = min(1, 2 / D),  hence  W2^2 - E[T_m] ~ E[T_m - T_{m/2}] / (2^r - 1)

The upper end of the interval includes a cautious estimate of this shortfall (`Term.shortfall`), or
C(P, Q) - T if that is smaller, since E[C(P, Q)] is at least W2^2 for any laws. In more than a few
dimensions the shortfall costs T most of its power to accept a model, but none to refuse one. T is
not used in more than `FAITHFUL` dimensions, where it resolves nothing.

Two solvers find the same optimum. For samples of equal size an assignment is faster than the
network simplex under the Hamming distance, and under the Euclidean distance above `PLANAR`
dimensions. Potentials follow from an assignment by shortest paths: quickly under the Hamming
distance, whose costs are small integers, but at the price of the gain under the Euclidean distance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from capcheck.core.errors import CapcheckError, InputError
from capcheck.divergences.estimate import Term

__all__ = [
    "DOUBT",
    "FAITHFUL",
    "LARGEST",
    "PLANAR",
    "Ground",
    "Transport",
    "corrected_transport",
    "in_halves",
    "transport",
    "transport_cost",
]

FAITHFUL = 8  # most dimensions in which the shortfall of E[T] below W2^2 can be estimated
DOUBT = 1.0  # number of (conservative) standard errors added to T_m - T_{m/2}
LARGEST = 8000  # most rows of a transport problem: half a GiB of costs, minutes of time
PLANAR = 8  # most dimensions in which the network simplex is at least as fast as an assignment


Ground = Literal["squared Euclidean", "Hamming"]
"""The cost of moving one row to another; the Hamming distance counts differing tokens."""


@dataclass(frozen=True)
class Transport:
    """An optimal plan between two samples x and y: its cost, and the potentials of their rows."""

    cost: float
    of_x: np.ndarray
    of_y: np.ndarray


def transport(x: np.ndarray, y: np.ndarray, ground: Ground = "squared Euclidean") -> Transport:
    """Exact transport between two samples.

    Args:
        x: (m, D), finite.
        y: (m', D), finite.
        ground: Cost of moving a row.

    Raises:
        InputError: The shapes do not match, there are no rows, values are not finite, squared
            distances overflow, or the ground is unknown.
        CapcheckError: The network simplex did not finish.
    """
    costs = _costs(x, y, ground)
    if ground == "Hamming" and len(x) == len(y):
        return _assigned(costs)
    return _simplex(costs)


def transport_cost(x: np.ndarray, y: np.ndarray, ground: Ground = "squared Euclidean") -> float:
    """The cost of `transport` without potentials, by the faster solver."""
    costs = _costs(x, y, ground)
    if len(x) == len(y) and (ground == "Hamming" or x.shape[1] > PLANAR):
        return float(costs[linear_sum_assignment(costs)].mean())
    return _simplex(costs).cost


def _costs(x: np.ndarray, y: np.ndarray, ground: Ground) -> np.ndarray:
    """Costs of moving rows of x to rows of y, (m, m'); whole numbers under the Hamming distance."""
    _require_rows(x, y, ground)
    if ground == "Hamming":
        return np.asarray(np.rint(cdist(x, y, "hamming") * x.shape[1]))
    with np.errstate(over="ignore", invalid="ignore"):
        import ot  # see `_simplex`

        costs = np.asarray(ot.dist(x, y, metric="sqeuclidean"))
    if not np.isfinite(costs).all():
        largest = max(float(np.abs(x).max()), float(np.abs(y).max()))
        raise InputError(
            f"transport needs squared distances below 1e308, got values of up to {largest:.3g}; "
            "divide both samples by one number."
        )
    return costs


def _require_rows(x: np.ndarray, y: np.ndarray, ground: Ground) -> None:
    if ground not in get_args(Ground):
        raise InputError(f"ground must be one of {', '.join(get_args(Ground))}, got {ground!r}.")
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or 0 in (*x.shape, *y.shape):
        raise InputError(
            f"transport needs samples (m, D) and (m', D) with one D and at least one row, got "
            f"{x.shape} and {y.shape}; flatten the tokens of a sequence."
        )
    for z in (x, y):
        broken = int((~np.isfinite(z)).any(1).sum())
        if broken:
            raise InputError(
                f"transport needs finite rows, got NaN or infinity in {broken} of {len(z)}; "
                "leave them out."
            )


def _simplex(costs: np.ndarray) -> Transport:
    import ot  # it takes most of a second, and many runs need no transport

    _, log = ot.emd([], [], costs, numItermax=10_000_000, log=True, check_marginals=False)
    if log["result_code"] != 1:
        raise CapcheckError(f"exact transport failed: {log['warning']}")
    return Transport(float(log["cost"]), np.asarray(log["u"]), np.asarray(log["v"]))


def _assigned(costs: np.ndarray) -> Transport:
    """Transport by assignment, with potentials from shortest paths.

    With s(i) the partner of row i, the potentials satisfy u_i <= u_k + c(i, s(k)) - c(k, s(k)) for
    all i and k. The bounds are relaxed until nothing changes, which happens exactly because costs
    are whole numbers.
    """
    rows, partners = linear_sum_assignment(costs)
    detour, own = costs[:, partners], costs[rows, partners]  # (m, m), (m,)
    u = np.zeros(len(costs))
    while True:
        shorter = np.minimum(u, (detour + (u - own)).min(1))
        if np.array_equal(shorter, u):
            break
        u = shorter
    v = np.empty(len(costs))
    v[partners] = own - u
    return Transport(float(own.mean()), u, v)


def corrected_transport(
    p: np.ndarray,
    p_floor: Transport,
    q: np.ndarray,
    q_other: np.ndarray,
    ground: Ground = "squared Euclidean",
    half_floors: Sequence[Transport] = (),
) -> Term:
    """Corrected transport T between target rows p and model rows q and q'.

    The potential of a row is the rate at which the cost changes with its mass, so the centred
    potentials are influences. Their variance is on average at least the true one (Efron and Stein),
    and up to twice as large for equal laws: the interval is conservative.

    Args:
        p: (m, D) rows of the target.
        p_floor: Transport from p to independent target rows p'.
        q: (m, D) rows of the model.
        q_other: (m, D) further independent rows q' of the model.
        ground: Cost of moving a row.
        half_floors: Transport from each half of p to the same half of p', as `in_halves` cuts them.
            If given, the term includes its shortfall.

    Raises:
        InputError: The sets differ in size, have fewer than two rows, or are refused by
            `transport`.
    """
    rows = [len(z) for z in (p, p_floor.of_y, q, q_other)]
    if len(p_floor.of_x) != len(p) or len(set(rows)) > 1 or rows[0] < 2:
        raise InputError(
            f"corrected transport needs four sets of one size of at least 2 rows, got {rows}; "
            "cut them to the smallest."
        )
    whole = _corrected(p, p_floor, q, q_other, ground)
    term = Term.from_influence(
        "W1" if ground == "Hamming" else "W2^2",
        whole.value,
        whole.influences,
        # If all rows of token ids are equal, the error must still allow for one that differs.
        reach=float(p.shape[1]) if ground == "Hamming" else 0.0,
    )
    if not half_floors:
        return term
    parts = zip(in_halves(p), half_floors, in_halves(q), in_halves(q_other), strict=True)
    halves = [_corrected(*part, ground) for part in parts]
    return term.model_copy(update={"shortfall": _shortfall(whole, halves, p.shape[1])})


def in_halves(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first and the second half of the rows, without the last row of an odd number."""
    m = len(rows) // 2
    return rows[:m], rows[m : 2 * m]


@dataclass(frozen=True)
class _Corrected:
    """The value T, the raw cost C(P, Q), and the influences of the rows p, p', q and q' on T."""

    value: float
    cost: float
    influences: list[np.ndarray]


def _corrected(
    p: np.ndarray, p_floor: Transport, q: np.ndarray, q_other: np.ndarray, ground: Ground
) -> _Corrected:
    across, floor = transport(p, q, ground), transport(q, q_other, ground)
    return _Corrected(
        across.cost - 0.5 * p_floor.cost - 0.5 * floor.cost,
        across.cost,
        [
            across.of_x - 0.5 * p_floor.of_x,
            -0.5 * p_floor.of_y,
            across.of_y - 0.5 * floor.of_x,
            -0.5 * floor.of_y,
        ],
    )


def _shortfall(whole: _Corrected, halves: Sequence[_Corrected], D: int) -> float:
    """Cautious estimate of W2^2 - E[T_m], from T and the mean of T over the two halves."""
    gain = whole.value - sum(half.value for half in halves) / 2  # of E[T_m - T_{m/2}]
    error = 0.0
    for of_whole, *of_halves in zip(
        whole.influences, *(half.influences for half in halves), strict=True
    ):
        parts = np.concatenate([of_half - of_half.mean() for of_half in of_halves])
        error += float((of_whole[: len(parts)] - parts).var(ddof=1)) / len(parts)
    r = min(1.0, 2 / D)
    extrapolated = (gain + DOUBT * math.sqrt(error)) / (2**r - 1)
    return max(0.0, min(extrapolated, whole.cost - whole.value))
