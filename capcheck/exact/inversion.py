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

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from capcheck.core.log_density import LogDensity
from capcheck.core.slopes import LARGE, Slope
from capcheck.core.unavailable import Unavailable
from capcheck.laws import LOG_2PI
from capcheck.noise.paths import NoisePath

__all__ = [
    "CONVERGED",
    "DERIVATIVES",
    "MOST_STEPS",
    "SAME",
    "Answers",
    "Preimage",
    "after_a_jump",
    "density_along",
    "inverse_along",
]

CONVERGED = 1e-7  # Newton step, relative to 1 plus the point, that is the last one
MOST_STEPS = 100  # most Newton steps of a pass; two to four are usual
MOST_HALVINGS = 40  # most halvings of a Newton step that does not come nearer
FEWER = 25, 6  # the same two for a network, whose inverse need not exist
SAME = 1e-6  # relative distance of two preimages that count as one
HELD = 1 << 22  # most numbers of the derivatives that are held at once: 32 MiB

DERIVATIVES = 2.5  # derivatives that the inverse of a pass takes on average


@dataclass(frozen=True, eq=False)
class Answers:
    """A denoiser's answers to x_t (n, N, d) at levels t (n, N) for S tokens of the given rows.

    Attributes:
        mean: (x_t, t, tokens, indices of the rows (n,)) -> E[x_0 | x_t] of these tokens, (n, S, d).
        slope: The same arguments -> the same mean, and its derivative in the values of these
            tokens, matrices (S d, S d), both in float64.
    """

    mean: Callable[[Tensor, Tensor, Sequence[int], Tensor], Tensor]
    slope: Callable[[Tensor, Tensor, Sequence[int], Tensor], tuple[Tensor, Slope]]


