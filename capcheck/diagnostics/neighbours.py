"""Nearest-neighbour estimate of KL(P || Q) from two samples, for laws whose density is unknown.

With rho_i the distance of x_i to its k-th neighbour among the other rows of x, and nu_i the
distance to its k-th neighbour in y,

    KL(P || Q) ~ D mean_i log(nu_i / rho_i) + log(m / (n - 1)), in nats.

The estimate is consistent for laws with densities, but its bias falls only like n^(-1/D), and more
slowly if P has wider tails than Q. For equal laws the biases of both distances cancel, so that the
null floor does not show the bias. Use it only as a last resort, in few dimensions.

Source: Wang, Kulkarni, Verdu, Divergence estimation for multidimensional densities via k-nearest-
neighbor distances (IEEE Trans. Inf. Theory, 2009), equation 5 with a common k.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.divergences.estimate import GROUPS, Term

__all__ = ["DOUBT", "PLANAR", "SIEVE", "SPARE", "TILE", "Neighbours", "nearest_neighbour_kl"]

PLANAR = 6  # most dimensions in which a tree is faster than computing all distances
TILE = 128  # rows whose distances are held at once, to stay in the cache
SIEVE = 8  # distances per strip, of which a first pass ranks only the smallest
DOUBT = 1e-3  # rounding error, as a share of a squared distance, above which float64 ranks again
SPARE = 3  # extra neighbours, to replace those that the jackknife leaves out


def nearest_neighbour_kl(x: Tensor, y: Tensor, *, k: int = 5) -> Term:
    """KL(P || Q) in nats from independent draws x of P and y of Q.

    The standard error is the jackknife's over `GROUPS` groups of rows of both samples. It is
    conservative, up to 1.7 times too large for equal laws, and does not include the bias.

    Args:
        x: (n, D) numbers, n at least 2 `GROUPS`.
        y: (m, D) numbers, m at least 2 `GROUPS`.
        k: Rank of the neighbour, at least 1; a larger k has less noise and more bias.

    Raises:
        InputError: The shapes do not match, there are too few rows, k is out of range, values are
            not finite, a dimension is constant, or a row equals k others (there is no density).
    """
    _require_densities(x, y, k)
    a, b = (z.to("cpu", torch.float64) for z in (x, y))
    rho = _neighbours(a, a, k + SPARE, same=True)
    nu = _neighbours(a, b, k + SPARE, same=False)
    if min(rho[0][:, k - 1].min(), nu[0][:, k - 1].min()) == 0:
        raise InputError(
            f"nearest-neighbour KL needs laws with densities, got a row with {k} equal ones; "
            "use another divergence, or a larger k for rare ties."
        )
    kl = _kl(rho, nu, k, dim=x.shape[1], m=len(y))  # (1 + GROUPS,)
    influence = (GROUPS - 1) * (kl[1:].mean() - kl[1:])  # of each group, centred
    return Term(
        label=f"nearest neighbours, k = {k}",
        value=float(kl[0]),
        standard_error=float(influence.std(ddof=1)) / math.sqrt(GROUPS),
        degrees=GROUPS - 1,
        groups=tuple((kl[0] + influence).tolist()),
    )


Neighbours = tuple[np.ndarray, np.ndarray]
"""Distances of each row to its nearest rows, in ascending order, and the indices of those rows."""


def _kl(rho: Neighbours, nu: Neighbours, k: int, *, dim: int, m: int) -> np.ndarray:
    """The estimate, then the estimates without each group of rows of both samples, (1 + GROUPS,).

    Row r is in group r mod `GROUPS`.
    """
    log_ratio = np.log(nu[0][:, k - 1] / rho[0][:, k - 1])  # (n,)
    n, group = len(log_ratio), np.arange(len(log_ratio)) % GROUPS
    total = log_ratio.sum() - np.bincount(group, weights=log_ratio)  # (GROUPS,) of the other rows
    total += _changes(nu, k) - _changes(rho, k)
    left_x = n - np.bincount(group)
    left_y = m - np.bincount(np.arange(m) % GROUPS)
    without = dim * total / left_x + np.log(left_y / (left_x - 1))
    return np.concatenate([[dim * log_ratio.mean() + math.log(m / (n - 1))], without])


def _changes(found: Neighbours, k: int) -> np.ndarray:
    """Change in the summed log distances of the other rows if a group is left out, (GROUPS,)."""
    distances, group = found[0], found[1] % GROUPS
    kept = group[:, :k, None] != group[:, None]  # (n, k, k + SPARE), without the j-th's group
    kth = kept & (kept.cumsum(2) == k)
    # Where a row has more than SPARE neighbours in the group, its last known one stands in.
    place = np.where(kth.any(2), kth.argmax(2), distances.shape[1] - 1)  # (n, k)
    change = np.log(np.take_along_axis(distances, place, 1) / distances[:, k - 1 : k])
    change[group[:, :k] == np.arange(len(group))[:, None] % GROUPS] = 0
    for j in range(1, k):  # a group that two neighbours share counts once
        change[(group[:, :j] == group[:, j : j + 1]).any(1), j] = 0
    return np.bincount(group[:, :k].ravel(), weights=change.ravel(), minlength=GROUPS)


def _neighbours(x: Tensor, y: Tensor, count: int, *, same: bool) -> Neighbours:
    """The `count` nearest rows of y for each row of x, without the row itself if x is y (same)."""
    if x.shape[1] <= PLANAR:
        distances, indices = cKDTree(y.numpy()).query(x.numpy(), count + same)
    else:
        distances, indices = _brute_force(x, y, count + same)
    if not same:
        return distances, indices
    # Among equal rows, the row itself need not come first.
    own = indices == np.arange(len(x))[:, None]
    own[~own.any(1), -1] = True
    shape = len(x), count
    return distances[~own].reshape(shape), indices[~own].reshape(shape)


def _brute_force(x: Tensor, y: Tensor, count: int) -> Neighbours:
    """Nearest rows by a float32 matrix product, with distances recomputed in float64."""
    centre = y.mean(0)
    scale = float((y - centre).square().mean().sqrt())
    x, y = (x - centre) / scale, (y - centre) / scale
    # |x - y|^2 / 2 less |x|^2 / 2 is one product, and does not change the order.
    half = 0.5 * y.square().sum(1, keepdim=True)
    left, right = torch.cat([-x, torch.ones(len(x), 1, dtype=x.dtype)], 1), torch.cat([y, half], 1)
    rough_left, rough_right = left.float(), right.float()
    buffer = torch.empty(TILE, len(y))  # a fresh one each time would cost more than the product
    distances = torch.empty(len(x), count, dtype=torch.float64)
    indices = torch.empty(len(x), count, dtype=torch.int64)
    for start in range(0, len(x), TILE):
        part = slice(start, start + TILE)
        order = torch.mm(rough_left[part], rough_right.T, out=buffer[: len(x[part])])  # (r, m)
        distances[part], indices[part] = _ranked(x[part], y, order, count)
        norms = x[part].square().sum(1).clamp(min=2 * float(half.max()))
        rounding = torch.finfo(torch.float32).eps * norms
        doubtful = rounding > DOUBT * distances[part, -1].square()
        if bool(doubtful.any()):
            order = left[part][doubtful] @ right.T
            again = _ranked(x[part][doubtful], y, order, count)
            distances[part][doubtful], indices[part][doubtful] = again
    return (distances * scale).numpy(), indices.numpy()


def _ranked(x: Tensor, y: Tensor, order: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Distances and indices of the rows of y with the smallest `order` (r, m) for each row of x."""
    nearest = _smallest(order, count)
    distances, ascending = (x[:, None] - y[nearest]).square().sum(2).sqrt().sort(dim=1)
    return distances, nearest.gather(1, ascending)


