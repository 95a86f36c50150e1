"""Checks a sampler that others wrote: its structure, and the law of its samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from capcheck.core.arguments import flag, function, mapping, several, shown, whole_number
from capcheck.core.budget import MOST_STEPS
from capcheck.core.errors import InputError
from capcheck.core.version import __version__
from capcheck.results.settings import MIN_SAMPLES
from capcheck.runs.options import MAX_SAMPLES, MAX_SEED, Progress
from capcheck.samplers.battery import cells_of
from capcheck.samplers.findings import Cell, SamplerResult
from capcheck.samplers.second_look import beside_another_target, in_structure
from capcheck.samplers.subject import subject_of

__all__ = ["SAMPLES", "check_sampler"]

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
        sampler: `diffusers:DDIMScheduler`, `azula:DDIMSampler`, `transformers:assisted` (also
            `sample`, `prompt_lookup` and `early_exit`), `package.module:function`, or a function:
            `sampler(network, noise, steps, generator) -> samples`, see
            `capcheck.samplers.from_function`, or, for token ids, `decode(model, tokens, steps) ->
            tokens`, whose first argument is named `model`; see `capcheck.samplers.from_decoder`.
        config: Settings of the scheduler's or the sampler's own config, of `GenerationConfig`, or
            keywords of the function and its `path`, `cosine` or `linear`.
        steps: Numbers of steps, or of drafted tokens, each at least 1; by default `STEPS`,
            `TOKEN_STEPS` of token ids, or `FEW_STEPS` of distilled networks.
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
    seed = whole_number("seed", seed, 0, MAX_SEED)
    lint_only = flag("lint_only", lint_only)
    function("progress", progress, "a Progress")
    given = mapping("config", config, "settings by their names", "write {'path': 'linear'}")
    if not isinstance(sampler, str) and not callable(sampler):
        raise InputError(
            f"sampler must be a function or the name of a sampler, got {shown(sampler)}; write "
            "diffusers:DDIMScheduler or package.module:function."
        )
    subject, again = subject_of(sampler, given), (seed + 1) % (MAX_SEED + 1)
    chosen = _required(subject.steps if steps is None else steps)
    broken, findings = subject.structure(chosen, seed)
    findings = in_structure(findings, subject, chosen, again)
    cells: list[Cell] = []
    targets = () if lint_only else subject.targets
    for done, target in enumerate(targets):
        if progress is not None:
            running = f"{subject.name}, target {target}"
            progress(Progress(done=done, total=len(targets), running=running))
        raised = [
            Cell(target=target, steps=k, calls=None, outcome="raises", reason=broken[k])
            for k in chosen
            if k in broken
        ]
        working = [k for k in chosen if k not in broken]
        ran = list(cells_of(subject.probe, target, working, samples=samples, seed=seed))
        cells += sorted([*raised, *ran], key=lambda cell: cell.steps)
        found = subject.beside(target, ran)
        findings += beside_another_target(found, subject, target, samples=samples, seed=again)
    return SamplerResult(
        name=subject.name,
        config=given,
        versions={"capcheck": __version__, "torch": torch.__version__, **subject.versions},
        findings=tuple(findings),
        cells=tuple(cells),
        seed=seed,
    )


def _required(steps: Sequence[int]) -> tuple[int, ...]:
    listed = several("steps", steps, "whole numbers of at least 1", "write [1, 4]")
    found = {whole_number("steps", k, most=MOST_STEPS) for k in listed}
    if not found or min(found) < 1:
        raise InputError(f"steps must be whole numbers of at least 1, got {shown(listed)}.")
    return tuple(sorted(found))
