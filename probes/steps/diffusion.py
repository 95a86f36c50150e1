"""Diffusion: denoises the whole sequence at once, from noise to data in k steps.

Source: Song, Meng & Ermon 2021 (DDIM, eta), https://arxiv.org/abs/2010.02502; Ho, Jain & Abbeel
2020 (ancestral DDPM), https://arxiv.org/abs/2006.11239; Karras et al. 2022, algorithm 1 (Heun) and
equation 5 (levels), https://arxiv.org/abs/2206.00364; Lu et al. 2022, "DPM-Solver++", algorithm 2
(2M), https://arxiv.org/abs/2211.01095
Signature: denoiser E[x_0 | x_t]. The network is told the level t of its input, and not the level s
that the step goes to.
Assumption: the denoiser's answer does not change along a step, which holds only in the limit of
infinitely many steps.
Budgets: `steps` is the number k of steps; `length` is ignored.
Levels: uniform in t by default. With `grid=log_snr` the levels between 1 and 0 are the midpoints of
k - 1 equal strides in ln(alpha / sigma), from a noise of 1,000 times the widest token to one of a
thousandth of the narrowest component. With `grid=karras` sigma / alpha falls from 160 to 0.004
standard deviations of the tokens in even steps of its 7th root, and the first of these levels is
replaced by 1. A list `levels` is used as it is for as many steps as it has, and interpolated for
other numbers of steps.
Given tokens: shown to the denoiser at level 0.
DDIM: from t to s, x_s = alpha_s x0 + sqrt(sigma_s^2 - sigma_ts^2) e + sigma_ts z with fresh noise
z, e = (x_t - alpha_t x0) / sigma_t and sigma_ts = eta (sigma_s / sigma_t) s_ts. With eta = 0 no
fresh noise is drawn.
DDPM: x_s ~ N(a_ts s_s^2 / s_t^2 x_t + a_s s_ts^2 / s_t^2 x0, v) with a_ts = a_t / a_s, s_ts^2 =
s_t^2 - a_ts^2 s_s^2 and v = s_ts^2 s_s^2 / s_t^2 (small) or s_ts^2 (large); a and s stand for alpha
and sigma. The last step adds no noise, as published; with `ddpm_large_noisy` the last step adds
noise, so that the result has a density.
Heun: the trapezoidal rule for dx/dt = alpha' x0 + sigma' e with e = (x - alpha x0) / sigma. Its
last step is DDIM, so that k steps make 2k - 1 calls.
Multistep: DPM-Solver++(2M) is DDIM with x0 + h / (2 h') (x0 - x0') in place of x0, where x0' is the
answer of the step before, and h and h' are the two steps in ln(alpha / sigma). The first two steps
and the last one are DDIM.
KL: exact for DDIM, by inversion of every step; for Heun and DPM-Solver++ bounded from above by a
preimage under all steps together, which is exact if they are one-to-one; for `ddpm_large_noisy`
bounded from above by the mean over noisings; otherwise bounded from below by the draws.
Known: tokens are centred and divided by one unit first, so that their mean variance is 1. On an
axis of variance v in that unit one DDIM step multiplies by (alpha_s alpha_t v + sigma_s sigma_t) /
(alpha_t^2 v + sigma_t^2). One step from pure noise returns the mean. DDIM with eta = 1 is DDPM with
the small variance. DDIM is of order 1, Heun of order 2, and DPM-Solver++(2M) on the log_snr grid of
order 2.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from capcheck.core.budget import Axis, Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness, Randomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.core.unavailable import Unavailable
from capcheck.exact.hidden_draws import over_hidden_draws
from capcheck.exact.inversion import DERIVATIVES
from capcheck.exact.whole_map import CANDIDATES, EVALUATIONS, density_by_preimage
from capcheck.laws import LOG_2PI
from capcheck.networks.signatures import Denoiser, DenoiserSignature, TokenPredictor
from capcheck.noise.flow import ddim_step, flow_along, velocity
from capcheck.noise.flow_map import level_of, ratios
from capcheck.noise.paths import PATHS, NoisePath, PathName
from capcheck.probes.steps.flow_map import FlowMapSampler
from capcheck.procedures.denoising import density_along_schedule, starting_noise
from capcheck.procedures.levels import Levels, resampled
from capcheck.procedures.probe import OPTIONS, Probe, State, Suspect
from capcheck.procedures.rows import Row
from capcheck.procedures.schedules import beside_given, full_sequence

__all__ = ["ANCESTRAL", "KARRAS", "RHO", "Denoise", "Diffusion", "Step"]

# The function (x_t, t) -> x0, with t the level of the tokens that are not given.
Denoise = Callable[[Tensor, Tensor], Tensor]
# The function (x_t, t, s) -> x_s.
Step = Callable[[Tensor, Tensor, Tensor], Tensor]
ANCESTRAL = ("ddpm_small", "ddpm_large", "ddpm_large_noisy")
# First and last noise sigma / alpha of the Karras levels, in standard deviations of the tokens; the
# paper has 80 and 0.002 for data of standard deviation 0.5.
KARRAS = 160.0, 0.004
RHO = 7  # root in which the Karras levels are evenly spaced (equation 5)


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Diffusion(Probe[Denoiser]):
    """Denoises the whole sequence at once with DDIM, DDPM, Heun or DPM-Solver++(2M)."""

    family: ClassVar[str] = "diffusion"
    row: ClassVar[Row] = "steps"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous"})
    reads: ClassVar[frozenset[Axis]] = frozenset({"steps"})
    rotates: ClassVar[bool] = True

    solver: Annotated[
        Literal["ddim", "ddpm_small", "ddpm_large", "ddpm_large_noisy", "heun", "dpm_solver"],
        Field(description="rule that makes one step"),
    ] = "ddim"
    eta: Annotated[
        float,
        Field(ge=0, le=1, description="share of fresh noise in a step of ddim; 1 is ddpm_small"),
    ] = 0.0
    grid: Annotated[
        Literal["time", "log_snr", "karras"], Field(description="rule that spaces the levels")
    ] = "time"
    levels: Annotated[
        Levels | None,
        Field(description="falling levels from 1 to 0 in place of a grid, as in 1/0.7/0.3/0"),
    ] = None
    path: Annotated[PathName, Field(description="noise path")] = "cosine"

    @model_validator(mode="after")
    def _require_options_that_fit(self) -> Self:
        if self.eta > 0 and self.solver != "ddim":
            raise ValueError(f"eta is for solver ddim, not {self.solver}")
        if self.levels is not None and self.grid != "time":
            raise ValueError("give either grid or levels")
        return self

    @property
    def signature(self) -> DenoiserSignature:
        """The denoiser (x_t, t) -> E[x_0 | x_t]."""
        return DenoiserSignature(self.path)

    def grid_of(self, spec: SequenceSpec, k: int) -> list[float]:
        """The k + 1 levels of k steps, falling from 1 to 0."""
        if self.levels is not None:
            return resampled(self.levels, k)
        if self.grid == "time":
            return [j / k for j in range(k, -1, -1)]
        count = torch.arange(k - 1, dtype=torch.float64)
        if self.grid == "log_snr":
            low, high = (math.log(r) for r in ratios(spec))
            noise = (high + (low - high) * (count + 0.5) / max(k - 1, 1)).exp()
        else:
            deviation = float(spec.variance.double().mean().sqrt())
            first, last = ((end * deviation) ** (1 / RHO) for end in KARRAS)
            noise = (first + (count + 1) / max(k - 1, 1) * (last - first)) ** RHO
        return [1.0, *level_of(noise, PATHS[self.path]).tolist(), 0.0]

    def run(
        self, network: Denoiser, spec: SequenceSpec, budget: Budget, start: State, rng: Randomness
    ) -> Iterator[State]:
        """Yield the start, then one state per step; a step writes all tokens not given."""
        state = start.filled(starting_noise(spec, start.n, rng))
        yield state
        levels = spec.mean.new_tensor(self.grid_of(spec, budget.steps))
        step = self._stepper(_beside(start.tokens, start.placed, network), rng)
        for t, s in itertools.pairwise(levels):
            state = state.write(step(state.tokens, t, s), ~start.placed)
            yield state

    def suspects(self) -> tuple[Suspect, ...]:
        """The missing argument of the denoiser, which is not told where a step lands."""
        told = FlowMapSampler(path=self.path)
        cure = "the target time told to the network"
        return (Suspect(failure="missing argument", cure=cure, probe=told),)

    def derivatives(self, spec: SequenceSpec, budget: Budget) -> float:
        """Some for every pass that is inverted; calls for differences of the whole map."""
        if self.solver in ("heun", "dpm_solver"):
            calls = 2 * budget.steps - 1 if self.solver == "heun" else budget.steps
            return EVALUATIONS * 2 * spec.mean.numel() * calls
        return DERIVATIVES * budget.steps

    def log_density(
        self,
        network: Denoiser,
        completion: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        x: Tensor,
        rng: Randomness,
    ) -> LogDensity | Unavailable:
        """Exact by inversion for DDIM, and bounds for other solvers that have a density.

        That of `ddpm_large_noisy` is the mean of q(x_1) prod q(x_s | x_t) / p(x_t | x_s) over paths
        x_s -> x_t of added noise that start at x.
        """
        one_jump = budget.steps == 1 and self.solver in ("heun", "dpm_solver")
        if (self.solver == "ddim" and self.eta == 0) or one_jump:
            grid = torch.tensor(self.grid_of(spec, budget.steps), dtype=torch.float64)
            schedule = beside_given(grid[:, None].expand(-1, len(spec.free)), spec)
            return density_along_schedule(schedule, network, completion, x=x, path=PATHS[self.path])
        if self.solver in ("ddpm_small", "ddpm_large") or self.eta > 0:
            return Unavailable(
                reason="the last step adds no noise, and given all noise before it the result is "
                "a point mass"
            )
        if self.solver != "ddpm_large_noisy":
            if spec.given:
                return Unavailable(
                    reason="the map of the noise differs between rows of given tokens"
                )
            noise = starting_noise(spec, CANDIDATES, rng).double().flatten(1)
            return density_by_preimage(self._image(network, spec, budget), x.flatten(1), noise)

        def log_weight(x: Tensor, rng: Randomness) -> Tensor:
            return self._log_weight(network, spec, budget, x, rng)

        return over_hidden_draws(log_weight, x, rng, "noisings")

    def _log_weight(
        self, network: Denoiser, spec: SequenceSpec, budget: Budget, x: Tensor, rng: Randomness
    ) -> Tensor:
        """Log of the weight of one noising of each row, (n,)."""
        path, log_q, free = PATHS[self.path], x.new_zeros(len(x)), list(spec.free)
        given = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        given[:, free] = False
        denoise = _beside(x, given, network)
        levels = spec.mean.new_tensor(self.grid_of(spec, budget.steps)[::-1])
        x_s = x
        for s, t in itertools.pairwise(levels):
            a_ts, variance = _noising(t, s, path)
            x_t = a_ts * x_s + variance.sqrt() * rng.normal(tuple(x.shape)).to(x)
            mean = _ancestral_mean(x_t, denoise(x_t, t), t, s, path)
            log_q = log_q + _log_normal((x_s - mean)[:, free], variance)
            log_q = log_q - _log_normal((x_t - a_ts * x_s)[:, free], variance)
            x_s = x_t
        return log_q + _log_normal(x_s[:, free], levels[-1])

    def _image(
        self, network: Denoiser, spec: SequenceSpec, budget: Budget
    ) -> Callable[[Tensor], Tensor]:
        """The map from the starting noise (n, N d) to the sequences, of a solver without noise."""
        levels = spec.mean.new_tensor(self.grid_of(spec, budget.steps))

        def image(noise: Tensor) -> Tensor:
            x = noise.to(levels).unflatten(1, (spec.tokens, spec.dim))
            free = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
            step = self._stepper(_beside(x, free, network), CounterRandomness(0))
            for t, s in itertools.pairwise(levels):
                x = step(x, t, s)
            sequences: Tensor = x.double().flatten(1)
            return sequences

        return image

    def limit(
        self, oracle: Denoiser, spec: SequenceSpec, start: State, rng: Randomness
    ) -> Tensor | None:
        """The probability flow from the same noise, or None if steps draw fresh noise."""
        if self.solver in ANCESTRAL or self.eta > 0:
            return None
        corners = beside_given(full_sequence(len(spec.free), 1), spec)
        noise = start.filled(starting_noise(spec, start.n, rng)).tokens
        return flow_along(corners, oracle, noise=noise, path=PATHS[self.path])

    def _stepper(self, denoise: Denoise, rng: Randomness) -> Step:
        path = PATHS[self.path]
        if self.solver == "heun":
            return _heun(denoise, path)
        if self.solver == "dpm_solver":
            return _dpm_solver(denoise, path)
        if self.solver == "ddim":
            return _ddim(denoise, path, rng, self.eta)
        return _ddpm(denoise, path, rng, self.solver)


def _beside(tokens: Tensor, given: Tensor, network: Denoiser) -> Denoise:
    """The denoiser with given tokens: it is shown their given values at level 0 in every call.

    Args:
        tokens: Tokens with the values of the given ones, (n, N, d).
        given: Whether a token is given, (n, N) bool.
        network: Denoiser of all tokens.
    """

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        shown = torch.where(given[..., None], tokens, x_t)
        return network(shown, torch.where(given, 0, t))

    return denoise


def _ddim(denoise: Denoise, path: NoisePath, rng: Randomness, eta: float) -> Step:
    def step(x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        z = rng.normal(tuple(x_t.shape)).to(x_t) if eta > 0 else None
        return ddim_step(x_t, denoise(x_t, t), t, s, path, eta=eta, z=z)

    return step


def _heun(denoise: Denoise, path: NoisePath) -> Step:
    def slope(x: Tensor, t: Tensor) -> Tensor:
        return velocity(x, denoise(x, t), t, path)

    def step(x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        if s == 0:
            return ddim_step(x_t, denoise(x_t, t), t, s, path)
        slope_t = slope(x_t, t)
        slope_s = slope(x_t + (s - t) * slope_t, s)
        return x_t + 0.5 * (s - t) * (slope_t + slope_s)

    return step


def _dpm_solver(denoise: Denoise, path: NoisePath) -> Step:
    before: list[tuple[Tensor, Tensor]] = []  # x0' and h' of the step before, if there was one

    def step(x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        x0 = D = denoise(x_t, t)
        log_snr_t, log_snr_s = ((path.alpha(u) / path.sigma(u)).log() for u in (t, s))
        h = log_snr_s - log_snr_t
        if before and s > 0:
            x0_before, h_before = before.pop()  # h' is infinite for the step from t = 1
            D = x0 + h / (2 * h_before) * (x0 - x0_before)
        before[:] = [(x0, h)]
        return ddim_step(x_t, D, t, s, path)

    return step


def _ddpm(denoise: Denoise, path: NoisePath, rng: Randomness, solver: str) -> Step:
    def step(x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        mean = _ancestral_mean(x_t, denoise(x_t, t), t, s, path)
        _, variance = _noising(t, s, path)
        if solver == "ddpm_small":
            variance = variance * (path.sigma(s) / path.sigma(t)).square()
        if s == 0 and solver != "ddpm_large_noisy":
            return mean
        return mean + variance.sqrt() * rng.normal(tuple(x_t.shape)).to(x_t)

    return step


def _noising(t: Tensor, s: Tensor, path: NoisePath) -> tuple[Tensor, Tensor]:
    """The factors a_ts and s_ts^2 of p(x_t | x_s) = N(a_ts x_s, s_ts^2)."""
    a_ts = path.alpha(t) / path.alpha(s)
    return a_ts, path.sigma(t).square() - (a_ts * path.sigma(s)).square()


def _ancestral_mean(x_t: Tensor, x0: Tensor, t: Tensor, s: Tensor, path: NoisePath) -> Tensor:
    """The posterior mean E[x_s | x_t, x_0 = x0]."""
    a_ts, variance = _noising(t, s, path)
    of_noisy, of_clean = a_ts * path.sigma(s).square(), path.alpha(s) * variance
    return (of_noisy * x_t + of_clean * x0) / path.sigma(t).square()


def _log_normal(residual: Tensor, variance: Tensor) -> Tensor:
    """The log-density (nats) of N(0, variance) at `residual` (n, N, d), summed over rows: (n,)."""
    return -0.5 * (residual.square() / variance + variance.log() + LOG_2PI).flatten(1).sum(1)
