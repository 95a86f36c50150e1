"""The density of a distilled flow whose clean tokens get new noise between its calls.

A call f at level t maps noisy tokens u = alpha(t) y + sigma(t) e to x = f(u). With its preimage u,

    q_k(x) = int q_(k-1)(y) N(u; alpha(t) y, sigma(t)^2 I) dy / |det f'(u)|.

Drawing y from the target's posterior p(y | u) = p(y) N(u; alpha(t) y, sigma(t)^2 I) / p_t(u) gives

    q_k(x) = E[q_(k-1)(Y) / p(Y)] p_t(u) / |det f'(u)|,

so that one draw of Y for each row bounds log q_k from below, call by call. The first call starts
from pure noise, whose density is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import SequenceSpec
from capcheck.core.slopes import Slope
from capcheck.core.unavailable import Unavailable
from capcheck.exact.inversion import Answers, Preimage, inverse_along
from capcheck.laws import LOG_2PI
from capcheck.networks.signatures import DistilledFlow
from capcheck.noise.paths import PATHS, NoisePath
from capcheck.targets.target import ContinuousTarget

__all__ = ["density_of_calls", "posterior_draw"]


def density_of_calls(
    network: DistilledFlow,
    levels: Sequence[float],
    spec: SequenceSpec,
    x: Tensor,
    rng: Randomness,
) -> LogDensity | Unavailable:
    """The log-density (nats) of x after one call at each level; a lower bound after several.

    Args:
        network: The distilled flow.
        levels: Level that each call starts from, falling from 1.
        spec: Specification of the sequences; the density is that of the tokens not given.
        x: (n, N, d) sequences, with given tokens in place.
        rng: Random numbers for the paths.
    """
    target, path, free = network.target, PATHS[network.path], list(spec.free)
    y, log_q = x.double(), x.new_zeros(len(x), dtype=torch.float64)
    at = torch.zeros(len(levels), spec.tokens, dtype=torch.float64, device=x.device)
    at[:, free] = torch.tensor(levels, dtype=torch.float64, device=x.device)[:, None]
    if network.steps == 1 and len(levels) == 1:
        values = torch.full_like(log_q, -torch.inf)
        return LogDensity(values=values, method="a jump from noise to data forgets the noise")
    for call in range(len(levels) - 1, -1, -1):
        t = at[call]
        found = _preimage(network, levels[call], t, y)
        if isinstance(found, Unavailable):
            return found
        u, log_q = found.x, log_q - found.log_det
        if call == 0:
            log_q = log_q + _log_normal(u[:, free], 1.0)
        elif call == 1 and network.steps == 1:  # the first call makes one point of all noise
            y = network(y, at[0].expand(y.shape[:2]))
            sigma = float(path.sigma(t[free[0]]))
            mean = path.alpha(t)[:, None] * y
            log_q = log_q + _log_normal((u - mean)[:, free], sigma)
            break
        else:
            y = posterior_draw(target, u, t, path, rng)
            log_q = log_q + target.with_noise(t, path).log_prob(u) - target.log_prob(y)
    one = len(levels) == 1
    method = "inversion of every step" + ("" if one else ", along one path back for each row")
    return LogDensity(values=log_q, method=method, bound=not one)


def posterior_draw(
    target: ContinuousTarget, u: Tensor, level: Tensor, path: NoisePath, rng: Randomness
) -> Tensor:
    """Draws clean tokens (n, N, d) given noisy ones, token by token.

    Args:
        target: Law of the clean tokens.
        u: Noisy tokens, (n, N, d); values of tokens at level 0 are clean.
        level: Level of each token, (N,).
        path: Noise path of the levels.
        rng: Random numbers.
    """
    y, left = u.clone(), level.expand(u.shape[:2]).clone()
    for i in (level > 0).nonzero()[:, 0].tolist():
        law = target.marginals(y, left, path).select([i])
        y[:, [i]] = law.sample(rng).to(y)
        left[:, i] = 0
    return y


def _preimage(network: DistilledFlow, level: float, t: Tensor, x: Tensor) -> Preimage | Unavailable:
    """The noisy tokens that a call at a level maps to x; tokens with t = 0 are given."""

    def mean(x_t: Tensor, u: Tensor, tokens: Sequence[int], rows: Tensor) -> Tensor:
        return network.target.denoise(x_t, u, path)[:, tokens]

    def slope(x_t: Tensor, u: Tensor, tokens: Sequence[int], rows: Tensor) -> tuple[Tensor, Slope]:
        return network.target.denoise_with_slope(x_t, u, path, tokens)

    path = PATHS[network.path]
    steps = torch.tensor(network.levels(level), dtype=torch.float64, device=x.device)
    schedule = torch.where(t > 0, steps[:, None], 0)
    return inverse_along(schedule, Answers(mean, slope), x, path, trusted=True)


def _log_normal(residual: Tensor, deviation: float) -> Tensor:
    """The log-density (n,) of N(0, deviation^2 I) at residuals (n, S, d), in nats."""
    z = residual / deviation
    return -0.5 * (z.square() + LOG_2PI).sum((1, 2)) - z[0].numel() * math.log(deviation)
