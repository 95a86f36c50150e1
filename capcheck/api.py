"""The Python interface of capcheck: `check`, `survey`, `require`, `work` and `report`.

`capcheck.decoding_plan` has a module of its own, `capcheck.runs.decoding`.

`check` measures one family on one target, `survey` measures several families on the same draws of
the target, and `require` raises an error unless a family is representable. These three take the
keywords of `RunOptions`. `work` measures a run that another process started, and `report` writes a
result to a file.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Unpack

from capcheck.core.arguments import file_path, shown, texts, whole_number
from capcheck.core.errors import InputError
from capcheck.procedures.probe import AnyProbe
from capcheck.procedures.registry import report_writer
from capcheck.results.decoding import DecodingPlan
from capcheck.results.measurement import Outcome
from capcheck.results.survey import CapacityError, CheckResult, SurveyResult
from capcheck.runs.atomic import write_atomically
from capcheck.runs.candidates import Candidate
from capcheck.runs.command import python_call
from capcheck.runs.engine import Engine
from capcheck.runs.keywords import Families
from capcheck.runs.manifest import read_manifest
from capcheck.runs.options import Progress, RunOptions, options_of
from capcheck.runs.planning import CheckOptions, SurveyOptions, engine_of_check, engine_of_survey
from capcheck.runs.recipes import target_again
from capcheck.targets.target import Target, require_target

__all__ = ["check", "report", "require", "survey", "work"]

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def _with_keywords(kind: Any) -> Callable[[FunctionT], FunctionT]:
    """A decorator that lists the keywords of a `TypedDict` in signature and docstring."""

    def decorate(function: FunctionT) -> FunctionT:
        own = inspect.signature(function)
        listed = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=..., annotation=annotation
            )
            for name, annotation in typing.get_type_hints(kind).items()
        ]
        kept = [one for one in own.parameters.values() if one.kind is not one.VAR_KEYWORD]
        function.__signature__ = own.replace(  # type: ignore[attr-defined]
            parameters=kept + listed
        )
        described = "\n".join(
            f"    {line}" for line in (*_attributes(kind), *_attributes(RunOptions))
        )
        assert function.__doc__ is not None
        function.__doc__ = function.__doc__.replace(
            f"        **keywords: See `{kind.__name__}`.", described
        )
        return function

    return decorate


def _attributes(kind: Any) -> list[str]:
    """The lines of a docstring that describe attributes."""
    lines = inspect.cleandoc(kind.__doc__).splitlines()
    return lines[lines.index("Attributes:") + 1 :]


@_with_keywords(CheckOptions)
def check(
    family: str | AnyProbe,
    target: Target,
    **keywords: Unpack[CheckOptions],
) -> CheckResult:
    """Measure whether a family's procedure can produce a target, and at which budget.

    Args:
        family: Name of a registered family, or a `Probe`, which need not be registered.
        target: The law that the family should produce.
        **keywords: See `CheckOptions`.

    Raises:
        InputError: An argument is not possible; the message names it and the rule that it breaks.
        ProbeError: A third party's family raised an exception, or broke the contract of `Probe`.

    Example:
        >>> from capcheck import check, targets
        >>> check("gpt", targets.from_spec("modes:tokens=2"), samples=200).smallest_budget
        Budget(length=1, steps=1)
    """
    command = python_call("check", target, ("family", family), keywords)
    engine = engine_of_check(family, target, command=command, **keywords)
    return CheckResult.of(engine.run(errors_are_results=False))


@_with_keywords(SurveyOptions)
def survey(
    target: Target,
    families: Families = None,
    **keywords: Unpack[SurveyOptions],
) -> SurveyResult:
    """Measure several families on one target.

    A family that is not defined for the target's tokens, or that fails, is listed in the result
    with the reason. Families whose oracles say little about trained networks (`Probe.near_oracle`)
    are measured with a fitted network as well, unless tokens are given.

    Args:
        target: The law that the families should produce.
        families: Names of registered families, or `Probe` objects, in a list; also one of them, or
            one text with commas between the names. All registered families by default.
        **keywords: See `SurveyOptions`.

    Raises:
        InputError: An argument is not possible; the message names it and the rule that it breaks.
    """
    command = python_call("survey", target, ("families", families), keywords)
    engine = engine_of_survey(target, families, command=command, **keywords)
    return engine.run(errors_are_results=True)


@_with_keywords(CheckOptions)
def require(
    family: str | AnyProbe,
    target: Target,
    **keywords: Unpack[CheckOptions],
) -> CheckResult:
    """Check a family as `check` does, and raise an error unless it is representable.

    Args:
        family: See `check`.
        target: See `check`.
        **keywords: See `CheckOptions`.

    Raises:
        CapacityError: The family is not representable, or not in one of the precisions asked for,
            or the evidence is inconclusive.
        InputError: An argument is not possible; the message names it and the rule that it breaks.
    """
    result = check(family, target, **keywords)
    title = result.found.title
    if result.outcome is not Outcome.REPRESENTABLE:
        words = result.outcome.value.replace("_", " ")
        raise CapacityError(f"{title} is {words} on this target: {result.reason}.", result)
    for rounded in result.found.precisions:
        if rounded.holding == "numerics":
            raise CapacityError(f"{title} breaks by its numerics: {rounded.reason}.", result)
    return result


def work(
    folder: str | Path,
    *,
    shard: tuple[int, int] = (1, 1),
    target: Target | None = None,
    networks: Sequence[str] = (),
    workers: int = 1,
    device: str = "auto",
    batch: int = 1024,
    progress: Callable[[Progress], None] | None = None,
) -> None:
    """Measure cells of a run that was started elsewhere, until the run is whole.

    Any number of processes on any machines that see the folder may do so at once. They share the
    work out among themselves, and one that is killed is replaced by the others. `capcheck report`
    then makes the report.

    Args:
        folder: Folder of the run.
        shard: (i, n): this is the i-th of n such processes, which says where in the run it begins.
        target: Target of the run, or None to build it again by the recipe in the folder.
        networks: Names of functions (`package.module:function`) that the run fits or measures. The
            folder names them as well, and nothing that a file names is executed.
        workers: Number of processes to measure with, in one thread each; 0 for one per core or GPU.
        device: Device to run on, of the kind that the run was started on.
        batch: Number of sample rows in a batch.
        progress: See `RunOptions`.

    Raises:
        InputError: The folder holds no run, or one that cannot be measured here; the message says
            why.
    """
    folder = file_path("folder", folder, "the folder of a run")
    i, n = _shard(shard)
    if target is not None:
        require_target(target)
    names = () if networks is None else networks
    allowed = texts("networks", names, "names of functions", "write ['package.module:function']")
    manifest = read_manifest(folder)
    candidates = [Candidate.again(entry, allowed=allowed) for entry in manifest.families]
    place = len(candidates) * (i - 1) // n
    here: RunOptions = {"device": device, "batch": batch, "workers": workers, "progress": progress}
    run: RunOptions = {**options_of(manifest.settings), **here}
    target = target_again(folder) if target is None else target
    order = [*candidates[place:], *candidates[:place]]
    Engine(target, candidates, run).help(folder, order=order)


def report(
    result: SurveyResult | CheckResult | DecodingPlan, path: str | Path, *, kind: str | None = None
) -> Path:
    """Write the report of a result to a file, and return the path of the file.

    Args:
        result: Result of `survey`, `check`, `require` or `decoding_plan`.
        path: Path of the file to write, or of the folder for a report of several files.
        kind: Name of a registered report writer: by default the HTML page of such a result; `svg`
            and `png` write each of its charts as a file.

    Raises:
        InputError: There is no report writer of that name, or a file cannot be written.
    """
    whole = result.survey if isinstance(result, CheckResult) else result
    if not isinstance(whole, (SurveyResult, DecodingPlan)):
        raise InputError(
            f"result must be what check, survey, require or decoding_plan returns, got "
            f"{shown(result)}; measure first."
        )
    file = file_path("path", path, "a file")
    own = "decoding" if isinstance(result, DecodingPlan) else "html"
    kind = own if kind is None else kind
    writer = report_writer(kind)
    if kind in ("decoding", "html") and kind != own:
        raise InputError(f"kind must be {own!r} for such a result, got {kind!r}; leave it out.")
    content = writer(whole)
    if isinstance(content, Mapping):
        for name, one in content.items():
            write_atomically(file / name, one)
        return file
    return write_atomically(file, content)


def _shard(shard: tuple[int, int]) -> tuple[int, int]:
    """The number of a process and the number of all of them.

    Raises:
        InputError: They are no whole numbers i and n with 1 <= i <= n.
    """
    if not isinstance(shard, (tuple, list)) or len(shard) != 2:
        raise InputError(f"shard must be two numbers (i, n), got {shown(shard)}; write (1, 1).")
    i, n = (whole_number("shard", part) for part in shard)
    if not 1 <= i <= n:
        raise InputError(f"shard must be i/n with i from 1 to n, got {shown(i)}/{shown(n)}.")
    return i, n
