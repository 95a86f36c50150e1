"""Diffusion: the whole sequence at once, from noise to data in k steps.

Source: Song, Meng & Ermon 2021 (DDIM); Ho, Jain & Abbeel 2020 (ancestral, DDPM); Karras et al.
2022, algorithm 1 (Heun); Lu et al. 2022, "DPM-Solver++", algorithm 2 (2M).
Signature: denoiser E[x_0 | x_t], told the level t of its input and not the next level s.
Assumption: the denoiser's answer does not change along a step; true only of infinitely many.
Budgets: `steps` is k, on levels uniform in t, or with `grid=log_snr` in ln(alpha / sigma): between
the ends 1 and 0 the midpoints of k - 1 strides from a noise of 1,000 widest tokens to one of a
thousandth of the narrowest component. `length` is ignored.
DDIM from t to s: x_s = alpha_s x0 + (sigma_s / sigma_t) (x_t - alpha_t x0).
DDPM: x_s ~ N(a_ts s_s^2 / s_t^2 x_t + a_s s_ts^2 / s_t^2 x0, v) with a_ts = a_t / a_s, s_ts^2 =
s_t^2 - a_ts^2 s_s^2 and v = s_ts^2 s_s^2 / s_t^2 (small: the last step is a point) or s_ts^2.
Heun: the trapezoid of dx/dt = alpha' x0 + sigma' e with e = (x - alpha x0) / sigma; its last step
is DDIM, so k steps make 2k - 1 calls.
DPM-Solver++(2M): DDIM with x0 + h / (2 h') (x0 - x0') for x0, from the step before, h and h' the
steps in ln(alpha / sigma); the first two and the last are DDIM.
Known: on N(0, v) one DDIM step multiplies by (alpha_s alpha_t v + sigma_s sigma_t) / (alpha_t^2 v +
sigma_t^2); one step from pure noise returns the mean; DDIM is of order 1, Heun of order 2, and so
is DPM-Solver++(2M) on the log_snr grid.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from capcheck.core.budget import Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.core.unavailable import Unavailable
from capcheck.laws import LOG_2PI
from capcheck.networks.signatures import Denoiser, DenoiserSignature, TokenPredictor
from capcheck.noise.flow import ddim_step, probability_flow, velocity
from capcheck.noise.flow_map import level_of, ratios
from capcheck.noise.paths import PATHS, NoisePath, PathName
from capcheck.probes.steps.flow_map import FlowMapSampler
from capcheck.procedures.probe import OPTIONS, Probe, Row, State, Suspect

Step = Callable[[Tensor, Tensor, Tensor], Tensor]  # x_t, t, s -> x_s
STOCHASTIC = ("ddpm_small", "ddpm_large")


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Diffusion(Probe[Denoiser]):
    """Sampling with a denoiser."""

    family: ClassVar[str] = "diffusion"
    row: ClassVar[Row] = "steps"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous"})

    solver: Annotated[
        Literal["ddim", "ddpm_small", "ddpm_large", "heun", "dpm_solver"],
        Field(description="rule that makes one step"),
    ] = "ddim"
    grid: Annotated[
        Literal["time", "log_snr"], Field(description="what the levels are uniform in")
    ] = "time"
    path: Annotated[PathName, Field(description="noise path")] = "cosine"

    @property
    def signature(self) -> DenoiserSignature:
        """(x_t, t) -> E[x_0 | x_t]."""
        return DenoiserSignature(self.path)

    def levels(self, spec: SequenceSpec, k: int) -> list[float]:
        """The k + 1 levels, from 1 to 0."""
        if self.grid == "time":
            return [j / k for j in range(k, -1, -1)]
        low, high = (math.log(r) for r in ratios(spec))
        middles = (torch.arange(k - 1, dtype=torch.float64) + 0.5) / max(k - 1, 1)
        inner = level_of((high + (low - high) * middles).exp(), PATHS[self.path])
        return [1.0, *inner.tolist(), 0.0]

    def run(
        self, network: Denoiser, spec: SequenceSpec, budget: Budget, start: State, rng: Randomness
    ) -> Iterator[State]:
        """K steps from t = 1 to t = 0; every one writes all tokens."""
        state = start.filled(self._noise(spec, start.n, rng))
        yield state
        levels = spec.mean.new_tensor(self.levels(spec, budget.steps))
        step = self._stepper(network, rng)
        for t, s in itertools.pairwise(levels):
            state = state.write(step(state.tokens, t, s))
            yield state

    def suspects(self) -> tuple[Suspect, ...]:
        """The denoiser is not told where a step lands."""
        told = FlowMapSampler(path=self.path)
        cure = "the target time told to the network"
        return (Suspect(failure="missing argument", cure=cure, probe=told),)

    def log_density(
        self,
        network: Denoiser,
        completion: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        x: Tensor,
        rng: Randomness,
    ) -> LogDensity | Unavailable:
        """Of ancestral steps with the large variance E[sum log q(x_s | x_t) - log p(x_t | x_s)].

        The mean is over the noising of x, one path of it for each row.
        """
        if self.solver == "ddpm_small":
            return Unavailable(reason="the last ancestral step of small variance is a point mass")
        if self.solver != "ddpm_large":
            return Unavailable(
                reason="the result is a deterministic map of the starting noise, "
                "and the density of its image needs the map's inverse"
            )
        path, log_q = PATHS[self.path], x.new_zeros(len(x))
        levels = spec.mean.new_tensor(self.levels(spec, budget.steps)[::-1])
        x_s = x
        for s, t in itertools.pairwise(levels):
            a_ts, variance = _noising(t, s, path)
            x_t = a_ts * x_s + variance.sqrt() * rng.normal(tuple(x.shape)).to(x)
            mean = _ancestral_mean(x_t, _clean(network, x_t, t), t, s, path)
            log_q = (
                log_q + _log_normal(x_s - mean, variance) - _log_normal(x_t - a_ts * x_s, variance)
            )
            x_s = x_t
        log_q = log_q + _log_normal(x_s, levels[-1])
        return LogDensity(values=log_q, bound=True, method="mean over noisings, one for each row")

    def limit(
        self, oracle: Denoiser, spec: SequenceSpec, start: State, rng: Randomness
    ) -> Tensor | None:
        """The probability flow from the same noise, if no other noise is drawn."""
        if self.solver in STOCHASTIC:
            return None
        return probability_flow(oracle, self._noise(spec, start.n, rng), PATHS[self.path])

    def _noise(self, spec: SequenceSpec, n: int, rng: Randomness) -> Tensor:
        return rng.normal((n, spec.tokens, spec.dim)).to(spec.mean)

    def _stepper(self, network: Denoiser, rng: Randomness) -> Step:
        path = PATHS[self.path]
        if self.solver == "heun":
            return _heun(network, path)
        if self.solver == "dpm_solver":
            return _dpm_solver(network, path)
        if self.solver == "ddim":
            return _ddim(network, path)
        return _ddpm(network, path, rng, large=self.solver == "ddpm_large")


def _clean(network: Denoiser, x_t: Tensor, t: Tensor) -> Tensor:
    return network(x_t, t.expand(x_t.shape[:2]))


def _ddim(network: Denoiser, path: NoisePath) -> Step:
    return lambda x_t, t, s: ddim_step(x_t, _clean(network, x_t, t), t, s, path)


def _heun(network: Denoiser, path: NoisePath) -> Step:
    def slope(x: Tensor, t: Tensor) -> Tensor:
        return velocity(x, _clean(network, x, t), t, path)

    def step(x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        if s == 0:
            return ddim_step(x_t, _clean(network, x_t, t), t, s, path)
        slope_t = slope(x_t, t)
        slope_s = slope(x_t + (s - t) * slope_t, s)
        return x_t + 0.5 * (s - t) * (slope_t + slope_s)

    return step


def _dpm_solver(network: Denoiser, path: NoisePath) -> Step:
    before: list[tuple[Tensor, Tensor]] = []  # x0 and h of the step before

    def step(x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        x0 = D = _clean(network, x_t, t)
        log_snr_t, log_snr_s = ((path.alpha(u) / path.sigma(u)).log() for u in (t, s))
        h = log_snr_s - log_snr_t
        if before and s > 0:
            x0_before, h_before = before.pop()
            D = x0 + h / (2 * h_before) * (x0 - x0_before)  # h' of the first step is infinite
        before[:] = [(x0, h)]
        return ddim_step(x_t, D, t, s, path)

    return step


def _ddpm(network: Denoiser, path: NoisePath, rng: Randomness, *, large: bool) -> Step:
    def step(x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        mean = _ancestral_mean(x_t, _clean(network, x_t, t), t, s, path)
        _, variance = _noising(t, s, path)
        if not large:
            variance = variance * (path.sigma(s) / path.sigma(t)).square()
        return mean + variance.sqrt() * rng.normal(tuple(x_t.shape)).to(x_t)

    return step


def _noising(t: Tensor, s: Tensor, path: NoisePath) -> tuple[Tensor, Tensor]:
    """a_ts and s_ts^2 of p(x_t | x_s) = N(a_ts x_s, s_ts^2)."""
    a_ts = path.alpha(t) / path.alpha(s)
    return a_ts, path.sigma(t).square() - (a_ts * path.sigma(s)).square()


def _ancestral_mean(x_t: Tensor, x0: Tensor, t: Tensor, s: Tensor, path: NoisePath) -> Tensor:
    """E[x_s | x_t, x_0 = x0]."""
    a_ts, variance = _noising(t, s, path)
    of_noisy, of_clean = a_ts * path.sigma(s).square(), path.alpha(s) * variance
    return (of_noisy * x_t + of_clean * x0) / path.sigma(t).square()


def _log_normal(residual: Tensor, variance: Tensor) -> Tensor:
    """Log-density (nats) of N(0, variance) at residual (n, N, d), summed over a row: (n,)."""
    return -0.5 * (residual.square() / variance + variance.log() + LOG_2PI).flatten(1).sum(1)
