"""Langevin chains on an energy, with or without Metropolis' rule, and the density after k steps.

A step proposes x' = x - h/2 grad E(x) + tau xi, with density g(x -> x'). Without the rule (ULA) the
proposal is taken; with it (MALA) it is accepted with probability

    a(x, x') = min(1, exp(E(x) - E(x')) g(x' -> x) / g(x -> x')).

The density after k steps is bounded by looking ahead from many chains (`exact.look_ahead`). ULA has
the kernel g. MALA also stays at x, with probability r(x) = 1 - int g(x -> y) a(x, y) dy:

    q_k(x) = A_k(x) + r(x) A_(k-1)(x) + ... + r(x)^(k-1) A_1(x) + r(x)^k q_0(x),
    A_j(x) = E[g(Y -> x) a(Y, x)],   Y ~ q_(j-1).

Each factor r(x) is estimated from `PROPOSALS` proposals of its own, so that every product is
unbiased.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import SequenceSpec
from capcheck.exact.look_ahead import look_ahead
from capcheck.laws import LOG_2PI
from capcheck.networks.signatures import Energy

__all__ = ["PROPOSALS", "Langevin", "initial_normals"]

PROPOSALS = 4  # proposals that estimate how often a step is rejected


@dataclass(frozen=True, kw_only=True, eq=False)
class Langevin:
    """A chain of Langevin steps.

    Attributes:
        network: The energy.
        step_size: h, in squared token units.
        noise_scale: tau, in token units.
        adjusted: Whether Metropolis' rule may reject a step.
    """

    network: Energy
    step_size: float
    noise_scale: float
    adjusted: bool

    def run(self, x: Tensor, free: Tensor, rng: Randomness) -> Iterator[Tensor]:
        """Yields the tokens (n, N, d) after every step, without end.

        Args:
            x: The first tokens, (n, N, d).
            free: Which tokens may move, (n, N, 1) bool.
            rng: Random numbers.
        """
        for at in self._points(self._point(x, free), free, rng):
            yield at.x

    def log_density(
        self, spec: SequenceSpec, x: Tensor, steps: int, chains: int, rng: Randomness
    ) -> LogDensity:
        """A lower bound on the log-density of x (n, N, d) after some steps, from many chains."""
        free = torch.ones(1, spec.tokens, 1, dtype=torch.bool, device=x.device)
        first = self._point(initial_normals(spec, chains, rng), free)
        points = itertools.chain([first], self._points(first, free, rng))
        before = list(itertools.islice(points, steps))
        at = self._point(x, free)
        if not self.adjusted:
            return look_ahead(lambda rows: self._log_step(before[-1], at[rows]), len(x), chains)
        stays = [self._log_rejection(at, free, rng) for _ in range(steps)]  # k factors (n,)
        ends = [torch.zeros_like(stays[0]), *itertools.accumulate(stays)]
        deviation = spec.variance.sqrt()
        z = (x - spec.mean) / deviation
        stayed = -(0.5 * (z.square() + LOG_2PI) + deviation.log()).sum((1, 2)) + ends[-1]

        def log_kernel(rows: Tensor) -> Tensor:
            there, total = at[rows], stayed[rows, None].expand(-1, chains)
            for y, factor in zip(reversed(before), ends, strict=False):
                accepted = self._log_accepted(y, there)
                total = torch.logaddexp(total, accepted + factor[rows, None])
            return total

        return look_ahead(log_kernel, len(x), chains)

    def _point(self, x: Tensor, free: Tensor) -> _Point:
        def slope() -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                at = x.detach().requires_grad_()
                energy = self.network(at)
                (gradient,) = torch.autograd.grad(energy.sum(), at)
            gradient = torch.where(free, gradient, 0)
            return energy.detach(), x - 0.5 * self.step_size * gradient

        return _Point(x, slope)

    def _proposal(self, at: _Point, free: Tensor, rng: Randomness) -> _Point:
        xi = torch.where(free, rng.normal(tuple(at.x.shape)).to(at.x), 0)
        return self._point(at.ahead + self.noise_scale * xi, free)

    def _points(self, at: _Point, free: Tensor, rng: Randomness) -> Iterator[_Point]:
        while True:
            new = self._proposal(at, free, rng)
            if not self.adjusted:
                at = new
            else:
                log_u = rng.uniform((len(at.x), 1))[:, 0].log().to(at.x)
                at = new.where(log_u < self._log_odds(at, new), at)
            yield at

    def _log_odds(self, x: _Point, new: _Point) -> Tensor:
        """The logarithm (n,) of what a proposal is accepted with, before it is limited by 0."""
        there, back = new.x - x.ahead, x.x - new.ahead
        squares = (there.square() - back.square()).flatten(1).sum(1)
        return x.energy - new.energy + 0.5 * squares / self.noise_scale**2

    def _log_rejection(self, at: _Point, free: Tensor, rng: Randomness) -> Tensor:
        """The logarithm (n,) of the share of some proposals that is rejected."""
        accepted = [
            self._log_odds(at, self._proposal(at, free, rng)).clamp(max=0).exp()
            for _ in range(PROPOSALS)
        ]
        return (1 - torch.stack(accepted).mean(0)).log()

    def _log_step(self, y: _Point, x: _Point) -> Tensor:
        """The log-density (n, M) of steps from every y to every x."""
        return _log_normal(x.x, y.ahead, self.noise_scale)

    def _log_accepted(self, y: _Point, x: _Point) -> Tensor:
        """The log-density (n, M) of accepted steps from every y to every x."""
        there = self._log_step(y, x)
        back = _log_normal(y.x, x.ahead, self.noise_scale).T
        return torch.minimum(there, y.energy - x.energy[:, None] + back)


@dataclass(frozen=True, eq=False)
class _Point:
    """Sequences with what the energy says of them, which is asked for when it is needed.

    Attributes:
        x: (n, N, d) tokens.
        slope: Function that returns their energies, (n,), and the means of the proposals from them,
            (n, N, d).
    """

    x: Tensor
    slope: Callable[[], tuple[Tensor, Tensor]]

    @functools.cached_property
    def _known(self) -> tuple[Tensor, Tensor]:
        return self.slope()

    @property
    def energy(self) -> Tensor:
        return self._known[0]

    @property
    def ahead(self) -> Tensor:
        return self._known[1]

    def __getitem__(self, rows: Tensor) -> _Point:
        return _Point(self.x[rows], lambda: (self.energy[rows], self.ahead[rows]))

    def where(self, kept: Tensor, other: _Point) -> _Point:
        """These points at the rows (n,) that are kept, and others elsewhere."""
        wide = kept[:, None, None]
        energy = torch.where(kept, self.energy, other.energy)
        ahead = torch.where(wide, self.ahead, other.ahead)
        return _Point(torch.where(wide, self.x, other.x), lambda: (energy, ahead))


def initial_normals(spec: SequenceSpec, n: int, rng: Randomness) -> Tensor:
    """Draws (n, N, d) of independent normals with the means and variances of the tokens."""
    z = rng.normal((n, spec.tokens, spec.dim)).to(spec.mean)
    return spec.mean + spec.variance.sqrt() * z


def _log_normal(x: Tensor, means: Tensor, deviation: float) -> Tensor:
    """The log-density (n, M) of every x (n, N, d) under normals of every mean (M, N, d)."""
    a, b = x.flatten(1) / deviation, means.flatten(1) / deviation
    squares = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
    return -0.5 * squares - a.shape[1] * (0.5 * LOG_2PI + math.log(deviation))
