"""Inversion of denoising passes gives the exact log-density of what they sample.

A DDIM pass from levels t to levels s moves the tokens whose level changes,

    F_i(x_t) = r_i x_t,i + c_i D_i(x_t),   r_i = sigma(s_i) / sigma(t_i),
                                           c_i = alpha(s_i) - r_i alpha(t_i) >= 0,

with D the denoiser's answer. The oracle has dD/dx = Cov[x_0 | x_t] diag(alpha_j / sigma_j^2), so
that dF/dx is similar to a symmetric positive definite matrix: in scaled coordinates a pass is the
gradient of a strictly convex function, hence one-to-one. Its inverse is found by damped Newton
steps, and over all passes

    log q(x) = log N(T^-1(x)) - sum of log |det dF/dx|.

A pass that takes a token from pure noise to a clean value in one jump forgets the token's noise,
and the result has no density there: log q is -inf.

A network other than the oracle may be anything. Its passes are inverted from several starts: if
they end at one point, the density is taken to be that of this point; if not, it is a lower bound,
since every further preimage adds to it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from capcheck.core.log_density import LogDensity
from capcheck.core.unavailable import Unavailable
from capcheck.laws import LOG_2PI
from capcheck.noise.paths import NoisePath

__all__ = ["CONVERGED", "MOST_STEPS", "SAME", "Derivative", "density_along"]

CONVERGED = 1e-9  # Newton step, relative to 1 plus the point, that is the last one
MOST_STEPS = 100  # most Newton steps of a pass; three to five are usual
MOST_HALVINGS = 40  # most halvings of a Newton step that does not come nearer
SAME = 1e-6  # relative distance of two preimages that count as one
HELD = 1 << 22  # most numbers of the derivatives that are held at once: 32 MiB

Derivative = Callable[[Tensor, Tensor, Sequence[int]], tuple[Tensor, Tensor]]
"""(x_t (n, N, d), t (n, N), S tokens) -> E[x_0 | x_t] of these tokens (n, S, d), and its derivative
in their values (n, S d, S d), both in float64."""


def density_along(
    schedule: Tensor, derivative: Derivative, x: Tensor, path: NoisePath, *, trusted: bool
) -> LogDensity | Unavailable:
    """Log-density of the tokens that passes along a schedule bring from level 1 to level 0.

    Args:
        schedule: (rows, N) levels, none of which rises. Tokens at level 0 in the first row are
            given, and tokens at level 1 in the last row take no part.
        derivative: The denoiser with its derivative.
        x: (n, N, d) sequences; values of tokens that take no part are ignored.
        path: The noise path.
        trusted: Whether the denoiser is an oracle, whose passes are known to be one-to-one.

    Returns:
        The log-density (nats) of the tokens that move, given those at level 0 from the start, (n,);
        or the reason why it was not found.
    """
    levels = schedule.to(x.device, torch.float64)
    moved = (levels[0] == 1) & (levels[-1] == 0)
    method = "inversion of every pass"
    if not bool(moved.any()):
        return LogDensity(values=x.new_zeros(len(x), dtype=torch.float64), method=method)
    passes = list(itertools.pairwise(levels))
    if any(bool(((t == 1) & (s == 0)).any()) for t, s in passes):
        values = torch.full((len(x),), -torch.inf, dtype=torch.float64, device=x.device)
        return LogDensity(values=values, method="a jump from noise to data forgets the noise")
    size = max(1, HELD // int(moved.sum() * x.shape[2]) ** 2)
    parts, unique = [], True
    for rows in x.double().split(size):
        found = _density_of_rows(passes, moved, derivative, rows, path, trusted=trusted)
        if isinstance(found, Unavailable):
            return found
        parts.append(found[0])
        unique = unique and found[1]
    if not trusted:
        method += " from several starts" + ("" if unique else ", which found several preimages")
    return LogDensity(values=torch.cat(parts), method=method, bound=not unique)


def _density_of_rows(
    passes: Sequence[tuple[Tensor, Tensor]],
    moved: Tensor,
    derivative: Derivative,
    x: Tensor,
    path: NoisePath,
    *,
    trusted: bool,
) -> tuple[Tensor, bool] | Unavailable:
    """The log-density of some rows, and whether every pass had one preimage."""
    log_q, unique = x.new_zeros(len(x)), True
    for t, s in reversed(passes):
        step = _Pass(t, s, derivative, path)
        x, log_det, one = step.inverse(x, several=not trusted)
        unique = unique and one
        failed = ~log_det.isfinite()
        if bool(failed.any()):
            return Unavailable(
                reason=f"the inverse of a pass was not found for {int(failed.sum())} of {len(x)} "
                "draws"
            )
        log_q = log_q - log_det
    z = x[:, moved]
    return log_q - 0.5 * (z.square() + LOG_2PI).sum((1, 2)), unique


@dataclass(frozen=True, eq=False)
class _Pass:
    """One pass, from levels t to levels s, both (N,).

    Attributes:
        t: Levels before the pass.
        s: Levels after it.
        derivative: The denoiser with its derivative.
        path: The noise path.
    """

    t: Tensor
    s: Tensor
    derivative: Derivative
    path: NoisePath

    def inverse(self, x_s: Tensor, *, several: bool) -> tuple[Tensor, Tensor, bool]:
        """The state before the pass, log |det dF/dx| there, and whether all starts agree.

        The log-determinant of a row whose inverse was not found is NaN.
        """
        tokens = (self.t != self.s).nonzero()[:, 0].tolist()
        starts = self._starts(x_s, tokens) if several else [self._start(x_s, tokens)]
        u, log_det, turned = self._newton(x_s, tokens, starts[0])
        unique = not turned  # far away a pass keeps the orientation, so there are more preimages
        for start in starts[1:]:
            other, other_det, _ = self._newton(x_s, tokens, start)
            lost = log_det.isnan() & ~other_det.isnan()
            apart = ((u - other).abs() > SAME * (1 + u.abs())).flatten(1).any(1)
            unique = unique and not bool((apart & ~lost & ~other_det.isnan()).any())
            u = torch.where(lost[:, None, None], other, u)
            log_det = torch.where(lost, other_det, log_det)
        x_t = x_s.clone()
        x_t[:, tokens] = u
        return x_t, log_det, unique

    def _start(self, x_s: Tensor, tokens: list[int]) -> Tensor:
        """The reverse of the pass if the denoiser's answer did not change along it: (n, S, d)."""
        x0, _ = self.derivative(x_s, self.s.expand(x_s.shape[:2]), tokens)
        alpha_s, sigma_s = self._amplitudes(self.s, tokens)
        alpha_t, sigma_t = self._amplitudes(self.t, tokens)
        e = (x_s[:, tokens] - alpha_s * x0) / torch.where(sigma_s > 0, sigma_s, 1)
        return alpha_t * x0 + sigma_t * torch.where(sigma_s > 0, e, 0)

    def _starts(self, x_s: Tensor, tokens: list[int]) -> list[Tensor]:
        first = self._start(x_s, tokens)
        _, sigma_t = self._amplitudes(self.t, tokens)
        return [first, first + sigma_t, first.roll(1, 0) - sigma_t]

    def _amplitudes(self, levels: Tensor, tokens: list[int]) -> tuple[Tensor, Tensor]:
        chosen = levels[tokens][:, None]  # (S, 1)
        return self.path.alpha(chosen), self.path.sigma(chosen)

    def _push(self, x_s: Tensor, tokens: list[int], u: Tensor) -> tuple[Tensor, Tensor]:
        """F at u (n, S, d) beside the tokens that stay: (n, S d), and dF/du (n, S d, S d)."""
        x_t = x_s.clone()
        x_t[:, tokens] = u
        x0, slope = self.derivative(x_t, self.t.expand(x_t.shape[:2]), tokens)
        alpha_s, sigma_s = self._amplitudes(self.s, tokens)
        alpha_t, sigma_t = self._amplitudes(self.t, tokens)
        r = sigma_s / sigma_t
        c = alpha_s - r * alpha_t
        d = u.shape[2]
        value = (r * u + c * x0).flatten(1)
        slope = c.repeat_interleave(d, 0) * slope
        slope.diagonal(dim1=1, dim2=2).add_(r.repeat_interleave(d, 0)[:, 0])
        return value, slope

    def _newton(self, x_s: Tensor, tokens: list[int], start: Tensor) -> tuple[Tensor, Tensor, bool]:
        """The preimage u (n, S, d) of x_s, log |det dF/du| there, and whether a det is negative.

        The log-determinant is NaN where no preimage was found.
        """
        n, shape, turned = len(x_s), start.shape[1:], False
        found = start.flatten(1).clone()
        log_det = found.new_full((n,), torch.nan)
        active = torch.arange(n, device=x_s.device)
        u, wanted = found.clone(), x_s[:, tokens].flatten(1)
        value, slope = self._push(x_s, tokens, u.unflatten(1, shape))
        for _ in range(MOST_STEPS):
            gap = value - wanted
            step, info = torch.linalg.solve_ex(slope, gap)
            size = torch.where(info == 0, step.abs().amax(1), torch.nan)
            done = size <= CONVERGED * (1 + u.abs().amax(1))
            if bool(done.any()):
                sign, volume = torch.linalg.slogdet(slope[done])
                found[active[done]] = u[done] - step[done]
                log_det[active[done]] = volume
                turned = turned or bool((sign < 0).any())
            kept = ~done & size.isfinite()
            if not bool(kept.any()):
                break
            active, wanted = active[kept], wanted[kept]
            u, value, slope = self._damped(
                x_s[active], tokens, shape, u[kept], gap[kept], wanted, step[kept]
            )
        return found.unflatten(1, shape), log_det, turned

    def _damped(
        self,
        x_s: Tensor,
        tokens: list[int],
        shape: torch.Size,
        u: Tensor,
        gap: Tensor,
        wanted: Tensor,
        step: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The points u - step, their values and slopes; steps are halved until they help."""
        before = torch.linalg.vector_norm(gap, dim=1)
        rounding = 1e-14 * (1 + torch.linalg.vector_norm(wanted, dim=1))
        new = u - step
        value, slope = self._push(x_s, tokens, new.unflatten(1, shape))
        for _ in range(MOST_HALVINGS):
            after = torch.linalg.vector_norm(value - wanted, dim=1)
            worse = ~(after < before) & (before > rounding)
            if not bool(worse.any()):
                break
            rows = worse.nonzero()[:, 0]
            step[rows] /= 2
            new[rows] = u[rows] - step[rows]
            value[rows], slope[rows] = self._push(x_s[rows], tokens, new[rows].unflatten(1, shape))
        return new, value, slope
