"""A sampler that others wrote, and the probe that runs it with the oracle as its network."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, Protocol

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch._C import DisableTorchFunction

from capcheck.core.budget import Axis, Budget
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.networks.signatures import DenoiserSignature, FlowMapSignature
from capcheck.procedures.probe import OPTIONS, Probe, State
from capcheck.procedures.rows import Row
from capcheck.samplers.drawing import Drawing, others_code

__all__ = ["ROUNDING", "Denoise", "Sampler", "SamplerProbe", "level_of", "probe_of", "sampled"]

ROUNDING = 2.0**-19  # relative rounding of code that computes in float32, over some hundred steps


class Denoise(Protocol):
    """The network of a sampler, on the path x_t = cos(pi t / 2) x_0 + sin(pi t / 2) e."""

    def __call__(self, x_t: Tensor, t: float, s: float = 0.0, /) -> Tensor:
        """E[x_0 | x_t] (n, N, d), or with `Sampler.network` a flow map the tokens x_s of level s.

        Args:
            x_t: Noisy tokens, (n, N, d).
            t: Their level, in [0, 1].
            s: Level in [0, t] that a flow map lands at; a denoiser ignores it.
        """


class Sampler(ABC):
    """A sampler of continuous tokens that others wrote.

    Attributes:
        name: The name by which it was asked for.
        config: Its settings, as far as they were given.
        versions: Versions of the packages that it comes from.
        mismatch: Largest logarithm, in the last run, of the noise by the sampler's own numbers over
            that of the level which its network is told.
        told: The times that its network was told in the last run, if others than levels.
        network: The network that it runs: a denoiser, or the flow map (x_t, t, s) -> x_s, of which
            a consistency function is the part s = 0.
    """

    mismatch: float = 0.0
    told: tuple[float, ...] = ()
    network: Literal["denoiser", "flow_map"] = "denoiser"
    name: str
    config: dict[str, Any]
    versions: dict[str, str]

    @abstractmethod
    def run(
        self, denoise: Denoise, noise: Tensor, steps: int, generator: torch.Generator
    ) -> Tensor:
        """The samples (n, N, d) that start from noise.

        Args:
            denoise: The network, on the cosine path.
            noise: Standard normal numbers, (n, N, d) float64.
            steps: Number of steps that are asked for.
            generator: The generator to draw from. Draws come from the caller's randomness
                whether it is used or not; that it was passed on is noted.

        Raises:
            Exception: Whatever the third party's code raises.
        """


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class SamplerProbe(Probe[Any]):
    """The inference procedure that a sampler of others is; made by `probe_of`.

    Attributes:
        name: Name of the sampler.
        config: Its settings.
    """

    family: ClassVar[str] = "sampler"
    row: ClassVar[Row] = "steps"
    in_paper: ClassVar[bool] = False
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous"})
    reads: ClassVar[frozenset[Axis]] = frozenset({"steps"})
    rounding: ClassVar[float] = ROUNDING
    raw_tokens: ClassVar[bool] = True
    sampler: ClassVar[Sampler]

    name: str
    config: dict[str, Any]

    @property
    def signature(self) -> DenoiserSignature | FlowMapSignature:
        """The denoiser (x_t, t) -> E[x_0 | x_t], or the flow map (x_t, t, s) -> x_s."""
        if self.sampler.network == "flow_map":
            return FlowMapSignature("cosine")
        return DenoiserSignature("cosine")

    def run(
        self, network: Any, spec: SequenceSpec, budget: Budget, start: State, rng: Randomness
    ) -> Iterator[State]:
        """Yield the start and the samples."""
        yield start

        def denoise(x_t: Tensor, t: float, s: float = 0.0) -> Tensor:
            told = (t, s) if self.sampler.network == "flow_map" else (t,)
            with DisableTorchFunction():  # the network is ours: none of its calls is a draw
                levels = (spec.mean.new_full(tuple(x_t.shape[:2]), level) for level in told)
                answer: Tensor = network(x_t.to(spec.mean), *levels)
                return answer.to(x_t)

        noise = rng.normal(tuple(start.tokens.shape)).to(spec.mean)
        samples, _ = sampled(self.sampler, denoise, noise, budget.steps, rng)
        yield start.write(samples.to(spec.mean))

    def iterations(self, spec: SequenceSpec, budget: Budget) -> int:
        """One, whatever the number of steps inside."""
        return 1


def sampled(
    sampler: Sampler, denoise: Denoise, noise: Tensor, steps: int, rng: Randomness
) -> tuple[Tensor, Drawing]:
    """The samples (n, N, d) of a sampler, whose fresh noise comes from a source, and what it drew.

    Args:
        sampler: The sampler.
        denoise: The network, on the cosine path.
        noise: Standard normal numbers, (n, N, d).
        steps: Number of steps that are asked for.
        rng: Source of the fresh noise.

    Raises:
        Exception: Whatever the sampler raises.
    """
    with others_code(rng.stream("fresh noise"), len(noise)) as drawing:
        return sampler.run(denoise, noise, steps, torch.Generator()), drawing


def probe_of(sampler: Sampler) -> SamplerProbe:
    """The probe of a sampler, whose options name it."""
    kind = type("SamplerProbe", (SamplerProbe,), {"sampler": sampler, "__doc__": sampler.name})
    probe: SamplerProbe = kind(name=sampler.name, config=sampler.config)
    return probe


def level_of(alpha: float, sigma: float) -> float:
    """The level t in [0, 1] of the cosine path with this ratio of signal and noise."""
    return math.atan2(sigma, alpha) * 2 / math.pi
