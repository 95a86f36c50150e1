"""Squared 2-Wasserstein distance by exact transport, corrected for the distance of equal laws.

    T = W2^2(P, Q) - 1/2 W2^2(P, P') - 1/2 W2^2(Q, Q')

for four independent sample sets of one size m. Raw W2^2 between two samples of one law is far from
0 and falls for an under-dispersed model; T is centred at 0 for equal laws, is signed, and is never
clamped. Its estimand is E[T] at that m, which approaches W2^2 from below as m grows: slowly in many
dimensions, where T is therefore reported as a lower bound, which can refuse and never accepts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import ot

from capcheck.divergences.estimate import Term
from capcheck.errors import CapcheckError

FAITHFUL = 8  # dimensions up to which E[T] is close enough to W2^2 to be an upper end, too
LARGEST = 8000  # rows of a transport problem: half a GiB of costs, and minutes


@dataclass(frozen=True)
class Transport:
    """An optimal plan between two samples: its cost, and the potential of each row."""

    cost: float
    of_x: np.ndarray
    of_y: np.ndarray


def transport(x: np.ndarray, y: np.ndarray) -> Transport:
    """Exact transport under the squared Euclidean cost.

    Args:
        x: (m, D), finite.
        y: (m', D), finite.

    Raises:
        CapcheckError: The network simplex did not finish.
    """
    costs = ot.dist(x, y, metric="sqeuclidean")
    _, log = ot.emd([], [], costs, numItermax=10_000_000, log=True, check_marginals=False)
    if log["result_code"] != 1:
        raise CapcheckError(f"exact transport failed: {log['warning']}")
    return Transport(float(log["cost"]), np.asarray(log["u"]), np.asarray(log["v"]))


def corrected_wasserstein_squared(
    p: np.ndarray, p_floor: Transport, q: np.ndarray, q_other: np.ndarray
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
    """
    across, floor = transport(p, q), transport(q, q_other)
    value = across.cost - 0.5 * p_floor.cost - 0.5 * floor.cost
    return Term.from_influence(
        "W2^2",
        value,
        [
            across.of_x - 0.5 * p_floor.of_x,
            -0.5 * p_floor.of_y,
            across.of_y - 0.5 * floor.of_x,
            -0.5 * floor.of_y,
        ],
    )
