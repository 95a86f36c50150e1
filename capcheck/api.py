"""The Python interface of capcheck: `check`, `survey`, `require`, `work` and `report`.

`check` measures one family on one target, `survey` measures several families on the same draws of
the target, and `require` raises an error unless a family is representable. These three take the
keywords of `RunOptions`. `work` measures a run that another process started, and `report` writes a
result to a file.
"""

from __future__ import annotations

import functools
import inspect
import math
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Unpack, get_args

from capcheck.core.errors import InputError, near
from capcheck.fitting.named import Named, is_architecture, require_named
from capcheck.networks.kinds import FittedNetwork, GivenNetwork, NetworkKind, Objective
from capcheck.procedures.errors import wrong_kind
from capcheck.procedures.probe import AnyProbe, Probe
from capcheck.procedures.registry import build_probe, report_writer
from capcheck.procedures.registry import families as registered
from capcheck.results.measurement import Outcome
from capcheck.results.plan import FamilyEntry
from capcheck.results.survey import CapacityError, CheckResult, SurveyResult
from capcheck.runs.atomic import write_atomically
from capcheck.runs.candidates import Candidate
from capcheck.runs.engine import Engine
from capcheck.runs.manifest import read_manifest
from capcheck.runs.options import Progress, RunOptions
from capcheck.runs.recipes import target_again
from capcheck.targets.parameters import require_count
from capcheck.targets.target import Target

__all__ = ["check", "report", "require", "survey", "work"]

FIT_STEPS = 2000  # default number of optimiser steps of a fit in `check` and `require`
SURVEY_FIT_STEPS = 500  # the same in `survey`
QUICK_FIT_STEPS = 150  # the same in `capcheck survey --quick`
NEAR_ORACLE = "mlp:width=128,depth=3"  # architecture fitted by default (`Probe.near_oracle`)
FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def _with_run_options(function: FunctionT) -> FunctionT:
    """Add every keyword of `RunOptions` to the signature and the docstring of a function."""
    own = inspect.signature(function)
    hints = typing.get_type_hints(RunOptions)
    keyword = inspect.Parameter.KEYWORD_ONLY
    listed = [
        inspect.Parameter(name, keyword, default=..., annotation=hint)
        for name, hint in hints.items()
    ]
    kept = [one for one in own.parameters.values() if one.kind is not one.VAR_KEYWORD]
    function.__signature__ = own.replace(parameters=kept + listed)  # type: ignore[attr-defined]
    lines = inspect.cleandoc(RunOptions.__doc__ or "").splitlines()
    described = lines[lines.index("Attributes:") + 1 :]
    assert function.__doc__ is not None
    function.__doc__ = function.__doc__.replace(
        "        **run: See `RunOptions`.", "\n".join(f"    {line}" for line in described)
    )
    return function


@_with_run_options
def check(
    family: str | AnyProbe,
    target: Target,
    *,
    options: Mapping[str, Any] | None = None,
    network: Named | Sequence[Named] | None = None,
    objective: Objective | Literal["none"] | None = None,
    fit_steps: int | None = None,
    fit_seconds: float | None = None,
    **run: Unpack[RunOptions],
) -> CheckResult:
    """Measure whether a family's procedure can produce a target, and at which budget.

    Args:
        family: Name of a registered family, or a `Probe`, which need not be registered.
        target: The law that the family should produce.
        options: Options of a family given by its name, as values or as text. A `Probe` already has
            its options.
        network: One network to measure beside the oracle, or several for a capacity curve. Each is
            the name of an architecture (`mlp:width=128,depth=3`, `transformer:width=64,depth=2`),
            the name of a function that takes a signature and a spec and returns a module
            (`package.module:factory`), or an object that can be called with the arguments of the
            probe's signature.
        objective: Objective that networks are fitted to: the answers of the `oracle`, or the target
            through the whole procedure at its one budget (`end_to_end`). With `none`, networks are
            measured as they are. By default a network given by its name is fitted to the oracle,
            and an object is measured as it is.
        fit_steps: Number of optimiser steps of each fit, at least 1; 2,000 by default. A fit with a
            number of steps gives the same network on every CPU.
        fit_seconds: Duration of each fit in seconds, above 0, in place of a number of steps. The
            number of steps made then depends on the speed and the load of the machine.
        **run: See `RunOptions`.

    Raises:
        InputError: An argument is not possible; the message names it and the rule that it breaks.
        ProbeError: A third party's family raised an exception, or broke the contract of `Probe`.

    Example:
        >>> from capcheck import check, targets
        >>> check("gpt", targets.from_spec("modes:tokens=2"), samples=200).smallest_budget
        Budget(length=1, steps=1)
    """
    engine = engine_of_check(
        family,
        target,
        options=options,
        network=network,
        objective=objective,
        fit_steps=fit_steps,
        fit_seconds=fit_seconds,
        **run,
    )
    return CheckResult.of(engine.run(errors_are_results=False))


