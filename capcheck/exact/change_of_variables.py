"""Change of variables gives the density of a procedure's draws from the derivative in its noise.

A procedure that maps D standard normals z to a sequence x = F(z) of D numbers has the density

    q(x) = sum over the z' with F(z') = x of N(z') / |det dF/dz'|  >=  N(z) / |det dF/dz|

with equality if F is injective, as every fine enough solver of a flow is. The derivative is taken
by central differences: the unchanged procedure is run again with each normal shifted. The mean over
the procedure's draws bounds KL(model to target) from below.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import SequenceSpec
from capcheck.core.unavailable import Unavailable
from capcheck.exact.sampler import RefusedError, Sampler
from capcheck.laws import LOG_2PI

__all__ = ["DIMENSIONS", "SMOOTH", "STEP", "density_of_draws"]

DIMENSIONS = 64  # largest D; every dimension needs four runs
# Shift of a normal: a central difference errs by the order of STEP^2, and by eps / STEP.
STEP = {torch.float64: 1e-4, torch.float32: 5e-3}
SMOOTH = 1e-3  # largest median change of log |det|, in nats, when the step is doubled


class _Moved(Randomness):
    """Records the one normal draw of another source, and may shift one column of this draw."""

    def __init__(self, source: Randomness) -> None:
        self._source = source
        self.normals: list[Tensor] = []
        self.shift: tuple[int, float] | None = None

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        raise RefusedError("it draws numbers other than normals")

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        z = self._source.normal(shape)
        if self.normals:
            raise RefusedError("it draws noise more than once")
        self.normals.append(z)
        if self.shift is not None:
            j, by = self.shift
            flat = z.reshape(shape[0], -1).clone()
            flat[:, j] += by
            z = flat.reshape(shape)
        return z

    def stream(self, name: str) -> Randomness:
        return _Refusing()


class _Refusing(Randomness):
    """A stream that refuses every draw."""

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        raise RefusedError("its result is completed by other draws")

    normal = uniform

    def stream(self, name: str) -> Randomness:
        return self


def density_of_draws(
    sample: Sampler,
    spec: SequenceSpec,
    *,
    n: int,
    source: Callable[[], Randomness],
    name: str,
) -> LogDensity | Unavailable:
    """A lower bound on a procedure's log-density at its own draws.

    Args:
        sample: The procedure at one budget: (n, rng) -> (n, N, d) sequences.
        spec: Specification of the sequences, whose tokens are continuous.
        n: Number of draws.
        source: Returns the procedure's random numbers from their beginning, at every call.
        name: Name of the procedure, for the reason.

    Returns:
        (n,) lower bounds in nats, +inf where the map is singular; or the reason why there are none.
    """
    D = spec.tokens * spec.dim
    if D > DIMENSIONS:
        return Unavailable(reason=f"a change of variables in {D} dimensions, above {DIMENSIONS}")
    if spec.given:
        return Unavailable(reason="no change of variables where tokens are given")
    step = STEP[spec.mean.dtype]

    def result(shift: tuple[int, float] | None = None) -> tuple[Tensor, Tensor]:
        rng = _Moved(source())
        rng.shift = shift
        x = sample(n, rng)
        if not rng.normals or rng.normals[0][0].numel() != D:
            raise RefusedError(f"its noise is not one normal for each of {D} numbers")
        return x.double().flatten(1), rng.normals[0].double().reshape(n, D)

    def log_volume(by: float) -> Tensor:
        columns = [(result((j, by))[0] - result((j, -by))[0]) / (2 * by) for j in range(D)]
        log_det: Tensor = torch.linalg.slogdet(torch.stack(columns, 2)).logabsdet
        return log_det

    try:
        _, z = result()
        log_det, doubled = log_volume(step), log_volume(2 * step)
    except RefusedError as refusal:
        return Unavailable(reason=f"no change of variables for {name}: {refusal}")
    if float((log_det - doubled).abs().nanmedian()) > SMOOTH:
        return Unavailable(reason=f"no change of variables for {name}: it is not smooth")
    log_normal = -0.5 * (z.square().sum(1) + D * LOG_2PI)
    values = torch.where(log_det > -math.inf, log_normal - log_det, math.inf)
    return LogDensity(
        values=values, bound=True, method="change of variables, exact if the map is injective"
    )
