"""What is checked: a sampler of numbers, a decoder of token ids, or a strategy of `transformers`.

A subject has a probe, whose law is measured beside targets, and a structure, which is looked at
with a network that knows a single data point.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from capcheck.procedures.probe import AnyProbe
from capcheck.samplers.battery import TARGETS, TOKEN_TARGETS, judged
from capcheck.samplers.findings import Cell, Finding
from capcheck.samplers.from_azula import AzulaSampler
from capcheck.samplers.from_decoder import Decode, decoder_probe
from capcheck.samplers.from_diffusers import DiffusersSampler
from capcheck.samplers.from_diffusers_tokens import TOKEN_SCHEDULERS, TokenScheduler
from capcheck.samplers.from_flow_matching import FlowMatchingSolver
from capcheck.samplers.from_function import FunctionSampler, function_named
from capcheck.samplers.from_transformers import Generation
from capcheck.samplers.generation_probe import generation_probe
from capcheck.samplers.lint import OTHER_POINT, POINT, lint, look
from capcheck.samplers.lint_decoder import CERTAIN, lint_decoder, look_at_decoder
from capcheck.samplers.lint_generation import judged_generation, look_at_generation
from capcheck.samplers.sampler import Sampler, probe_of

__all__ = [
    "FEW_STEPS",
    "LIBRARIES",
    "STEPS",
    "TOKEN_STEPS",
    "Structure",
    "Subject",
    "subject_of",
]

STEPS = (1, 2, 3, 5, 10, 20, 50, 100)
FEW_STEPS = (1, 2, 4, 8)  # of distilled networks, whose oracle is slow
TOKEN_STEPS = (1, 2, 4)  # the targets of token ids have up to four tokens

Structure = tuple[dict[int, str], list[Finding]]
"""What the code raises, by the number of steps, and what is found without a target."""


class Subject(ABC):
    """A sampler to check.

    Attributes:
        name: Its name.
        versions: Versions of the packages that it comes from.
        steps: Numbers of steps to ask for if none are given.
        probe: The probe that runs it.
        targets: Names of the targets beside which its law is measured.
    """

    name: str
    versions: dict[str, str]
    steps: tuple[int, ...]
    probe: AnyProbe
    targets: tuple[str, ...]

    @abstractmethod
    def structure(self, steps: Sequence[int], seed: int, *, other: bool = False) -> Structure:
        """Look at the structure.

        Args:
            steps: Numbers of steps.
            seed: Seed of the draws.
            other: Whether the network knows another data point.
        """

    def beside(self, target: str, cells: Sequence[Cell], *, other: bool = False) -> list[Finding]:
        """What follows from the cells of one target.

        Args:
            target: Name of the target.
            cells: Its cells, in rising numbers of steps.
            other: Whether they are those of the other target of this kind.
        """
        return judged(cells)


class _OfNumbers(Subject):
    targets = tuple(TARGETS)

    def __init__(self, sampler: Sampler) -> None:
        self._sampler, self.probe = sampler, probe_of(sampler)
        self.name, self.versions = sampler.name, sampler.versions
        self.steps = STEPS if sampler.network == "denoiser" else FEW_STEPS

    def structure(self, steps: Sequence[int], seed: int, *, other: bool = False) -> Structure:
        point = OTHER_POINT if other else POINT
        runs = [look(self._sampler, k, seed, point) for k in steps]
        return {run.asked: run.error for run in runs if run.error}, lint(runs)


class _OfTokens(Subject):
    targets, steps = tuple(TOKEN_TARGETS), TOKEN_STEPS

    def __init__(self, decode: Decode, name: str, config: dict[str, Any]) -> None:
        self._decode, self._config, self.name, self.versions = decode, config, name, {}
        if isinstance(decode, TokenScheduler):
            self.versions, self.probe = decode.versions, decode.probe()
        else:
            self.probe = decoder_probe(decode, name, config)

    def structure(self, steps: Sequence[int], seed: int, *, other: bool = False) -> Structure:
        sequence = CERTAIN[::-1] if other else CERTAIN
        runs = [look_at_decoder(self._decode, k, self._config, seed, sequence) for k in steps]
        return {run.asked: run.error for run, _ in runs if run.error}, lint_decoder(runs)


class _OfGeneration(Subject):
    targets, steps = tuple(TOKEN_TARGETS), TOKEN_STEPS

    def __init__(self, generation: Generation) -> None:
        self._generation, self.probe = generation, generation_probe(generation)
        self.name, self.versions = generation.name, generation.versions

    def structure(self, steps: Sequence[int], seed: int, *, other: bool = False) -> Structure:
        sequence = CERTAIN[4:] if other else CERTAIN[:4]
        looks = [look_at_generation(self._generation, k, sequence) for k in steps]
        findings = lint_decoder((run, 0) for run, _ in looks)
        cuts = {found.sentence: found for _, some in looks for found in some}
        errors = {run.asked: run.error for run, _ in looks if run.error}
        return errors, [*findings, *cuts.values()]

    def beside(self, target: str, cells: Sequence[Cell], *, other: bool = False) -> list[Finding]:
        return judged_generation(self._generation, target, cells, other=other)


LIBRARIES = ("azula", "diffusers", "flow_matching", "transformers")
"""Libraries whose samplers have names; any other name is that of a function."""


def subject_of(sampler: str | Callable[..., Tensor], config: dict[str, Any]) -> Subject:
    """The subject of a name or function, see `check_sampler`."""
    if callable(sampler):
        return _of_function(sampler, _name(sampler), config)
    library, _, name = sampler.partition(":")
    if library == "transformers":
        return _OfGeneration(Generation(name, config))
    if library == "azula" and name:
        return _OfNumbers(AzulaSampler(name, config))
    if library == "flow_matching" and name:
        return _OfNumbers(FlowMatchingSolver(name, config))
    if library == "diffusers" and name:
        if name in TOKEN_SCHEDULERS:
            return _OfTokens(TokenScheduler(name, config), sampler, config)
        return _OfNumbers(DiffusersSampler(name, config))
    return _of_function(function_named(sampler), sampler, config)


def _of_function(function: Callable[..., Tensor], name: str, config: dict[str, Any]) -> Subject:
    """A decoder of token ids if its first argument is named `model`, otherwise of numbers."""
    try:
        names = list(inspect.signature(function).parameters)
    except ValueError:  # some functions of C do not tell
        names = []
    if names[:1] == ["model"]:
        return _OfTokens(function, name, config)
    return _OfNumbers(FunctionSampler(function, name, config))


def _name(function: Callable[..., Tensor]) -> str:
    return f"{function.__module__}:{getattr(function, '__qualname__', 'function')}"
