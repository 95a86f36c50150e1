"""Run options: the keywords of `check`, `survey` and `require`, and their checks.

`RunOptions` lists the keywords, and `settings_of` checks them, fills in the defaults that follow
from the target, and returns the `Settings` of a run. Nothing is measured here.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import torch

from capcheck.core.arguments import file_path, function, real_number, several, shown, whole_number
from capcheck.core.budget import Grid
from capcheck.core.errors import ControlFlow, InputError, near
from capcheck.core.randomness import MAX_SEED
from capcheck.diagnostics.diagnosis import chosen_diagnoses
from capcheck.divergences import chosen, tolerances
from capcheck.networks.perturbed import chosen_sizes
from capcheck.networks.rounded import chosen_precisions
from capcheck.results.settings import (
    MIN_SAMPLES,
    SAMPLES,
    SECONDS_PER_CELL,
    SECONDS_PER_RUN,
    Settings,
)
from capcheck.targets.target import Target

__all__ = [
    "MAX_LOOKS",
    "MAX_SEED",
    "CallersError",
    "Progress",
    "RunOptions",
    "callers_errors",
    "options_of",
    "placement",
    "require_given",
    "require_known",
    "settings_of",
]

MAX_SAMPLES = 10_000_000  # most sequences of a cell, which are all kept in memory
MAX_LOOKS = 10  # the tenth look has 2^9 times the samples of the first


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """The progress of a run.

    Attributes:
        done: Number of cells that were measured or found in the store.
        total: Number of cells of the run.
        running: Description of the current work, in a few words.
        verdict: Verdict of a family that has just been decided, in a sentence; otherwise empty.
        share: Share of the run's work that is done, about, between 0 and 1.
    """

    done: int
    total: int
    running: str
    verdict: str = ""
    share: float = 0.0


class RunOptions(TypedDict, total=False):
    """Keywords of `check`, `survey` and `require`; None stands for the default of each.

    Attributes:
        lengths: Length budgets, numbers of tokens in 0..F, with F the number of tokens that are not
            given; by default 0, F // 2 and F.
        steps: Step budgets, numbers of iterations of at least 1; by default 1, 4 and 16.
        divergences: Divergences to measure, from `kl`, `wasserstein`, `mmd`, `reverse_kl` and
            `total_variation`; the first three by default.
        tolerance: Tolerance of each divergence, in the units of `capcheck.divergences`; a
            divergence that is left out has its default tolerance.
        precision: Precisions in which every budget is run again, from `float32`, `bfloat16`,
            `float16` and `float8` (the network's answers only); none by default.
        sensitivity: Sizes of errors to add to the oracle's answers, above 0 and below 1, or True
            for 0.03, 0.1 and 0.3; none by default. An error of size 1 is as large as a token's
            standard deviation (see `capcheck.networks.perturbed`).
        diagnose: Further tests of the draws at each family's largest budget, from `classifier`,
            `stein`, `permutation` and `neighbours`; none by default. No verdict depends on them.
        samples: Number of draws of the target and of the model in every cell, at least 200; 2,000
            by default.
        given: Indices of tokens that are known from the start, with values drawn from the target;
            none by default. Length budgets count the other tokens, and divergences compare the
            joint law of all tokens.
        looks: Number of times that an undecided family may be measured, 1 to 10, each time with
            twice the samples of the time before, or more where these would not suffice. All looks
            share one error level. 1 by default.
        seconds_per_cell: Most time for the log-density of a cell, in seconds of an idle machine
            with two cores; 10 by default. It limits the number of draws at which an expensive
            log-density is evaluated. It is computed, so that results do not depend on the machine.
        seconds_per_run: Most time of one run of a procedure, in seconds; 600 by default. A run that
            would take longer is given up after some seconds, and the family is listed as not
            measured, with the time that it would take. No measured number depends on it.
        seed: Seed of all draws, 0 to 2^63 - 1; 0 by default.
        level: Confidence of intervals and verdicts, at least 0.5 and below 1; 0.95 by default.
        device: Device to run on: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:N`.
        batch: Number of sample rows in a batch, 1,024 by default. No draw depends on it.
        workers: Number of processes that measure the run, in one thread each, so that all cells are
            equal whatever their number; 0 stands for one per core of a CPU, or per GPU. Further
            processes are started if a run takes long. By default this process measures the run
            alone, in as many threads as torch is set to.
        executor: An executor of any kind that runs the further processes, with
            `submit(function, ...)` of `concurrent.futures`; by default they are processes of this
            machine.
        out: Folder to keep the run in. The same call continues a run that was interrupted.
        progress: Function that is called with a `Progress` before each run and after each cell.
    """

    lengths: Iterable[int] | None
    steps: Iterable[int] | None
    divergences: str | Sequence[str] | None
    tolerance: Mapping[str, float] | None
    precision: str | Sequence[str] | None
    sensitivity: bool | float | Sequence[float] | None
    diagnose: str | Sequence[str] | None
    samples: int
    given: Sequence[int] | None
    looks: int
    seconds_per_cell: float
    seconds_per_run: float
    seed: int
    level: float
    device: str | torch.device
    batch: int
    workers: int | None
    executor: Any
    out: str | Path | None
    progress: Callable[[Progress], None] | None


class CallersError(ControlFlow):
    """An argument of the caller is wrong, which shows only while the run makes use of it."""


@contextlib.contextmanager
def callers_errors() -> Iterator[None]:
    """Turn an InputError about the caller's arguments into a `CallersError`.

    The class sets it apart from an InputError that the code of a family raises.
    """
    try:
        yield
    except InputError as error:
        raise CallersError(str(error)) from error


def require_known(options: RunOptions) -> None:
    """Raise InputError unless every keyword is one of `RunOptions`, and what a run uses as it is.

    These are the folder, the function that is told the progress, and the executor.
    """
    for name in options:
        if name not in RunOptions.__annotations__:
            raise InputError(f"{name!r} is no keyword; {near(name, RunOptions.__annotations__)}")
    if options.get("out") is not None:
        file_path("out", options["out"], "a folder")
    function("progress", options.get("progress"), "a Progress")
    if (workers := options.get("workers")) is not None:  # see `worker_count`
        whole_number("workers", workers, 0)
    executor = options.get("executor")
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise InputError(
            f"executor must have a method submit, as those of concurrent.futures, got "
            f"{shown(executor)}; leave it out for processes of this machine."
        )


def settings_of(
    target: Target, options: RunOptions, device: torch.device, dtype: torch.dtype
) -> Settings:
    """The settings of a run: the checked options, with defaults that follow from the target.

    Args:
        target: Target of the run. Default budgets follow from the number of its tokens, and default
            tolerances from their kind.
        options: Keywords of the caller.
        device: Device to run on.
        dtype: Floating-point type to run in.

    Raises:
        InputError: A value is out of its range, or a name is unknown; the message says which.
    """
    names = chosen(options.get("divergences"))
    rule = "at least 0.5 and below 1"
    level = real_number("level", options.get("level", 0.95), rule, lambda p: 0.5 <= p < 1)
    given = require_given(options.get("given", ()), target.spec.tokens)
    free = target.spec.tokens - len(given)
    asked = options.get("lengths")
    usual = (free,) if target.left_to_right else None  # others skip tokens
    return Settings(
        grid=Grid.over(free, usual if asked is None else asked, options.get("steps")),
        given=given,
        samples=whole_number("samples", options.get("samples", SAMPLES), MIN_SAMPLES, MAX_SAMPLES),
        looks=whole_number("looks", options.get("looks", 1), 1, MAX_LOOKS),
        seconds_per_cell=_seconds("seconds_per_cell", options, SECONDS_PER_CELL),
        seconds_per_run=_seconds("seconds_per_run", options, SECONDS_PER_RUN),
        seed=whole_number("seed", options.get("seed", 0), 0, MAX_SEED),
        level=level,
        tolerances=tolerances(names, options.get("tolerance"), target.spec.kind),
        device=device.type,
        dtype=str(dtype).removeprefix("torch."),
        diagnose=chosen_diagnoses(options.get("diagnose", ())),
        precisions=chosen_precisions(options.get("precision", ())),
        sensitivity=chosen_sizes(options.get("sensitivity", ())),
    )


def options_of(settings: Settings) -> RunOptions:
    """The keywords that give the same settings again; the inverse of `settings_of`."""
    return RunOptions(
        lengths=settings.grid.lengths,
        steps=settings.grid.steps,
        divergences=tuple(settings.tolerances),
        tolerance=settings.tolerances,
        precision=settings.precisions,
        sensitivity=settings.sensitivity,
        diagnose=settings.diagnose,
        samples=settings.samples,
        given=settings.given,
        looks=settings.looks,
        seconds_per_cell=settings.seconds_per_cell,
        seconds_per_run=settings.seconds_per_run,
        seed=settings.seed,
        level=settings.level,
    )


def _seconds(name: str, options: Mapping[str, Any], default: float) -> float:
    rule, cure = "a number of seconds above 0", f"write {default:g}"
    given = options.get(name, default)
    return real_number(name, given, rule, lambda time: 0 < time < float("inf"), cure)


def require_given(given: Sequence[Any] | None, tokens: int) -> tuple[int, ...]:
    """The indices of given tokens, checked, in rising order, without repeats.

    Args:
        given: Indices of tokens.
        tokens: Number of tokens N of a sequence.

    Raises:
        InputError: An index is not one of 0..N - 1, or all tokens are given.
    """
    if given is None:
        return ()
    listed = several("given", given, "indices of tokens", "write [0] for the first")
    try:
        chosen = tuple(sorted({whole_number("given", i, 0, tokens - 1) for i in listed}))
    except InputError:
        raise InputError(
            f"given must be indices of tokens, 0 to {tokens - 1}, got {shown(listed)}."
        ) from None
    if len(chosen) == tokens:
        raise InputError(f"given must leave a token to produce, got all {tokens}.")
    return chosen


def placement(device: str | torch.device | None) -> tuple[torch.device, torch.dtype]:
    """The device to run on and its floating-point type: float64 on a CPU, float32 on a GPU.

    Args:
        device: Name of the device: `auto`, as for None, `cpu`, `cuda` or `cuda:N`.

    Raises:
        InputError: There is no device of that name, or torch does not see it.
    """
    rule = f"device must be auto, cpu or cuda[:N], got {shown(device)}"
    if not isinstance(device, (str, torch.device, type(None))):
        raise InputError(f"{rule}; write 'auto'.")
    if device is None or device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
    except RuntimeError:
        raise InputError(f"{rule}.") from None
    if place.type not in ("cpu", "cuda"):
        raise InputError(f"{rule}.")
    if place.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device '{device}' asks for a GPU, and torch sees none; use cpu.")
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device '{device}' asks for a GPU beyond the {torch.cuda.device_count()} that torch "
            "sees; count them from cuda:0."
        )
    return place, torch.float64 if place.type == "cpu" else torch.float32
