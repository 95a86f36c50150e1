"""Wasserstein distance by exact transport, corrected for the distance of equal laws.

    T = C(P, Q) - 1/2 C(P, P') - 1/2 C(Q, Q')

with the optimal cost C: W2 squared for the squared Euclidean distance, W1 for the Hamming distance;
for four independent sample sets of one size m. The raw cost between two samples of one law is far
from 0 and falls for an under-dispersed model; T is centred at 0 for equal laws, is signed, and is
never clamped. Its estimand is E[T] at that m, which approaches the distance from below as m grows:
slowly in many dimensions, where T is therefore reported as a lower bound, which can refuse and
never accepts.

Two solvers find the same optimum. Between samples of one size an assignment is faster than the
network simplex under the Hamming distance, and under the Euclidean one above `PLANAR` dimensions;
potentials follow from it by shortest paths, which are short under the Hamming distance (costs are
small integers) and make up for the gain under the Euclidean one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import ot
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from capcheck.core.errors import CapcheckError, InputError
from capcheck.divergences.estimate import Term

FAITHFUL = 8  # dimensions up to which E[T] is close enough to W2^2 to be an upper end, too
LARGEST = 8000  # rows of a transport problem: half a GiB of costs, and minutes
PLANAR = 8  # dimensions up to which the network simplex is not slower than an assignment


Ground = Literal["squared Euclidean", "Hamming"]
"""The cost of moving one row to another; Hamming counts tokens that differ."""


@dataclass(frozen=True)
class Transport:
    """An optimal plan between two samples: its cost, and the potential of each row."""

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
        InputError: Shapes that do not match, no rows, values that are not finite, squared
            distances that overflow, or a ground that is none.
        CapcheckError: The network simplex did not finish.
    """
    costs = _costs(x, y, ground)
    if ground == "Hamming" and len(x) == len(y):
        return _assigned(costs)
    return _simplex(costs)


def transport_cost(x: np.ndarray, y: np.ndarray, ground: Ground = "squared Euclidean") -> float:
    """The cost of `transport` alone, by the faster solver; the arguments are the same."""
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
    _, log = ot.emd([], [], costs, numItermax=10_000_000, log=True, check_marginals=False)
    if log["result_code"] != 1:
        raise CapcheckError(f"exact transport failed: {log['warning']}")
    return Transport(float(log["cost"]), np.asarray(log["u"]), np.asarray(log["v"]))


def _assigned(costs: np.ndarray) -> Transport:
    """Transport by assignment; potentials are shortest paths over exchanges of partners.

    With s(i) the partner of row i, u_i <= u_k + c(i, s(k)) - c(k, s(k)) for all i and k; costs are
    whole numbers here, so that relaxing these bounds ends exactly.
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
) -> Term:
    """T for target rows p and model rows q and q'.

    A row's potential is the rate at which the cost changes with its mass, so the centred potentials
    are influences. The variance that they give is on average not below the true one (Efron and
    Stein), and above it by up to a factor of two where the laws are equal: the interval is stated
    to be conservative.

    Args:
        p: (m, D) rows of the target.
        p_floor: Transport from p to independent target rows p'.
        q: (m, D) rows of the model.
        q_other: (m, D) further independent rows q' of the model.
        ground: Cost of moving a row.

    Raises:
        InputError: Sets of different sizes, fewer than two rows, or rows that `transport` refuses.
    """
    rows = [len(z) for z in (p, p_floor.of_y, q, q_other)]
    if len(p_floor.of_x) != len(p) or len(set(rows)) > 1 or rows[0] < 2:
        raise InputError(
            f"corrected transport needs four sets of one size of at least 2 rows, got {rows}; "
            "cut them to the smallest."
        )
    across, floor = transport(p, q, ground), transport(q, q_other, ground)
    value = across.cost - 0.5 * p_floor.cost - 0.5 * floor.cost
    return Term.from_influence(
        "W1" if ground == "Hamming" else "W2^2",
        value,
        [
            across.of_x - 0.5 * p_floor.of_x,
            -0.5 * p_floor.of_y,
            across.of_y - 0.5 * floor.of_x,
            -0.5 * floor.of_y,
        ],
        # Rows of integers can all be equal, which is no proof that none could differ.
        reach=float(p.shape[1]) if ground == "Hamming" else 0.0,
    )