def engine_of_check(
    family: str | AnyProbe,
    target: Target,
    *,
    options: Mapping[str, Any] | None = None,
    network: Named | Sequence[Named] | None = None,
    objective: Objective | Literal["none"] | None = None,
    fit_steps: int | None = None,
    fit_seconds: float | None = None,
    **run: Unpack[RunOptions],
) -> Engine:
    """The engine of a check, with the arguments of `check`."""
    probe = _probe(family, options)
    if target.spec.kind not in probe.kinds:
        raise InputError(wrong_kind(probe, target))
    networks = _networks(network)
    objects = [one for one in networks if not isinstance(one, str)]
    if objects and run.get("out") is not None:
        raise InputError(
            "out cannot resume a network given as an object, got both; "
            "omit out and call capcheck.save(result, folder)."
        )
    if len(objects) > 1:
        raise InputError(
            f"network may hold one object, got {len(objects)}; measure them one by one, or name "
            "factories."
        )
    if not networks and (objective, fit_seconds, fit_steps) != (None, None, None):
        raise InputError(
            "objective, fit_seconds and fit_steps need a network to fit, got none; give one as "
            "network."
        )
    fits = _fit_limits(FIT_STEPS, fit_seconds, fit_steps)
    candidates = _candidates(probe, networks, objective, fits)
    return Engine(target, candidates, run)


@_with_run_options
def survey(
    target: Target,
    families: Iterable[str | AnyProbe] | None = None,
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    network: str | Sequence[str] | None = None,
    fit_steps: int | None = None,
    fit_seconds: float | None = None,
    **run: Unpack[RunOptions],
) -> SurveyResult:
    """Measure several families on one target.

    A family that is not defined for the target's tokens, or that fails, is listed in the result
    with the reason. Families whose oracles say little about trained networks (`Probe.near_oracle`)
    are measured with a fitted network as well, unless tokens are given.

    Args:
        target: The law that the families should produce.
        families: Names of registered families, or `Probe` objects; all registered families by
            default.
        options: Options of the families given by their names, as one mapping per family name.
        network: Names of networks to fit for every family, or `none` to fit none at all.
        fit_steps: Number of optimiser steps of each fit, at least 1; 500 by default.
        fit_seconds: Duration of each fit in seconds, above 0, in place of a number of steps.
        **run: See `RunOptions`.

    Raises:
        InputError: An argument is not possible; the message names it and the rule that it breaks.
    """
    engine = engine_of_survey(
        target,
        families,
        options=options,
        network=network,
        fit_steps=fit_steps,
        fit_seconds=fit_seconds,
        **run,
    )
    return engine.run(errors_are_results=True)


def engine_of_survey(
    target: Target,
    families: Iterable[str | AnyProbe] | None = None,
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    network: str | Sequence[str] | None = None,
    fit_steps: int | None = None,
    fit_seconds: float | None = None,
    **run: Unpack[RunOptions],
) -> Engine:
    """The engine of a survey, with the arguments of `survey`."""
    chosen = list(registered() if families is None else families)
    names = [one.family if isinstance(one, Probe) else one for one in chosen]
    options = dict(options or {})
    for name in options:
        if name not in names:
            raise InputError(f"options name {name!r}, which is not one of the families {names}.")
    if not isinstance(network, str) and "none" in (network or ()):
        raise InputError(
            f"network none excludes other networks, got {list(network or ())}; leave it out."
        )
    fits = _fit_limits(SURVEY_FIT_STEPS, fit_seconds, fit_steps)
    candidates: dict[str, Candidate] = {}
    for one, name in zip(chosen, names, strict=True):
        probe = _probe(one, options.get(name))
        networks: list[Named] = []
        if target.spec.kind in probe.kinds and network != "none":
            by_default = NEAR_ORACLE if probe.near_oracle and not run.get("given") else None
            networks = _networks(by_default if network is None else network)
        for candidate in _candidates(probe, networks, None, fits):
            held = candidates.setdefault(candidate.plan.model_dump_json(), candidate)
            if type(held.probe) is not type(probe):
                raise InputError(
                    f"families holds two classes whose family is {name!r}; give each its own name."
                )
    return Engine(target, list(candidates.values()), run)


@_with_run_options
def require(
    family: str | AnyProbe,
    target: Target,
    *,
    options: Mapping[str, Any] | None = None,
    network: Named | Sequence[Named] | None = None,
    objective: Objective | Literal["none"] | None = None,
    fit_steps: int | None = None,
    fit_seconds: float | None = None,
    **run: Unpack[RunOptions],
) -> CheckResult:
    """Check a family as `check` does, and raise an error unless it is representable.

    Args:
        family: See `check`.
        target: See `check`.
        options: See `check`.
        network: See `check`.
        objective: See `check`.
        fit_steps: See `check`.
        fit_seconds: See `check`.
        **run: See `RunOptions`.

    Raises:
        CapacityError: The family is not representable, or not in one of the precisions asked for,
            or the evidence is inconclusive.
        InputError: An argument is not possible; the message names it and the rule that it breaks.
    """
    result = check(
        family,
        target,
        options=options,
        network=network,
        objective=objective,
        fit_steps=fit_steps,
        fit_seconds=fit_seconds,
        **run,
    )
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
    folder = Path(folder)
    i, n = shard
    if not 1 <= i <= n:
        raise InputError(f"shard must be i/n with i from 1 to n, got {i}/{n}.")
    manifest = read_manifest(folder)
    candidates = [_candidate_of(entry, networks) for entry in manifest.families]
    place = len(candidates) * (i - 1) // n
    settings = manifest.settings
    run = RunOptions(
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
        seed=settings.seed,
        level=settings.level,
        device=device,
        batch=batch,
        workers=workers,
        progress=progress,
    )
    target = target_again(folder) if target is None else target
    Engine(target, candidates, run).help(folder, first=place)