def _smallest(values: Tensor, count: int) -> Tensor:
    """Columns of the smallest values of each row, (r, count), in no order."""
    r, m = values.shape
    strips = m // SIEVE
    if strips < 2 * count:
        return values.topk(count, 1, largest=False, sorted=False).indices
    # The smallest values lie in the strips with the smallest minima, or behind the last strip.
    folded = values[:, : strips * SIEVE].view(r, SIEVE, strips)
    best = folded.amin(1).topk(count, 1, largest=False, sorted=False).indices  # (r, count)
    columns = (best[:, None] + strips * torch.arange(SIEVE)[:, None]).flatten(1)
    rest = torch.arange(strips * SIEVE, m).expand(r, -1)
    columns = torch.cat([columns, rest], 1)
    chosen = values.gather(1, columns).topk(count, 1, largest=False, sorted=False).indices
    return columns.gather(1, chosen)


def _require_densities(x: Tensor, y: Tensor, k: int) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or x.shape[1] == 0:
        raise InputError(
            f"samples must be (n, D) and (m, D) with one D, got {tuple(x.shape)} and "
            f"{tuple(y.shape)}."
        )
    rows = min(len(x), len(y))
    if rows < 2 * GROUPS:
        raise InputError(f"nearest-neighbour KL needs at least {2 * GROUPS} rows, got {rows}.")
    if not 1 <= k < rows // 2 - SPARE:
        raise InputError(f"k must be in 1..{rows // 2 - SPARE - 1} for {rows} rows, got {k}.")
    if not (x.is_floating_point() and y.is_floating_point()):
        raise InputError(f"nearest-neighbour KL needs numbers, got {x.dtype} and {y.dtype}.")
    if not (bool(x.isfinite().all()) and bool(y.isfinite().all())):
        raise InputError("samples must be finite, got NaN or infinity; leave such rows out.")
    for z in (x, y):
        constant = (z == z[0]).all(0).nonzero()
        if len(constant):
            raise InputError(
                f"nearest-neighbour KL needs laws with densities, got a constant dimension "
                f"{int(constant[0])}; leave it out."
            )
