"""The probability flow: the deterministic map from noise to data that samplers approximate.

    dx/dt = alpha'(t) x0 + sigma'(t) e,    x0 = E[x_0 | x_t = x],    e = (x - alpha x0) / sigma

integrated from t = 1 to 0, for every token at its own level where a schedule says so. It carries
N(0, I) to the law of the data exactly: draws of a k-step sampler and of the flow, made from the
same noise, couple the sampled law with the target. Its steps adapt to the batch; `flow_map` has a
map that may stand for a network.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.integrate import RK45
from torch import Tensor

from capcheck.noise.paths import NoisePath

PRECISION = 1e-6  # error per step, relative and in units of the tokens' noise
LAST = 1e-4  # level from which one DDIM step, whose error is of order LAST^2, ends the flow
MOST_CALLS = 3000  # evaluations after which the flow is given up: it is too stiff

Denoise = Callable[[Tensor, Tensor], Tensor]


def ddim_step(
    x_t: Tensor,
    x0: Tensor,
    t: Tensor,
    s: Tensor,
    path: NoisePath,
    *,
    eta: float = 0.0,
    z: Tensor | None = None,
) -> Tensor:
    """x_s = alpha_s x0 + sqrt(sigma_s^2 - sigma_ts^2) e + sigma_ts z.

    Here e = (x_t - alpha_t x0) / sigma_t is the noise that x_t is said to hold, and the deviation
    of the fresh noise, sigma_ts = eta (sigma_s / sigma_t) sqrt(sigma_t^2 - (alpha_t / alpha_s)^2
    sigma_s^2), is 0 for DDIM, and at eta = 1 that of ancestral DDPM with its small variance.

    Args:
        x_t: (n, N, d) tokens at level t.
        x0: (n, N, d), the denoiser's answer there.
        t: Level of x_t, above 0.
        s: Level to step to, below t.
        path: The noise path.
        eta: Share of fresh noise, in [0, 1].
        z: (n, N, d) standard normals, the fresh noise; needed where eta is above 0.

    Source: Song, Meng & Ermon 2021, equations 12 and 16.
    """
    of_noise = path.sigma(s) / path.sigma(t)
    if eta == 0 or z is None:
        return path.alpha(s) * x0 + of_noise * (x_t - path.alpha(t) * x0)
    a_ts = path.alpha(t) / path.alpha(s)
    sigma_ts = eta * of_noise * (path.sigma(t).square() - (a_ts * path.sigma(s)).square()).sqrt()
    e = (x_t - path.alpha(t) * x0) / path.sigma(t)
    kept = (path.sigma(s).square() - sigma_ts.square()).clamp(min=0).sqrt()
    return path.alpha(s) * x0 + kept * e + sigma_ts * z


def velocity(x_t: Tensor, x0: Tensor, t: Tensor, path: NoisePath) -> Tensor:
    """dx/dt = alpha'(t) x0 + sigma'(t) (x_t - alpha x0) / sigma at a level t above 0."""
    e = (x_t - path.alpha(t) * x0) / path.sigma(t)
    return path.alpha_dot(t) * x0 + path.sigma_dot(t) * e


def probability_flow(denoise: Denoise, noise: Tensor, path: NoisePath) -> Tensor | None:
    """The flow of all tokens together; see `flow_along`.

    Args:
        denoise: (x_t (n, N, d), t (n, N)) -> E[x_0 | x_t], (n, N, d).
        noise: (n, N, d) standard normal tokens.
        path: The noise path of the denoiser.

    Returns:
        (n, N, d), or None if the flow is too stiff to be integrated.
    """
    ends = torch.tensor([[1.0], [0.0]]).expand(2, noise.shape[1])
    return flow_along(ends, denoise, noise=noise, path=path)


def flow_along(
    schedule: Tensor, denoise: Denoise, *, noise: Tensor, path: NoisePath
) -> Tensor | None:
    """Carry noise to data along a schedule of levels, by a Runge-Kutta method of order 5.

    It is what passes of DDIM converge to as more are added between the rows of the schedule.

    Between two rows every level changes at a constant rate, and each token moves by
    dx_i = dt_i velocity(x_i, x0_i, t_i): the probability flow of tokens with levels of their own.

    Args:
        schedule: (rows, N) levels at the corners of the way from 1 to 0.
        denoise: (x_t (n, N, d), t (n, N)) -> E[x_0 | x_t], (n, N, d).
        noise: (n, N, d), every token at level 1.
        path: The noise path.

    Returns:
        (n, N, d), or None if the flow takes too many evaluations.
    """
    x, calls = noise, 0
    for t, s in itertools.pairwise(schedule.to(noise)):
        segment = _Segment(t, s, denoise, path, like=noise)
        solver = RK45(segment.slope, 0.0, segment.flat(x), 1 - LAST, rtol=PRECISION, atol=PRECISION)
        while solver.status == "running" and calls + solver.nfev <= MOST_CALLS:
            solver.step()
        if solver.status != "finished":
            return None
        calls += solver.nfev
        x = segment.end(solver.y)
    return x


@dataclass(frozen=True)
class _Segment:
    """The flow from the levels of row t to those of row s, for times tau from 0 to 1."""

    t: Tensor  # (N,)
    s: Tensor  # (N,)
    denoise: Denoise
    path: NoisePath
    like: Tensor = field(kw_only=True)  # (n, N, d)

    def flat(self, x: Tensor) -> np.ndarray:
        """For the solver, which works in float64 on the CPU."""
        flat: np.ndarray = x.double().cpu().numpy().ravel()
        return flat

    def slope(self, tau: float, flat: np.ndarray) -> np.ndarray:
        """The derivative dx / dtau; 0 for tokens that keep their level."""
        x, x0, level = self._at(tau, flat)
        rate = (self.s - self.t)[:, None]
        return self.flat(torch.where(rate != 0, rate * velocity(x, x0, level, self.path), 0))

    def end(self, flat: np.ndarray) -> Tensor:
        """At tau = 1, by one DDIM step from where the solver stops."""
        x, x0, level = self._at(1 - LAST, flat)
        moved = ddim_step(x, x0, level, self.s[:, None], self.path)
        return torch.where((self.s != self.t)[:, None], moved, x)

    def _at(self, tau: float, flat: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, what the network says they are, and levels (N, 1), above 0 where they move."""
        x = torch.from_numpy(flat).to(self.like).reshape(self.like.shape)
        level = self.t + tau * (self.s - self.t)
        with torch.no_grad():
            x0 = self.denoise(x, level.expand(x.shape[:2]))
        return x, x0, torch.where(self.s != self.t, level, 1)[:, None]
