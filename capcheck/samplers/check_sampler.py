"""Checks a sampler that others wrote: its structure, and the law of its samples."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch

from capcheck.core.errors import InputError
from capcheck.core.version import __version__
from capcheck.procedures.probe import AnyProbe
from capcheck.results.settings import MIN_SAMPLES
from capcheck.runs.options import MAX_SAMPLES, MAX_SEED, Progress, whole_number
from capcheck.samplers.battery import TARGETS, TOKEN_TARGETS, cells_of, judged
from capcheck.samplers.findings import Cell, SamplerResult
from capcheck.samplers.from_azula import AzulaSampler
from capcheck.samplers.from_decoder import Decode, decoder_probe
from capcheck.samplers.from_diffusers import DiffusersSampler
from capcheck.samplers.from_diffusers_tokens import TOKEN_SCHEDULERS, TokenScheduler
from capcheck.samplers.from_function import FunctionSampler, function_named
from capcheck.samplers.lint import lint, look
from capcheck.samplers.lint_decoder import lint_decoder, look_at_decoder
from capcheck.samplers.sampler import Sampler, probe_of

__all__ = ["FEW_STEPS", "SAMPLES", "STEPS", "TOKEN_STEPS", "check_sampler", "sampler_of"]

STEPS = (1, 2, 3, 5, 10, 20, 50, 100)
FEW_STEPS = (1, 2, 4, 8)  # of distilled networks, whose oracle is slow
TOKEN_STEPS = (1, 2, 4)  # the targets of token ids have up to four tokens
SAMPLES = 4000  # draws on targets beside which the law of the samples is not known exactly


def check_sampler(
    sampler: str | Callable[..., torch.Tensor],
    *,
    config: dict[str, Any] | None = None,
    steps: Sequence[int] | None = None,
    lint_only: bool = False,
    samples: int = SAMPLES,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> SamplerResult:
    """Check a sampler with the network that training would converge to in its network's place.

    Args:
        sampler: `diffusers:DDIMScheduler`, `azula:DDIMSampler`, `package.module:function`, or a
            function: `sampler(network, noise, steps, generator) -> samples`, see
            `capcheck.samplers.from_function`, or, for token ids, `decode(model, tokens, steps) ->
            tokens`, whose first argument is named `model`; see `capcheck.samplers.from_decoder`.
        config: Settings of the scheduler's or the sampler's own config, or keywords of the
            function and its `path`, `cosine` or `linear`.
        steps: Numbers of steps, each at least 1; by default `STEPS`, `TOKEN_STEPS` of
            token ids, or `FEW_STEPS` of distilled networks.
        lint_only: Whether to look at the structure only, which takes milliseconds.
        samples: Number of draws, at least 200, where the law of the samples is not known exactly.
        seed: Seed of all draws.
        progress: Function that is told what is being measured.

    Returns:
        Findings and cells. What the sampler's code raises is a result and no error.

    Raises:
        InputError: There is no such sampler or setting, or an argument is not possible.
        UnfitError: There is no oracle for the sampler's network.

    Example:
        >>> import capcheck
        >>> def euler(network, noise, steps, generator):
        ...     x = noise
        ...     for j in range(steps, 0, -1):
        ...         t, s = j / steps, (j - 1) / steps
        ...         x = x + (s - t) * (x - network(x, t)) / t
        ...     return x
        >>> found = capcheck.check_sampler(euler, config={"path": "linear"}, steps=[1, 4, 64])
        >>> found.silent, found.cells[0].outcome
        (True, 'not_representable')
    """
    whole_number("samples", samples, MIN_SAMPLES, MAX_SAMPLES)
    whole_number("seed", seed, 0, MAX_SEED)
    given = dict(config or {})
    decode = _decoder(sampler, given)
    if decode is not None:
        name = sampler if isinstance(sampler, str) else _name(decode)
        chosen = _required(steps or TOKEN_STEPS)
        looks = [look_at_decoder(decode, k, given, seed) for k in chosen]
        seen, findings = [run for run, _ in looks], lint_decoder(looks)
        versions: dict[str, str] = {}
        probe: AnyProbe = decoder_probe(decode, name, given)
        if isinstance(decode, TokenScheduler):
            versions, probe = decode.versions, decode.probe()
        targets = tuple(TOKEN_TARGETS)
    else:
        made = sampler_of(sampler, given)
        usual = STEPS if made.network == "denoiser" else FEW_STEPS
        name, versions, chosen = made.name, made.versions, _required(steps or usual)
        seen = [look(made, k, seed) for k in chosen]
        findings, probe, targets = lint(seen), probe_of(made), tuple(TARGETS)
    broken = {run.asked: run.error for run in seen if run.error}
    cells: list[Cell] = []
    for done, target in enumerate(() if lint_only else targets):
        if progress is not None:
            progress(Progress(done=done, total=len(targets), running=f"{name}, target {target}"))
        raised = [
            Cell(target=target, steps=k, calls=None, outcome="raises", reason=broken[k])
            for k in chosen
            if k in broken
        ]
        working = [k for k in chosen if k not in broken]
        ran = list(cells_of(probe, target, working, samples=samples, seed=seed))
        cells += sorted([*raised, *ran], key=lambda cell: cell.steps)
        findings += judged(ran)
    return SamplerResult(
        name=name,
        config=given,
        versions={"capcheck": __version__, "torch": torch.__version__, **versions},
        findings=tuple(findings),
        cells=tuple(cells),
        seed=seed,
    )


def sampler_of(sampler: str | Callable[..., torch.Tensor], config: dict[str, Any]) -> Sampler:
    """The sampler of a name or function, see `check_sampler`."""
    if callable(sampler):
        return FunctionSampler(sampler, _name(sampler), config)
    library, _, name = sampler.partition(":")
    if library == "diffusers" and name:
        return DiffusersSampler(name, config)
    if library == "azula" and name:
        return AzulaSampler(name, config)
    return FunctionSampler(function_named(sampler), sampler, config)


def _decoder(sampler: str | Callable[..., torch.Tensor], config: dict[str, Any]) -> Decode | None:
    """The function or the scheduler, if it is a decoder of token ids."""
    if isinstance(sampler, str):
        library, _, scheduler = sampler.partition(":")
        if library == "diffusers" and scheduler in TOKEN_SCHEDULERS:
            return TokenScheduler(scheduler, config)
        if library in ("diffusers", "azula"):
            return None
        sampler = function_named(sampler)
    try:
        names = list(inspect.signature(sampler).parameters)
    except ValueError:  # some functions of C do not tell
        names = []
    return sampler if names[:1] == ["model"] else None


def _name(function: Callable[..., torch.Tensor]) -> str:
    return f"{function.__module__}:{getattr(function, '__qualname__', 'function')}"


def _required(steps: Sequence[int]) -> tuple[int, ...]:
    found = tuple(sorted(set(steps)))
    if not found or any(not isinstance(k, int) or isinstance(k, bool) or k < 1 for k in found):
        raise InputError(f"steps must be whole numbers of at least 1, got {list(steps)}.")
    return found
