"""Checks a sampler that others wrote: its structure, and the law of its samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from capcheck.core.errors import InputError
from capcheck.core.version import __version__
from capcheck.runs.options import Progress
from capcheck.samplers.battery import TARGETS, cells_of, judged
from capcheck.samplers.findings import Cell, SamplerResult
from capcheck.samplers.from_azula import AzulaSampler
from capcheck.samplers.from_diffusers import DiffusersSampler
from capcheck.samplers.from_function import FunctionSampler, function_named
from capcheck.samplers.lint import lint, look
from capcheck.samplers.sampler import Sampler

__all__ = ["SAMPLES", "STEPS", "check_sampler", "sampler_of"]

STEPS = (1, 2, 3, 5, 10, 20, 50, 100)
SAMPLES = 4000  # draws on targets beside which the law of the samples is not known exactly


def check_sampler(
    sampler: str | Callable[..., torch.Tensor],
    *,
    config: dict[str, Any] | None = None,
    steps: Sequence[int] = STEPS,
    lint_only: bool = False,
    samples: int = SAMPLES,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> SamplerResult:
    """Check a sampler with the network that training would converge to in its network's place.

    Args:
        sampler: `diffusers:DDIMScheduler`, `azula:DDIMSampler`, `package.module:function`, or a
            function `sampler(network, noise, steps, generator) -> samples`; see
            `capcheck.samplers.from_function`.
        config: Settings of the scheduler's or the sampler's own config, or keywords of the
            function and its `path`, `cosine` or `linear`.
        steps: Numbers of steps, each at least 1.
        lint_only: Whether to look at the structure only, which takes milliseconds.
        samples: Number of draws, at least 200, where the law of the samples is not known exactly.
        seed: Seed of all draws.
        progress: Function that is told what is being measured.

    Returns:
        Findings and cells. What the sampler's code raises is a result and no error.

    Raises:
        InputError: There is no such sampler or setting, or an argument is not possible.
        UnfitError: The sampler's network is no denoiser of continuous tokens.

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
    chosen = _required(steps)
    made = sampler_of(sampler, dict(config or {}))
    seen = [look(made, k, seed) for k in chosen]
    findings, broken = lint(seen), {run.asked: run.error for run in seen if run.error}
    cells: list[Cell] = []
    if not lint_only:
        for done, name in enumerate(TARGETS):
            if progress is not None:
                progress(
                    Progress(done=done, total=len(TARGETS), running=f"{made.name}, target {name}")
                )
            of_target = [
                Cell(target=name, steps=k, calls=None, outcome="raises", reason=broken[k])
                for k in chosen if k in broken
            ]  # fmt: skip
            working = [k for k in chosen if k not in broken]
            of_target += cells_of(made, name, working, samples=samples, seed=seed)
            cells += sorted(of_target, key=lambda cell: cell.steps)
            findings += judged([cell for cell in of_target if cell.steps in working])
    versions = {"capcheck": __version__, "torch": torch.__version__, **made.versions}
    return SamplerResult(
        name=made.name,
        config=made.config,
        versions=versions,
        findings=tuple(findings),
        cells=tuple(cells),
        seed=seed,
    )


def sampler_of(sampler: str | Callable[..., torch.Tensor], config: dict[str, Any]) -> Sampler:
    """The sampler of a name or function, see `check_sampler`."""
    if callable(sampler):
        name = f"{sampler.__module__}:{getattr(sampler, '__qualname__', 'sampler')}"
        return FunctionSampler(sampler, name, config)
    library, _, name = sampler.partition(":")
    if library == "diffusers" and name:
        return DiffusersSampler(name, config)
    if library == "azula" and name:
        return AzulaSampler(name, config)
    return FunctionSampler(function_named(sampler), sampler, config)


def _required(steps: Sequence[int]) -> tuple[int, ...]:
    found = tuple(sorted(set(steps)))
    if not found or any(not isinstance(k, int) or isinstance(k, bool) or k < 1 for k in found):
        raise InputError(f"steps must be whole numbers of at least 1, got {list(steps)}.")
    return found
