"""The probability flow: the deterministic map from noise to data that samplers approximate.

    dx/dt = alpha'(t) x0 + sigma'(t) e,    x0 = E[x_0 | x_t = x],    e = (x - alpha x0) / sigma

integrated from t = 1 to 0. It carries N(0, I) to the law of the data exactly: draws of a k-step
sampler and of the flow, made from the same noise, couple the sampled law with the target.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.integrate import RK45
from torch import Tensor

from capcheck.paths import NoisePath

PRECISION = 1e-6  # error per step, relative and in units of the tokens' noise
LAST = 1e-4  # level from which one DDIM step, whose error is of order LAST^2, ends the flow
MOST_CALLS = 3000  # evaluations after which the flow is given up: it is too stiff


def ddim_step(x_t: Tensor, x0: Tensor, t: Tensor, s: Tensor, path: NoisePath) -> Tensor:
    """x_s = alpha_s x0 + (sigma_s / sigma_t) (x_t - alpha_t x0).

    Args:
        x_t: (n, N, d) tokens at level t.
        x0: (n, N, d), the denoiser's answer there.
        t: Level of x_t, above 0.
        s: Level to step to.
        path: The noise path.
    """
    return path.alpha(s) * x0 + path.sigma(s) / path.sigma(t) * (x_t - path.alpha(t) * x0)


def velocity(x_t: Tensor, x0: Tensor, t: Tensor, path: NoisePath) -> Tensor:
    """dx/dt = alpha'(t) x0 + sigma'(t) (x_t - alpha x0) / sigma at a level t above 0."""
    e = (x_t - path.alpha(t) * x0) / path.sigma(t)
    return path.alpha_dot(t) * x0 + path.sigma_dot(t) * e


def probability_flow(
    denoise: Callable[[Tensor, Tensor], Tensor], noise: Tensor, path: NoisePath
) -> Tensor | None:
    """Carry noise to data along the flow, by an adaptive Runge-Kutta method of order 5.

    Args:
        denoise: (x_t (n, N, d), t (n, N)) -> E[x_0 | x_t], (n, N, d).
        noise: (n, N, d) standard normal tokens.
        path: The noise path of the denoiser.

    Returns:
        (n, N, d), or None if the flow is too stiff to be integrated.
    """
    shape, like = noise.shape, noise

    def clean(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        level = torch.tensor(t, dtype=like.dtype, device=like.device)
        with torch.no_grad():
            return denoise(x, level.expand(shape[:2])), level

    def slope(t: float, flat: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(flat).to(like).reshape(shape)
        x0, level = clean(x, t)
        answer: np.ndarray = velocity(x, x0, level, path).double().cpu().numpy().ravel()
        return answer

    start = noise.double().cpu().numpy().ravel()
    solver = RK45(slope, 1.0, start, LAST, rtol=PRECISION, atol=PRECISION)
    while solver.status == "running":
        solver.step()
        if solver.nfev > MOST_CALLS:
            return None
    if solver.status == "failed":
        return None
    x = torch.from_numpy(solver.y).to(like).reshape(shape)
    x0, level = clean(x, LAST)
    return ddim_step(x, x0, level, torch.zeros_like(level), path)
