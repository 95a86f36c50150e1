"""Planning: from the arguments of a check or a survey to the engine that measures it."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Unpack, get_args

from capcheck.core.errors import InputError, near
from capcheck.fitting.named import Named, is_architecture, require_named
from capcheck.networks.kinds import FittedNetwork, GivenNetwork, NetworkKind, Objective
from capcheck.procedures.errors import wrong_kind
from capcheck.procedures.probe import AnyProbe, Probe
from capcheck.procedures.registry import build_probe
from capcheck.procedures.registry import families as registered
from capcheck.results.cost import RunCost
from capcheck.results.plan import FamilyEntry
from capcheck.runs.candidates import Candidate
from capcheck.runs.cells import Cells
from capcheck.runs.engine import Engine
from capcheck.runs.options import RunOptions
from capcheck.runs.rehearsal import rehearse
from capcheck.targets.parameters import require_count
from capcheck.targets.target import Target

__all__ = [
    "FIT_STEPS",
    "QUICK_FIT_STEPS",
    "SURVEY_FIT_STEPS",
    "CheckOptions",
    "SurveyOptions",
    "cost_of_survey",
    "engine_of_check",
    "engine_of_survey",
]

FIT_STEPS = 2000  # default number of optimiser steps of a fit in `check` and `require`
SURVEY_FIT_STEPS = 300  # the same in `survey`
QUICK_FIT_STEPS = 100  # the same in `capcheck survey --quick`
NEAR_ORACLE = "mlp:width=128,depth=3"  # architecture fitted by default (`Probe.near_oracle`)


class CheckOptions(RunOptions, total=False):
    """Keywords of `check` and `require`, beside those of `RunOptions`.

    Attributes:
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
    """

    options: Mapping[str, Any] | None
    network: Named | Sequence[Named] | None
    objective: Objective | Literal["none"] | None
    fit_steps: int | None
    fit_seconds: float | None


class SurveyOptions(RunOptions, total=False):
    """Keywords of `survey`, beside those of `RunOptions`.

    Attributes:
        options: Options of the families given by their names, as one mapping per family name.
        network: Names of networks to fit for every family, or `none` to fit none at all.
        fit_steps: Number of optimiser steps of each fit, at least 1; 300 by default.
        fit_seconds: Duration of each fit in seconds, above 0, in place of a number of steps.
    """

    options: Mapping[str, Mapping[str, Any]] | None
    network: str | Sequence[str] | None
    fit_steps: int | None
    fit_seconds: float | None


def engine_of_check(
    family: str | AnyProbe,
    target: Target,
    known: Cells | None = None,
    **keywords: Unpack[CheckOptions],
) -> Engine:
    """The engine of a check.

    Args:
        family: Name of a registered family, or a `Probe`.
        target: The law that the family should produce.
        known: See `Engine`.
        **keywords: See `CheckOptions`.

    Raises:
        InputError: An argument is not possible; the message names it and the rule that it breaks.
    """
    options, objective = keywords.get("options"), keywords.get("objective")
    fit_seconds, fit_steps = keywords.get("fit_seconds"), keywords.get("fit_steps")
    run = _of_run(keywords, CheckOptions)
    probe = _probe(family, options)
    if target.spec.kind not in probe.kinds:
        raise InputError(wrong_kind(probe, target))
    networks = _networks(keywords.get("network"))
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
    return Engine(target, candidates, run, known=known)


def engine_of_survey(
    target: Target,
    families: Iterable[str | AnyProbe] | None = None,
    **keywords: Unpack[SurveyOptions],
) -> Engine:
    """The engine of a survey.

    Args:
        target: The law that the families should produce.
        families: Names of registered families, or `Probe` objects; all of them by default.
        **keywords: See `SurveyOptions`.

    Raises:
        InputError: An argument is not possible; the message names it and the rule that it breaks.
    """
    return Engine(target, *_survey(target, families, keywords))


def cost_of_survey(
    target: Target,
    families: Iterable[str | AnyProbe] | None = None,
    *,
    start: float = 0.0,
    rows: int | None = None,
    **keywords: Unpack[SurveyOptions],
) -> RunCost:
    """What a survey would cost on this machine, of which nothing is measured; see `rehearsal`.

    Args:
        target: As for `engine_of_survey`.
        families: As for `engine_of_survey`.
        start: Seconds that a worker takes to start and to load the target.
        rows: Number of rows that the data are to have, or None for those that they have.
        **keywords: See `SurveyOptions`.

    Raises:
        InputError: As for `engine_of_survey`, or the target's law does not hold rows of data and a
            number of them is given.
    """
    candidates, run = _survey(target, families, keywords)
    return rehearse(target, candidates, run, start=start, rows=rows)


def _survey(
    target: Target, families: Iterable[str | AnyProbe] | None, keywords: SurveyOptions
) -> tuple[list[Candidate], RunOptions]:
    """The candidates of a survey, and the options of its run."""
    network = keywords.get("network")
    fit_seconds, fit_steps = keywords.get("fit_seconds"), keywords.get("fit_steps")
    run = _of_run(keywords, SurveyOptions)
    chosen = list(registered() if families is None else families)
    names = [one.family if isinstance(one, Probe) else one for one in chosen]
    options = dict(keywords.get("options") or {})
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
    return list(candidates.values()), run


def _of_run(keywords: Mapping[str, Any], kind: Any) -> Any:
    """The keywords that are those of a run, or of nothing, which the engine refuses."""
    own = set(kind.__annotations__) - set(RunOptions.__annotations__)
    return {name: value for name, value in keywords.items() if name not in own}


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
