"""The bandwidth of smoothed rows: the scalar h that maximises the leave-one-out likelihood.

Token i of row c is smoothed to N(x_ci; h^2 s_i^2) with the token's standard deviation s_i. The
likelihood is sum_r log sum_{c != r} w_c N(x_r; x_c, h^2 s^2) / (1 - w_r).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.targets.from_data.empirical_categorical import QUERIES
from capcheck.targets.from_data.units import TILE, Standardised

__all__ = ["FEW", "HIGHEST", "LOWEST", "PRODUCTS", "WIDER", "leave_one_out_bandwidth", "queries"]

LOWEST, HIGHEST = 1e-3, 1e1  # range of the chosen bandwidth h, in standard deviations
WIDER = 1.14  # factor by which the last round extends its range beyond a maximum at its end
FEW = 200  # rows that locate the best bandwidth before all queries refine it
PRODUCTS = 40_000_000_000  # multiply-adds of all distances that are computed at once, a second


def leave_one_out_bandwidth(rows: np.ndarray, weights: np.ndarray) -> float:
    """The bandwidth h that maximises the leave-one-out log-likelihood of some rows, see `queries`.

    Each query row is scored under all other rows. `FEW` queries locate the maximum, and all queries
    refine it. Equal rows must be merged to one row of their summed weight, because the likelihood
    of a row that has a copy is unbounded as h goes to 0.

    Args:
        rows: (n, N, d), finite and distinct.
        weights: (n,), positive.

    Raises:
        InputError: Fewer than two rows.
    """
    if len(rows) < 2:
        raise InputError(
            f"bandwidth 'auto' needs at least 2 distinct rows, got {len(rows)}; "
            "give a bandwidth in units of the tokens' standard deviation."
        )
    keys = Standardised(rows, weights)
    share = torch.from_numpy(weights / weights.sum())
    asked = _spread(len(rows), queries(rows))
    few = asked[_spread(len(asked), FEW)]
    low, high, at_end = LOWEST, HIGHEST, False
    for some in (few, few, asked):  # each round narrows the range around the last maximum
        best, low, high, at_end = _peak(keys, share, some, low, high)
    while (
        at_end and LOWEST < best < HIGHEST
    ):  # the maximum of all queries lies outside that of the few
        low, high = max(best / WIDER, LOWEST), min(best * WIDER, HIGHEST)
        best, _, _, at_end = _peak(keys, share, asked, low, high)
    return best


def queries(rows: np.ndarray) -> int:
    """How many rows are scored under all rows (n, N, d): `QUERIES`, or fewer of many large rows."""
    return min(QUERIES, max(FEW, PRODUCTS // rows.size))


def _spread(total: int, most: int) -> Tensor:
    """Evenly spread indices of 0..total-1, at most `most`."""
    return torch.from_numpy(np.unique(np.linspace(0, total - 1, min(most, total)).astype(int)))


def _peak(
    keys: Standardised, share: Tensor, queries: Tensor, low: float, high: float
) -> tuple[float, float, float, bool]:
    """The best of 13 bandwidths, its two neighbours, and whether it is at an end of the range."""
    tried = np.geomspace(low, high, 13)
    place = int(np.argmax(_left_out_scores(keys, share, queries, tried)))
    below, above = tried[max(place - 1, 0)], tried[min(place + 1, 12)]
    return float(tried[place]), float(below), float(above), place in (0, 12)


def _left_out_scores(
    keys: Standardised, share: Tensor, queries: Tensor, bandwidths: np.ndarray
) -> np.ndarray:
    """Weighted mean log-likelihood of the query rows, each left out, for every bandwidth.

    Scores are up to a constant; squared distances are computed once for all bandwidths.
    """
    x = keys[queries]  # (q, D)
    norms = x.square().sum(1, keepdim=True)
    log_mass = torch.full((len(bandwidths), len(x)), -torch.inf, dtype=torch.float64)
    size = max(1, TILE // len(x))
    for start in range(0, len(keys), size):
        y = keys[start : start + size]  # (c, D)
        squares = torch.addmm(y.square().sum(1) + norms, x, y.T, alpha=-2).clamp_(min=0)  # (q, c)
        own = ((queries >= start) & (queries < start + size)).nonzero()[:, 0]
        squares[own, queries[own] - start] = torch.inf
        nearest = squares.amin(1, keepdim=True)
        nearest[nearest.isinf()] = 0  # a row alone in its tile
        squares -= nearest
        kernel = torch.empty_like(squares)
        for i, h in enumerate(bandwidths):
            torch.mul(squares, -0.5 / (math.log(2) * h**2), out=kernel).exp2_()
            found = (kernel @ share[start : start + size]).log() - 0.5 * nearest[:, 0] / h**2
            log_mass[i] = torch.logaddexp(log_mass[i], found)
    weights = share[queries] / share[queries].sum()
    scores: np.ndarray = (log_mass @ weights).numpy() - keys.dim * np.log(bandwidths)
    return scores