def density_along(
    schedule: Tensor, denoiser: Answers, x: Tensor, path: NoisePath, *, trusted: bool
) -> LogDensity | Unavailable:
    """Log-density of the tokens that passes along a schedule bring from level 1 to level 0.

    Args:
        schedule: (rows, N) levels, none of which rises. Tokens at level 0 in the first row are
            given, and tokens at level 1 in the last row take no part.
        denoiser: The denoiser's answers.
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
    if any(bool(((t == 1) & (s == 0)).any()) for t, s in itertools.pairwise(levels)):
        return after_a_jump(x)
    found = inverse_along(levels, denoiser, x, path, trusted=trusted)
    if isinstance(found, Unavailable):
        return found
    z = found.x[:, moved]
    values = -0.5 * (z.square() + LOG_2PI).sum((1, 2)) - found.log_det
    if not trusted:
        method += " from several starts"
        method += "" if found.unique else ", which found several preimages"
    return LogDensity(values=values, method=method, bound=not found.unique)


def after_a_jump(x: Tensor) -> LogDensity:
    """The log-density of sequences x, (n, N, d), of which a token jumped from noise to data."""
    values = torch.full((len(x),), -torch.inf, dtype=torch.float64, device=x.device)
    return LogDensity(values=values, method="a jump from noise to data forgets the noise")


@dataclass(frozen=True, kw_only=True, eq=False)
class Preimage:
    """The states from which passes along a schedule lead to given ones.

    Attributes:
        x: States before the first pass, (n, N, d).
        log_det: Sum over the passes of log |det dF/dx| in the tokens that move, (n,).
        unique: Whether all starts of Newton's method ended at one point.
    """

    x: Tensor
    log_det: Tensor
    unique: bool


def inverse_along(
    schedule: Tensor, denoiser: Answers, x: Tensor, path: NoisePath, *, trusted: bool
) -> Preimage | Unavailable:
    """The preimage of states under passes along a schedule, or the reason why it was not found.

    Args:
        schedule: (rows, N) levels, none of which rises; no token goes from 1 to 0 in one pass.
        denoiser: The denoiser's answers.
        x: (n, N, d) states after the last pass.
        path: The noise path.
        trusted: Whether the denoiser is an oracle, whose passes are known to be one-to-one.
    """
    levels = schedule.to(x.device, torch.float64)
    passes = list(itertools.pairwise(levels))
    moved = int((levels[0] != levels[-1]).sum()) * x.shape[2]
    size = max(1, HELD // (moved * min(moved, LARGE)))
    parts = []
    for rows in torch.arange(len(x), device=x.device).split(size):
        found = _inverse_of_rows(passes, denoiser, x[rows].double(), rows, path, trusted)
        if isinstance(found, Unavailable):
            return found
        parts.append(found)
    return Preimage(
        x=torch.cat([part.x for part in parts]),
        log_det=torch.cat([part.log_det for part in parts]),
        unique=all(part.unique for part in parts),
    )


def _inverse_of_rows(
    passes: Sequence[tuple[Tensor, Tensor]],
    denoiser: Answers,
    x: Tensor,
    rows: Tensor,
    path: NoisePath,
    trusted: bool,
) -> Preimage | Unavailable:
    total, unique = x.new_zeros(len(x)), True
    generator = torch.Generator().manual_seed(int(rows[0]))  # rows that share it are independent
    course = _Course(x, passes[-1][1])
    for t, s in reversed(passes):
        limits = (MOST_STEPS, MOST_HALVINGS) if trusted else FEWER
        step = _Pass(t, s, denoiser, path, x, rows, generator, course, *limits)
        x, log_det, one = step.inverse(several=not trusted)
        unique = unique and one
        failed = ~log_det.isfinite()
        if bool(failed.any()):
            return Unavailable(
                reason=f"the inverse of a pass was not found for {int(failed.sum())} of {len(x)} "
                "draws"
            )
        total = total + log_det
        course.add(step.tokens, t, step.answer(x))
    return Preimage(x=x, log_det=total, unique=unique)


class _Course:
    """The denoiser's answers along the passes that are inverted, which foretell the next ones.

    Args:
        x: States after the last pass, (n, N, d). Clean tokens are their own answers.
        levels: Levels of these states, (N,).
    """

    def __init__(self, x: Tensor, levels: Tensor) -> None:
        self._answers, self._levels = x.clone(), levels.clone()
        self._rates = torch.zeros_like(x)  # change of the answers with the level
        self._known = levels == 0

    def add(self, tokens: Sequence[int], t: Tensor, answers: Tensor) -> None:
        """Note the answers for S tokens, (n, S, d), at levels t, (N,)."""
        rise = (t - self._levels)[tokens, None]
        known = self._known[tokens, None]
        self._rates[:, tokens] = torch.where(known, (answers - self._answers[:, tokens]) / rise, 0)
        self._answers[:, tokens], self._levels[tokens] = answers, t[tokens]
        self._known[tokens] = True

    def ahead(self, tokens: Sequence[int], t: Tensor) -> Tensor | None:
        """What the answers for S tokens will be at levels t, (n, S, d); None if one is unknown."""
        if not bool(self._known[tokens].all()):
            return None
        rise = (t - self._levels)[tokens, None]
        return self._answers[:, tokens] + rise * self._rates[:, tokens]


@dataclass(frozen=True, eq=False)
class _Pass:
    """One pass from levels t to levels s, and the states that it ended in.

    The points u of its methods hold the tokens that move, flattened: (m, S d).

    Attributes:
        t: Levels before the pass, (N,).
        s: Levels after it, (N,).
        denoiser: The denoiser's answers.
        path: The noise path.
        x_s: States after the pass, (n, N, d).
        rows: Indices of these rows among all rows, (n,).
        generator: Random numbers for log-determinants that are estimated.
        course: The answers along the passes after this one.
        most_steps: Most Newton steps.
        most_halvings: Most halvings of a step.
    """

    t: Tensor
    s: Tensor
    denoiser: Answers
    path: NoisePath
    x_s: Tensor
    rows: Tensor
    generator: torch.Generator
    course: _Course
    most_steps: int
    most_halvings: int

    def inverse(self, *, several: bool) -> tuple[Tensor, Tensor, bool]:
        """The states before the pass, log |det dF/du| there, and whether all starts agree.

        The determinant is that of the point before the last step, which is at most `CONVERGED`.
        The log-determinant of a row whose inverse was not found is NaN.
        """
        starts = self._starts() if several else [self._start()]
        u, log_det, turned = self._newton(starts[0])
        unique = not turned  # far away a pass keeps the orientation, so there are more preimages
        for start in starts[1:]:
            other, other_det, _ = self._newton(start)
            lost = log_det.isnan() & ~other_det.isnan()
            apart = ((u - other).abs() > SAME * (1 + u.abs())).any(1)
            unique = unique and not bool((apart & ~lost & ~other_det.isnan()).any())
            u = torch.where(lost[:, None], other, u)
            log_det = torch.where(lost, other_det, log_det)
        return self._state(u, slice(None)), log_det, unique

    @functools.cached_property
    def tokens(self) -> list[int]:
        """Indices of the tokens that move."""
        tokens: list[int] = (self.t != self.s).nonzero()[:, 0].tolist()
        return tokens

    @functools.cached_property
    def _wanted(self) -> Tensor:
        return self.x_s[:, self.tokens].flatten(1)

    def _amplitudes(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Alpha and sigma of every number that moves, (S d,)."""
        each = levels[self.tokens].repeat_interleave(self.x_s.shape[2])
        return self.path.alpha(each), self.path.sigma(each)

    def _state(self, u: Tensor, which: Tensor | slice) -> Tensor:
        """The states of some rows with the points u in place."""
        x_t = self.x_s[which].clone()
        x_t[:, self.tokens] = u.unflatten(1, (-1, self.x_s.shape[2]))
        return x_t

    def _start(self) -> Tensor:
        """The reverse of the pass if the denoiser's answer is what it is expected to be."""
        ahead = self.course.ahead(self.tokens, self.t)
        if ahead is None:
            s = self.s.expand(self.x_s.shape[:2])
            ahead = self.denoiser.mean(self.x_s, s, self.tokens, self.rows).double()
        x0 = ahead.flatten(1)
        (alpha_s, sigma_s), (alpha_t, sigma_t) = map(self._amplitudes, (self.s, self.t))
        e = (self._wanted - alpha_s * x0) / torch.where(sigma_s > 0, sigma_s, 1)
        return alpha_t * x0 + sigma_t * torch.where(sigma_s > 0, e, 0)

    def _starts(self) -> list[Tensor]:
        first, sigma_t = self._start(), self._amplitudes(self.t)[1]
        return [first, first + sigma_t, first - 2 * sigma_t]

    def answer(self, x_t: Tensor) -> Tensor:
        """The denoiser's answers (n, S, d) for the tokens that move, at the states before."""
        r, c = self._coefficients()
        flat = (self._wanted - r * x_t[:, self.tokens].flatten(1)) / c
        answers: Tensor = flat.unflatten(1, (-1, x_t.shape[2]))
        return answers

    def _coefficients(self) -> tuple[Tensor, Tensor]:
        """The factors r and c of the state and of the answer, (S d,)."""
        (alpha_s, sigma_s), (alpha_t, sigma_t) = map(self._amplitudes, (self.s, self.t))
        r = sigma_s / sigma_t
        return r, alpha_s - r * alpha_t

    def _push(self, u: Tensor, which: Tensor | slice) -> tuple[Tensor, Slope]:
        """F - x_s at the points u of some rows, (m, S d), and dF/du there."""
        t = self.t.expand(len(u), -1)
        answer, slope = self.denoiser.slope(self._state(u, which), t, self.tokens, self.rows[which])
        x0 = answer.flatten(1)
        r, c = self._coefficients()
        return r * u + c * x0 - self._wanted[which], slope.affine(r, c)

    def _newton(self, start: Tensor) -> tuple[Tensor, Tensor, bool]:
        """The preimages u, log |det dF/du| there, and whether a determinant is negative.

        The log-determinant is NaN where no preimage was found.
        """
        found, turned = start.clone(), False
        log_det = start.new_full((len(start),), torch.nan)
        active, u = torch.arange(len(start), device=start.device), start
        gap, slope = self._push(u, active)
        for _ in range(self.most_steps):
            step = slope.solve(gap)
            size = step.abs().amax(1)
            done = size <= CONVERGED * (1 + u.abs().amax(1))
            if bool(done.any()):
                sign, volume = slope.log_det(done, self.generator)
                found[active[done]] = u[done] - step[done]
                log_det[active[done]] = volume
                turned = turned or bool((sign < 0).any())
            kept = ~done & size.isfinite()
            if not bool(kept.any()):
                break
            active = active[kept]
            u, gap, slope = self._damped(u[kept], gap[kept], step[kept], active)
        return found, log_det, turned

    def _damped(
        self, u: Tensor, gap: Tensor, step: Tensor, which: Tensor
    ) -> tuple[Tensor, Tensor, Slope]:
        """The points u - step with their gaps and slopes; steps are halved until they help."""
        before = torch.linalg.vector_norm(gap, dim=1)
        rounding = 1e-14 * (1 + torch.linalg.vector_norm(self._wanted[which], dim=1))
        new = u - step
        gap, slope = self._push(new, which)
        halved = False
        for _ in range(self.most_halvings):
            after = torch.linalg.vector_norm(gap, dim=1)
            worse = (~(after < before) & (before > rounding)).nonzero()[:, 0]
            if not len(worse):
                break
            step[worse] /= 2
            new[worse] = u[worse] - step[worse]
            gap[worse], halved = self._push(new[worse], which[worse])[0], True
        if halved:
            gap, slope = self._push(new, which)
        return new, gap, slope
