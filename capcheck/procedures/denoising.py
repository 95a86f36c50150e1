"""Denoising along a schedule: the passes from noise to data, and the density of their result.

The pass from row t to row s of a schedule shows the network all tokens at their levels, and moves
the tokens whose level changes by DDIM:

    x_s,i = alpha(s_i) x0_i + sigma(s_i) / sigma(t_i) (x_t,i - alpha(t_i) x0_i).

With a network that sees all tokens, every schedule carries noise to data exactly in the limit where
its longest jump goes to 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import SequenceSpec
from capcheck.core.slopes import Slope
from capcheck.core.unavailable import Unavailable
from capcheck.exact.inversion import Answers, density_along
from capcheck.networks.signatures import (
    Denoiser,
    OracleDenoiser,
    TokenPredictor,
    with_slope,
)
from capcheck.noise.flow import ddim_step
from capcheck.noise.paths import NoisePath
from capcheck.procedures.probe import State

__all__ = ["denoised_along", "density_along_schedule", "starting_noise"]


def starting_noise(spec: SequenceSpec, n: int, rng: Randomness) -> Tensor:
    """Standard normal noise for every token, (n, N, d), in one draw."""
    return rng.normal((n, spec.tokens, spec.dim)).to(spec.mean)


def denoised_along(
    schedule: Tensor,
    network: Denoiser,
    *,
    start: State,
    noise: Tensor,
    path: NoisePath,
    eta: float = 0.0,
    rng: Randomness | None = None,
) -> Iterator[State]:
    """Denoises along a schedule; yields the start, then one state per pass.

    The state of a pass has written exactly the tokens whose level changed.

    Args:
        schedule: (rows, N) levels; the first row is 1 for all tokens but the given ones.
        network: Denoiser of the noise path.
        start: The state before the first pass, with the given tokens placed; the network is shown
            these at level 0.
        noise: (n, N, d) standard normal noise of every token.
        path: The noise path.
        eta: Share of fresh noise in [0, 1]; see `capcheck.noise.flow.ddim_step`.
        rng: Source of the fresh noise; needed where eta is above 0.
    """
    state = start.filled(noise)
    yield state
    shape = noise.shape[:2]
    for t, s in itertools.pairwise(schedule.to(noise)):
        moves = t != s  # (N,)
        x0 = network(state.tokens, t.expand(shape))
        # Levels of tokens that stay are replaced, as DDIM would divide by 0 at level 0.
        t_i, s_i = torch.where(moves, t, 1)[:, None], torch.where(moves, s, 0)[:, None]
        z = rng.normal(tuple(noise.shape)).to(noise) if eta and rng is not None else None
        x_s = ddim_step(state.tokens, x0, t_i, s_i, path, eta=eta, z=z)
        state = state.write(x_s, moves.expand(shape))
        yield state


def density_along_schedule(
    schedule: Tensor,
    network: Denoiser,
    completion: TokenPredictor,
    *,
    x: Tensor,
    path: NoisePath,
    shown: Callable[[Tensor], Tensor] = lambda t: t,
) -> LogDensity | Unavailable:
    """Log-density of what `denoised_along` samples without fresh noise, completed by marginals.

    Args:
        schedule: (rows, N) levels; tokens at level 0 in the first row are given.
        network: Denoiser of the noise path.
        completion: The predictor of the tokens that take no part.
        x: (n, N, d) sequences.
        path: The noise path.
        shown: Function from the levels of the tokens (n, N) to those that the network is told.

    Returns:
        The log-density (nats) of all tokens but the given ones, (n,), or the reason why there is
        none; see `capcheck.exact.inversion`.
    """

    def mean(x_t: Tensor, t: Tensor, tokens: Sequence[int], rows: Tensor) -> Tensor:
        return network(x_t, shown(t))[:, tokens]

    def slope(x_t: Tensor, t: Tensor, tokens: Sequence[int], rows: Tensor) -> tuple[Tensor, Slope]:
        return with_slope(network, x_t, shown(t), tokens)

    trusted = isinstance(network, OracleDenoiser)
    try:
        found = density_along(schedule, Answers(mean, slope), x, path, trusted=trusted)
    except RuntimeError as error:
        if trusted:
            raise
        said = str(error).splitlines()[0]
        return Unavailable(reason=f"the network cannot be differentiated: {said}")
    if isinstance(found, Unavailable):
        return found
    placed = (schedule[-1] == 0).to(x.device)
    if rest := (~placed).nonzero()[:, 0].tolist():
        law = completion(x, placed.expand(x.shape[:2])).select(rest)
        found = found.plus(law.log_prob(x[:, rest]).sum(1))
    return found
