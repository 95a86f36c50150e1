"""Change of variables: the log-density of a sampler's own draws, from its derivative in its noise.

A procedure that maps D standard normals z to a sequence of D numbers has, at its draw x = F(z),

    q(x) = sum over the z' with F(z') = x of N(z') / |det dF/dz'|  >=  N(z) / |det dF/dz|

with equality where F is injective, as every fine enough solver of a flow is. The derivative is
taken by central differences of the procedure as it is, run again on normals that are moved one by
one. Averaged over the model's draws this bounds KL(model || target) from below.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from capcheck.budget import Budget
from capcheck.completion import completed_run
from capcheck.laws import LOG_2PI
from capcheck.probe import AnyProbe, LogDensity, Unavailable
from capcheck.randomness import Randomness
from capcheck.sequences import SequenceSpec
from capcheck.signatures import TokenPredictor

DIMENSIONS = 64  # largest D: there are four runs for each
STEP = 1e-4  # of a normal; the error of a difference is of order STEP^2
SMOOTH = 1e-3  # largest change of log |det| when the step is doubled


class _RefusedError(Exception):
    """Why there is no change of variables; never leaves this module."""


class _Moved(Randomness):
    """The numbers of another source, of which one normal draw is kept and may be moved."""

    def __init__(self, source: Randomness) -> None:
        self._source = source
        self.normals: list[Tensor] = []
        self.shift: tuple[int, float] | None = None

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        raise _RefusedError("it draws other numbers than normals")

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        z = self._source.normal(shape)
        if self.normals:
            raise _RefusedError("it draws noise more than once")
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
    """A stream that must not be drawn from."""

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        raise _RefusedError("its result is completed by other draws")

    normal = uniform

    def stream(self, name: str) -> Randomness:
        return self


def own_log_density(
    probe: AnyProbe,
    network: Callable[..., Any],
    *,
    completion: TokenPredictor,
    spec: SequenceSpec,
    budget: Budget,
    n: int,
    source: Callable[[], Randomness],
) -> LogDensity | Unavailable:
    """A lower bound on the log-density of the sequences that `run` samples, at these sequences.

    Args:
        probe: The procedure; continuous tokens.
        network: Network of its signature.
        completion: As for a run; it must not be needed.
        spec: As for `Probe.run`.
        budget: As for `Probe.run`.
        n: Rows.
        source: Makes the random numbers that `run` was given, each time anew.

    Returns:
        (n,) values, nats, +inf where the map is singular; or why there are none.
    """
    D = spec.tokens * spec.dim
    if D > DIMENSIONS:
        return Unavailable(reason=f"a change of variables in {D} dimensions, above {DIMENSIONS}")

    def result(shift: tuple[int, float] | None = None) -> tuple[Tensor, Tensor]:
        rng = _Moved(source())
        rng.shift = shift
        x = completed_run(
            probe, network, completion=completion, spec=spec, budget=budget, n=n, rng=rng
        )
        if not rng.normals or rng.normals[0][0].numel() != D:
            raise _RefusedError(f"its noise is not one normal for each of {D} numbers")
        return x.double().flatten(1), rng.normals[0].double().reshape(n, D)

    def log_volume(step: float) -> Tensor:
        columns = [(result((j, step))[0] - result((j, -step))[0]) / (2 * step) for j in range(D)]
        log_det: Tensor = torch.linalg.slogdet(torch.stack(columns, 2)).logabsdet
        return log_det

    try:
        _, z = result()
        log_det, doubled = log_volume(STEP), log_volume(2 * STEP)
    except _RefusedError as refusal:
        return Unavailable(reason=f"no change of variables for {probe.family}: {refusal}")
    if float((log_det - doubled).abs().nanmedian()) > SMOOTH:
        return Unavailable(reason=f"no change of variables for {probe.family}: it is not smooth")
    log_normal = -0.5 * (z.square().sum(1) + D * LOG_2PI)
    values = torch.where(log_det > -math.inf, log_normal - log_det, math.inf)
    return LogDensity(
        values=values, bound=True, method="change of variables, exact if the map is injective"
    )
