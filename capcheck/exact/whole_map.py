"""The density of a smooth map of standard normals, by inverting the map as a whole.

A procedure that maps D normals z to x = F(z) of D numbers has the density

    q(x) = sum over the z with F(z) = x of N(z) / |det dF/dz|,

so that any preimage bounds it from below, with equality if F is one-to-one. A preimage is found by
damped Newton steps from a draw whose image lies near x. The derivative is taken by central
differences of the map, which is asked for nothing but its values.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from capcheck.core.log_density import LogDensity
from capcheck.core.unavailable import Unavailable
from capcheck.laws import LOG_2PI

__all__ = ["CANDIDATES", "EVALUATIONS", "STARTS", "density_by_preimage"]

CANDIDATES = 2048  # draws among which the nearest are looked for
STARTS = 4  # nearest draws that are tried one after the other
STEPS = 40  # most Newton steps from a start
HALVINGS = 12  # most halvings of a step that does not come nearer
CLOSE = 1e-8  # distance from x, relative to the spread of the images, that ends the search
SHIFT = 1e-4  # shift of a normal in a central difference
TILE = 1 << 14  # rows in which the map is evaluated at once
EVALUATIONS = 8.0  # Newton steps that a row takes on average, in derivatives of 2 D evaluations

Image = Callable[[Tensor], Tensor]
"""Standard normals (m, D) -> their images (m, D), row by row."""


def density_by_preimage(image: Image, x: Tensor, z: Tensor) -> LogDensity | Unavailable:
    """A lower bound on the log-density (nats) of x, which is exact if the map is one-to-one.

    Args:
        image: The map, in float64.
        x: Points, (n, D).
        z: Draws of the normals, (m, D), near whose images a search begins.

    Returns:
        The bounds, (n,), or the reason why there are none.
    """

    def evaluated(normals: Tensor) -> Tensor:
        return torch.cat([image(part) for part in normals.split(TILE)])

    x, y = x.double(), evaluated(z)
    spread = float(y.std()) or 1.0
    nearest = torch.cdist(x, y).topk(min(STARTS, len(z)), largest=False).indices  # (n, starts)
    log_q = torch.full((len(x),), torch.nan, dtype=torch.float64, device=x.device)
    for start in nearest.unbind(1):
        missing = log_q.isnan().nonzero()[:, 0]
        if not len(missing):
            break
        log_q[missing] = _from_start(evaluated, x[missing], z[start[missing]], CLOSE * spread)
    if failed := int(log_q.isnan().sum()):
        return Unavailable(
            reason=f"no preimage under the procedure was found for {failed} of {len(x)} draws"
        )
    method = "a preimage under the whole procedure, exact if that is one-to-one"
    return LogDensity(values=log_q, method=method, bound=True)


def _from_start(image: Image, x: Tensor, z: Tensor, close: float) -> Tensor:
    """The log-density (n,) of the preimages that are found from z, NaN where none is."""
    log_q = torch.full((len(x),), torch.nan, dtype=torch.float64, device=x.device)
    active, z = torch.arange(len(x), device=x.device), z.clone()
    gap = image(z) - x
    for _ in range(STEPS):
        slope = _derivative(image, z)
        done = torch.linalg.vector_norm(gap, dim=1) <= close
        if bool(done.any()):
            log_normal = -0.5 * (z[done].square() + LOG_2PI).sum(1)
            log_q[active[done]] = log_normal - torch.linalg.slogdet(slope[done]).logabsdet
        step, info = torch.linalg.solve_ex(slope, gap)
        kept = ~done & (info == 0) & step.isfinite().all(1)
        if not bool(kept.any()):
            break
        active, z, gap = active[kept], z[kept], gap[kept]
        z, gap = _damped(image, x[active], z, gap, step[kept])
    return torch.where(log_q.isfinite(), log_q, torch.nan)


def _damped(image: Image, x: Tensor, z: Tensor, gap: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """The points z - step with their gaps; steps are halved until they help."""
    before, new = torch.linalg.vector_norm(gap, dim=1), z - step
    gap = image(new) - x
    for _ in range(HALVINGS):
        worse = (~(torch.linalg.vector_norm(gap, dim=1) < before)).nonzero()[:, 0]
        if not len(worse):
            break
        step[worse] /= 2
        new[worse] = z[worse] - step[worse]
        gap[worse] = image(new[worse]) - x[worse]
    return new, gap


def _derivative(image: Image, z: Tensor) -> Tensor:
    """The derivatives of the map at n points, (n, D, D), by central differences."""
    n, D = z.shape
    shifts = SHIFT * torch.eye(D, dtype=z.dtype, device=z.device)
    ends = torch.stack([z[:, None] + shifts, z[:, None] - shifts])  # (2, n, D, D)
    plus, minus = image(ends.reshape(-1, D)).reshape(2, n, D, D)
    slope: Tensor = ((plus - minus) / (2 * SHIFT)).mT
    return slope
