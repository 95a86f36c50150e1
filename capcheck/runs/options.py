"""Run options: how to measure, as a caller asks for it, and the same checked.

What follows from the target's size is filled in here; nothing is measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsIndex, TypedDict

import torch

from capcheck.core.budget import Grid
from capcheck.core.errors import InputError, near
from capcheck.diagnostics.diagnosis import chosen_diagnoses
from capcheck.divergences import DEFAULT, chosen, tolerances
from capcheck.networks.perturbed import SIZES
from capcheck.networks.rounded import chosen_precisions
from capcheck.results.settings import Settings
from capcheck.targets.target import Target

LEAST_SAMPLES = 200  # below, the groups that pair cells hold too few rows
MOST_SEED = 2**63 - 1  # largest that torch's own generators take
MOST_LOOKS = 10  # a thousand times the samples of the first


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is.

    Attributes:
        done: Cells measured or found in the store.
        total: Cells of the run.
        running: What runs now, in a few words.
    """

    done: int
    total: int
    running: str


class RunOptions(TypedDict, total=False):
    """Keywords of `check`, `survey` and `require`.

    Attributes:
        lengths: Token budgets in 0..N; by default 0, N // 2 and N.
        steps: Iteration budgets of at least 1; by default 1, 4 and 16.
        divergences: Which to measure of `kl`, `wasserstein`, `mmd`, `reverse_kl` and
            `total_variation`; the first three by default.
        tolerance: Tolerance of each, in the units of `capcheck.divergences`.
        precision: In which of `float32`, `bfloat16`, `float16` and `float8` (of answers only) every
            budget is run again; none by default.
        sensitivity: Sizes of errors of the oracle to try out, or True for 0.03, 0.1 and 0.3; an
            error of size 1 is as large as a token's deviation (see `capcheck.networks.perturbed`).
        diagnose: Further tests of the draws at each family's largest budget, of `classifier`,
            `stein`, `permutation` and `neighbours`; none by default, and no verdict hears them.
        samples: Draws of target and model in every cell, at least 200; 2,000 by default.
        given: Indices of tokens that are known from the start, with values drawn from the target;
            lengths count the others, and divergences are of the joint law.
        looks: Times that an undecided family may be drawn, each with twice the samples of the time
            before; 1 by default. The error of the verdicts is shared by all looks.
        seed: Seed of all draws, 0 to 2^63 - 1; 0 by default.
        level: Confidence of intervals and verdicts, 0.95 by default.
        device: `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:1`.
        batch: Sample rows per batch, 1,024 by default; no draw depends on it.
        out: Folder to keep the run in; the same call continues a killed run.
        progress: Called before each run and after each cell.
    """

    lengths: Iterable[int] | None
    steps: Iterable[int] | None
    divergences: Sequence[str]
    tolerance: Mapping[str, float] | None
    precision: str | Sequence[str] | None
    sensitivity: bool | float | Sequence[float] | None
    diagnose: Sequence[str]
    samples: int
    given: Sequence[int]
    looks: int
    seed: int
    level: float
    device: str
    batch: int
    out: str | Path | None
    progress: Callable[[Progress], None] | None


def require_known(options: RunOptions) -> None:
    """Raise InputError unless every keyword is one of `RunOptions`."""
    for name in options:
        if name not in RunOptions.__annotations__:
            raise InputError(f"{name!r} is no keyword; {near(name, RunOptions.__annotations__)}")


def settings_of(
    target: Target, options: RunOptions, device: torch.device, dtype: torch.dtype
) -> Settings:
    """What was asked for, with its defaults on that target.

    Args:
        target: What is to be produced; budgets follow from its tokens, tolerances from their kind.
        options: Keywords of the caller.
        device: Where to run.
        dtype: In which precision.

    Raises:
        InputError: A value out of its range, or an unknown name; the sentence says which.
    """
    names = chosen(options.get("divergences", DEFAULT))
    level = options.get("level", 0.95)
    if not isinstance(level, float) or not 0.5 <= level < 1:
        raise InputError(f"level must be at least 0.5 and below 1, got {level!r}.")
    given = require_given(options.get("given", ()), target.spec.tokens)
    free = target.spec.tokens - len(given)
    return Settings(
        grid=Grid.over(free, options.get("lengths"), options.get("steps")),
        given=given,
        samples=whole_number("samples", options.get("samples", 2000), LEAST_SAMPLES),
        looks=whole_number("looks", options.get("looks", 1), 1, MOST_LOOKS),
        seed=whole_number("seed", options.get("seed", 0), 0, MOST_SEED),
        level=level,
        tolerances=tolerances(names, options.get("tolerance"), target.spec.kind),
        device=device.type,
        dtype=str(dtype).removeprefix("torch."),
        diagnose=chosen_diagnoses(options.get("diagnose", ())),
        precisions=chosen_precisions(options.get("precision", ())),
        sensitivity=_sizes(options.get("sensitivity", ())),
    )


def _sizes(given: bool | float | Sequence[float] | None) -> tuple[float, ...]:
    """Sizes of perturbations in rising order."""
    if given is None or isinstance(given, bool):
        return SIZES if given else ()
    if isinstance(given, (int, float, str)):
        given = [given]
    for size in given:
        if isinstance(size, bool) or not isinstance(size, (int, float)) or not 0 < size < 1:
            raise InputError(
                f"sensitivity must be sizes above 0 and below 1, got {size!r}; write 0.03,0.1."
            )
    return tuple(sorted({float(size) for size in given}))


def require_given(given: Sequence[Any], tokens: int) -> tuple[int, ...]:
    """The indices of given tokens, sorted.

    Raises:
        InputError: One that is no token, or all of them.
    """
    for i in given:
        if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < tokens:
            raise InputError(f"given must be indices of tokens, 0 to {tokens - 1}, got {i!r}.")
    chosen = tuple(sorted(set(given)))
    if len(chosen) == tokens:
        raise InputError(f"given must leave a token to produce, got all {tokens}.")
    return chosen


def whole_number(field: str, value: Any, least: int, most: int | None = None) -> int:
    """The value, or InputError unless it is a whole number of that range."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex) or int(value) < least:
        raise InputError(f"{field} must be a whole number of at least {least}, got {value!r}.")
    if most is not None and int(value) > most:
        raise InputError(f"{field} must be at most {most}, got {value!r}.")
    return int(value)


def placement(device: str) -> tuple[torch.device, torch.dtype]:
    """Where to run, and in which precision: float64 on the CPU, float32 on an accelerator.

    Raises:
        InputError: No such device, or none that torch sees.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError):
        raise InputError(f"device must be auto, cpu or cuda[:N], got {device!r}.") from None
    if place.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device!r} asks for a GPU, and torch sees none; use cpu.")
    if place.type not in ("cpu", "cuda"):
        raise InputError(f"device must be auto, cpu or cuda[:N], got {device!r}.")
    return place, torch.float64 if place.type == "cpu" else torch.float32
