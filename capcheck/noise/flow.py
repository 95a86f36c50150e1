"""The probability flow is the deterministic map from noise to data that samplers approximate.

    dx/dt = alpha'(t) x0 + sigma'(t) e,    x0 = E[x_0 | x_t = x],    e = (x - alpha x0) / sigma

It is integrated from t = 1 to 0; with a schedule, every token has a level of its own. The flow
carries N(0, I) to the law of the data exactly. Draws of a k-step sampler and of the flow, made from
the same noise, therefore couple the sampled law with the target.

The step sizes here adapt to the batch, so that a row's result depends on the other rows. The
module `flow_map` has a map whose rows are independent, which can be used as a network.
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

__all__ = [
    "LAST",
    "MOST_CALLS",
    "PRECISION",
    "Denoise",
    "ddim_step",
    "flow_along",
    "probability_flow",
    "velocity",
]

PRECISION = 1e-6  # error tolerance per solver step, relative and absolute (noise has deviation 1)
LAST = 1e-4  # share of a segment that one DDIM step finishes, with an error of order LAST^2
MOST_CALLS = 3000  # largest number of network evaluations, after which the flow counts as too stiff

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
    """One DDIM step x_s = alpha_s x0 + sqrt(sigma_s^2 - sigma_ts^2) e + sigma_ts z.

    Here e = (x_t - alpha_t x0) / sigma_t is the noise in x_t according to the denoiser, and
    sigma_ts = eta (sigma_s / sigma_t) sqrt(sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2) is the
    standard deviation of the fresh noise. It is 0 for DDIM (eta = 0), and for eta = 1 that of
    ancestral DDPM with the smaller of its two variances.

    Args:
        x_t: (n, N, d) tokens at level t.
        x0: (n, N, d), the denoiser's answer E[x_0 | x_t].
        t: Level of x_t, above 0.
        s: Level after the step, below t.
        path: The noise path.
        eta: Share of fresh noise, in [0, 1].
        z: (n, N, d) standard normals, the fresh noise; needed where eta is above 0.

    Source: Song, Meng & Ermon 2021, "Denoising Diffusion Implicit Models", equations 12 and 16,
    https://arxiv.org/abs/2010.02502.
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
    """The velocity dx/dt = alpha'(t) x0 + sigma'(t) (x_t - alpha x0) / sigma, for t above 0."""
    e = (x_t - path.alpha(t) * x0) / path.sigma(t)
    return path.alpha_dot(t) * x0 + path.sigma_dot(t) * e


def probability_flow(denoise: Denoise, noise: Tensor, path: NoisePath) -> Tensor | None:
    """Carries noise to data with all tokens at one level; see `flow_along`.

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
    """Carries noise to data along a schedule of levels, by a Runge-Kutta method of order 5.

    The result is the limit of DDIM passes as more rows are inserted into the schedule. Between two
    rows every level changes at a constant rate, and each token moves by the probability flow of its
    own level: dx_i = dt_i velocity(x_i, x0_i, t_i).

    Args:
        schedule: (rows, N) levels from 1 to 0, interpolated linearly between the rows.
        denoise: (x_t (n, N, d), t (n, N)) -> E[x_0 | x_t], (n, N, d).
        noise: (n, N, d) standard normal tokens.
        path: The noise path.

    Returns:
        (n, N, d), or None if the flow needs more than `MOST_CALLS` evaluations.
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
        """The tokens as a flat array for the solver, which works in float64 on the CPU."""
        flat: np.ndarray = x.double().cpu().numpy().ravel()
        return flat

    def slope(self, tau: float, flat: np.ndarray) -> np.ndarray:
        """The derivative dx / dtau; 0 for tokens that keep their level."""
        x, x0, level = self._at(tau, flat)
        rate = (self.s - self.t)[:, None]
        return self.flat(torch.where(rate != 0, rate * velocity(x, x0, level, self.path), 0))

    def end(self, flat: np.ndarray) -> Tensor:
        """The tokens at tau = 1, by one DDIM step from tau = 1 - LAST, where the solver stops."""
        x, x0, level = self._at(1 - LAST, flat)
        moved = ddim_step(x, x0, level, self.s[:, None], self.path)
        return torch.where((self.s != self.t)[:, None], moved, x)

    def _at(self, tau: float, flat: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """The tokens, the denoiser's answer, and the levels (N, 1), above 0 where tokens move."""
        x = torch.from_numpy(flat).to(self.like).reshape(self.like.shape)
        level = self.t + tau * (self.s - self.t)
        with torch.no_grad():
            x0 = self.denoise(x, level.expand(x.shape[:2]))
        return x, x0, torch.where(self.s != self.t, level, 1)[:, None]
