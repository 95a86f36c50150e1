"""A flow map carries tokens along the probability flow from any level t to any lower level s.

For a Gaussian law the map is linear. For other laws it is integrated in r = sigma / alpha and
y = x / alpha, where the flow is dy / dlog r = y - x0. The steps do not depend on the batch, so that
each row is mapped independently of the others and the map can be used as a network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from scipy.integrate import RK45
from torch import Tensor

from capcheck.core.sequences import SequenceSpec
from capcheck.noise.flow import ddim_step
from capcheck.noise.paths import NoisePath

__all__ = ["FAR", "STRIDE", "flow_map", "gaussian_flow_map", "level_of", "ratio", "ratios"]

FAR = 1e3  # sigma / alpha over the widest deviation beyond which one DDIM step is exact to 5e-7
STRIDE = 0.4  # length of a solver step in log(sigma / alpha)


def flow_map(
    denoise: Callable[[Tensor, Tensor], Tensor],
    x_t: Tensor,
    t: float,
    s: float,
    *,
    path: NoisePath,
    spec: SequenceSpec,
    clean: Tensor | None = None,
) -> Tensor:
    """Carries x_t from level t down to level s, by fixed steps of a Runge-Kutta method of order 5.

    With r = sigma / alpha and y = x / alpha the flow is dy/dlog r = y - x0. It is integrated for
    z = (y - m) / sqrt(r^2 + v), where m and v are the mean and the variance of the tokens:

        dz/dlog r = (v z / sqrt(r^2 + v) - (x0 - m)) / sqrt(r^2 + v).

    z is constant where the noise hides everything, and wherever a token is N(m, v). One DDIM step
    replaces the solver where r is above `FAR` times the widest deviation, or below the narrowest
    deviation divided by `FAR`.

    From noise to data the map makes 110 to 140 calls. Its error was measured on four mixtures
    against steps a quarter as long, in token units: half of the rows are within 3e-6, 99% within
    1e-3, and the row closest to the boundary between two modes 12 deviations apart within 2e-2.

    Clean tokens keep their values, and the flow is that of the conditional law of the others; m is
    then the mean of the others given the clean tokens, row by row.

    Args:
        denoise: (x_t (n, N, d), t (n, N)) -> E[x_0 | x_t], (n, N, d).
        x_t: (n, N, d), all tokens but the clean ones at level t.
        t: Level in (0, 1].
        s: Level in [0, t].
        path: The noise path of the denoiser.
        spec: Moments of the tokens, which define z and the range of the solver.
        clean: (N,) bool mask of the tokens at level 0; no token if None.
    """
    if clean is None:
        clean = torch.zeros(x_t.shape[1], dtype=torch.bool, device=x_t.device)
    kept = clean[:, None]  # (N, 1)

    def denoised(x: Tensor, level: float) -> Tensor:
        levels = torch.where(clean, 0, x.new_tensor(level)).expand(x.shape[:2])
        return torch.where(kept, x_t, denoise(torch.where(kept, x_t, x), levels))

    v = spec.variance.to(x_t)
    m = denoised(x_t, 1.0) if bool(clean.any()) else spec.mean.to(x_t)

    def ddim(x: Tensor, level: float, to: float) -> Tensor:
        x_to = ddim_step(x, denoised(x, level), x.new_tensor(level), x.new_tensor(to), path)
        return torch.where(kept, x_t, x_to)

    def scale(level: float) -> Tensor:
        return (ratio(level, path) ** 2 + v).sqrt()  # (N, d)

    def seen(z: Tensor, level: float) -> Tensor:
        return (m + scale(level) * z) * path.alpha(z.new_tensor(level))

    def slope(z: Tensor, level: float) -> Tensor:
        pull = denoised(seen(z, level), level) - m
        return (v * z / scale(level) - pull) / scale(level)

    low, high = ratios(spec)
    start, stop = (min(max(ratio(u, path), low), high) for u in (t, s))
    if start == stop:
        return ddim(x_t, t, s) if s < t else x_t
    grid = torch.tensor(_strides(start, stop, spec), dtype=torch.float64)
    strides = grid.diff()
    stages = grid[:-1, None] + strides[:, None] * torch.tensor(RK45.C)
    levels = level_of(stages.exp(), path).tolist()
    first, final = level_of(grid[[0, -1]].exp(), path).tolist()
    x = ddim(x_t, t, first) if ratio(t, path) > start else x_t
    z = (x / path.alpha(x.new_tensor(first)) - m) / scale(first)
    for h, at in zip(strides.tolist(), levels, strict=True):
        slopes: list[Tensor] = []
        for weights, level in zip(RK45.A, at, strict=True):
            step = sum(float(w) * k for w, k in zip(weights, slopes, strict=False))
            slopes.append(slope(z + h * step, level))
        z = z + h * sum(float(w) * k for w, k in zip(RK45.B, slopes, strict=True))
    x = torch.where(kept, x_t, seen(z, final))
    return ddim(x, final, s) if ratio(s, path) < stop else x


def _strides(start: float, stop: float, spec: SequenceSpec) -> list[float]:
    """The solver's values of log(sigma / alpha), from start down to stop.

    They are at most `STRIDE` apart where sigma / alpha lies between a third of the narrowest
    deviation and three times the widest. Outside, where the flow is weak, strides become longer.
    """
    low, high = (math.log(r) for r in ratios(spec))
    top = high - math.log(FAR) + math.log(3)
    bottom = low + math.log(FAR) - math.log(3)

    def clock(u: float) -> float:  # signed number of strides between 0 and u
        outside = math.log1p(max(u - top, 0)) - math.log1p(max(bottom - u, 0))
        return (min(max(u, bottom), top) + outside) / STRIDE

    def at(count: float) -> float:
        inside = min(max(count * STRIDE, bottom), top)
        outside = count * STRIDE - inside
        return inside + math.copysign(math.expm1(abs(outside)), outside)

    first, last = clock(math.log(start)), clock(math.log(stop))
    steps = max(1, math.ceil(first - last - 1e-9))
    inner = [at(first + (last - first) * j / steps) for j in range(1, steps)]
    return [math.log(start), *inner, math.log(stop)]


def gaussian_flow_map(
    mean: Tensor, covariance: Tensor, path: NoisePath, *, clean: Sequence[int] = ()
) -> Callable[[Tensor, float, float], Tensor]:
    """The flow map of a Gaussian law N(m, C), which is linear.

        x_s = alpha_s m + C_s^(1/2) C_t^(-1/2) (x_t - alpha_t m),    C_t = alpha_t^2 C + sigma_t^2

    Args:
        mean: m, (N d,).
        covariance: C, (N d, N d).
        path: The noise path.
        clean: Indices of coordinates that keep their values; m and C are then those of the other
            coordinates given the clean ones.

    Returns:
        The map (x_t (n, N, d), t, s) -> x_s.
    """
    m, C = mean.double(), covariance.double()
    known = list(clean)
    moving = [i for i in range(len(m)) if i not in known]
    across = C[known][:, moving]  # (g, D)
    gain = torch.linalg.solve(C[known][:, known], across)
    rest = C[moving][:, moving] - across.T @ gain
    independent = int(rest.count_nonzero()) == int(rest.diagonal().count_nonzero())
    if independent:
        values, axes = rest.diagonal(), None
    else:
        values, axes = torch.linalg.eigh(0.5 * (rest + rest.T))
    values = values.clamp(min=0)

    def carry(x_t: Tensor, t: float, s: float) -> Tensor:
        (alpha_t, V_t), (alpha_s, V_s) = (
            (path.alpha(level), path.alpha(level).square() * values + path.sigma(level).square())
            for level in (values.new_tensor(t), values.new_tensor(s))
        )
        factor = torch.where(V_t > 0, V_s / V_t.clamp(min=torch.finfo(V_t.dtype).tiny), 1).sqrt()
        x_s = x_t.double().flatten(1).clone()
        centre = m[moving] + (x_s[:, known] - m[known]) @ gain  # (n, D)
        residual = x_s[:, moving] - alpha_t * centre
        if axes is None:
            x_s[:, moving] = alpha_s * centre + residual * factor
        else:
            x_s[:, moving] = alpha_s * centre + (residual @ axes * factor) @ axes.T
        return x_s.reshape(x_t.shape).to(x_t)

    return carry


def ratio(level: float, path: NoisePath) -> float:
    """The ratio of noise to signal, sigma / alpha, at a level; infinite at level 1."""
    t = torch.tensor(level, dtype=torch.float64, device="cpu")
    return float(path.sigma(t) / path.alpha(t))


def level_of(at: Tensor, path: NoisePath) -> Tensor:
    """The levels at which sigma / alpha equals `at`, by bisection, as it rises on every path."""
    low, high = torch.zeros_like(at), torch.ones_like(at)
    for _ in range(64):
        middle = 0.5 * (low + high)
        above = path.sigma(middle) < at * path.alpha(middle)
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return high


def ratios(spec: SequenceSpec) -> tuple[float, float]:
    """The values of sigma / alpha below and above which one DDIM step is exact enough."""
    widest = float(spec.variance.max()) ** 0.5
    narrowest = max(spec.smallest_variance**0.5, 1e-9 * widest)
    return narrowest / FAR, widest * FAR