def _candidate_of(entry: FamilyEntry, networks: Sequence[str]) -> Candidate:
    """The candidate of an entry of a manifest."""
    plan = entry.plan
    probe = build_probe(plan.family, plan.options)
    if plan.network.kind == "oracle":
        return Candidate(probe=probe, entry=entry)
    name = plan.network.name
    if name == "given":
        raise InputError(
            f"the run measures a network of {plan.family} that a program gave as an object; only "
            "that program can measure it."
        )
    if not is_architecture(name) and name not in networks:
        raise InputError(
            f"the run measures the network {name}, a function; name it with networks (--network "
            f"{name}), since nothing that a file names is executed."
        )
    return Candidate(probe=probe, entry=entry, network=require_named(name))


def report(result: SurveyResult | CheckResult, path: str | Path, *, kind: str = "html") -> Path:
    """Write the report of a result to a file, and return the path of the file.

    Args:
        result: Result of `survey`, `check` or `require`.
        path: Path of the file to write.
        kind: Name of a registered report writer.

    Raises:
        InputError: There is no report writer of that name, or the file cannot be written.
    """
    survey = result.survey if isinstance(result, CheckResult) else result
    return write_atomically(Path(path), report_writer(kind)(survey))


def _probe(family: str | AnyProbe, options: Mapping[str, Any] | None) -> AnyProbe:
    """Build the probe of a family given by its name, or return the given probe."""
    if isinstance(family, str):
        return build_probe(family, options)
    if not isinstance(family, Probe):
        raise InputError(
            f"family must be the name of a family or a Probe, got {type(family).__name__}; "
            "make the probe first, as in MyProbe()."
        )
    if options:
        raise InputError(
            f"options must be left out when family is a Probe, got {dict(options)}; give them "
            f"to {type(family).__name__}."
        )
    return family


def _networks(network: Named | Sequence[Named] | None) -> list[Named]:
    """The networks as a list in which each name stands once."""
    if network is None:
        return []
    if isinstance(network, str) or not isinstance(network, Sequence):
        network = [network]
    found: list[Named] = []
    for one in map(require_named, network):
        if not isinstance(one, str) or one not in found:
            found.append(one)
    return found


def _fit_limits(default: int, seconds: float | None, steps: int | None) -> dict[str, Any]:
    """The limit of every fit, as a field of `FittedNetwork`: `steps` or `seconds`."""
    if seconds is None:
        return {"steps": default if steps is None else require_count("fit_steps", steps)}
    if steps is not None:
        raise InputError("fit_seconds and fit_steps exclude each other, got both; give one.")
    if not (isinstance(seconds, (int, float)) and 0 < seconds < math.inf):
        raise InputError(f"fit_seconds must be above 0 and finite, got {seconds!r}.")
    return {"seconds": float(seconds)}


def _candidates(
    probe: AnyProbe,
    networks: Sequence[Named],
    objective: Objective | Literal["none"] | None,
    fits: Mapping[str, Any],
) -> list[Candidate]:
    """The candidates of one probe: with its oracle, and with each of the networks."""
    known = (*get_args(Objective), "none", None)
    if objective not in known:
        hint = near(str(objective), [str(name) for name in known[:-1]])
        raise InputError(f"objective {objective!r} is unknown; {hint}")
    entry = FamilyEntry.of(probe)
    kind_of = functools.partial(_network_kind, objective=objective, fits=fits)
    return [
        Candidate(probe=probe, entry=entry),
        *(
            Candidate(probe=probe, entry=entry.with_network(kind_of(one)), network=one)
            for one in networks
        ),
    ]


def _network_kind(
    network: Named, *, objective: Objective | Literal["none"] | None, fits: Mapping[str, Any]
) -> NetworkKind:
    """Describe a network as the plan of a family records it."""
    by_name = isinstance(network, str)
    name = network if isinstance(network, str) else "given"
    to: Objective | Literal["none"] = objective or ("oracle" if by_name else "none")
    if to != "none":
        return FittedNetwork(name=name, objective=to, **fits)
    if is_architecture(network):
        raise InputError(
            f"objective none measures weights as they are, and {network} has none yet; name a "
            "function that returns your module, or leave objective out."
        )
    return GivenNetwork(name=name)
