"""Planning: from the arguments of a check or a survey to the engine that measures it."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Unpack, get_args

from capcheck.core.arguments import mapping, one_of, real_number, shown, whole_number
from capcheck.core.errors import InputError
from capcheck.fitting.named import Named, is_architecture
from capcheck.networks.kinds import FittedNetwork, GivenNetwork, NetworkKind, Objective
from capcheck.procedures.errors import wrong_kind
from capcheck.procedures.probe import AnyProbe, Probe
from capcheck.procedures.registry import OPTIONS, probe_given
from capcheck.results.cost import RunCost
from capcheck.results.plan import FamilyEntry
from capcheck.runs.candidates import Candidate
from capcheck.runs.cells import Cells
from capcheck.runs.engine import Engine
from capcheck.runs.keywords import (
    Families,
    checked_networks,
    chosen_families,
    listed_networks,
    of_run,
)
from capcheck.runs.options import RunOptions
from capcheck.runs.rehearsal import rehearse
from capcheck.targets.categorical.categorical_mixture import CategoricalMixture
from capcheck.targets.continuous.product_mixture import ProductMixture
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
    *,
    command: str | None = None,
    **keywords: Unpack[CheckOptions],
) -> Engine:
    """The engine of a check.

    Args:
        family: Name of a registered family, or a `Probe`.
        target: The law that the family should produce.
        known: See `Engine`.
        command: See `Engine`.
        **keywords: See `CheckOptions`.

    Raises:
        InputError: An argument is not possible; the message names it and the rule that it breaks.
    """
    options, objective = keywords.get("options"), keywords.get("objective")
    fit_seconds, fit_steps = keywords.get("fit_seconds"), keywords.get("fit_steps")
    run = of_run(keywords, CheckOptions, target)
    probe = probe_given(family, options)
    if target.spec.kind not in probe.kinds:
        raise InputError(wrong_kind(probe, target))
    networks = checked_networks(listed_networks(keywords.get("network")))
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
    unused = all(value is None for value in (objective, fit_seconds, fit_steps))
    if not networks and not unused:
        raise InputError(
            "objective, fit_seconds and fit_steps need a network to fit, got none; give one as "
            "network."
        )
    fits = _fit_limits(FIT_STEPS, fit_seconds, fit_steps)
    candidates = _candidates(probe, networks, objective, fits)
    return Engine(target, candidates, run, known=known, command=command)


def engine_of_survey(
    target: Target,
    families: Families = None,
    *,
    command: str | None = None,
    **keywords: Unpack[SurveyOptions],
) -> Engine:
    """The engine of a survey.

    Args:
        target: The law that the families should produce.
        families: See `capcheck.survey`.
        command: See `Engine`.
        **keywords: See `SurveyOptions`.

    Raises:
        InputError: An argument is not possible; the message names it and the rule that it breaks.
    """
    return Engine(target, *_survey(target, families, keywords), command=command)


def cost_of_survey(
    target: Target,
    families: Families = None,
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
    growth = 1.0 if rows is None else require_count("rows", rows) / _rows_held(target)
    return rehearse(target, candidates, run, start=start, growth=growth)


def _rows_held(target: Target) -> int:
    """The number of components of a law, which is that of its rows of data under the law `rows`.

    Raises:
        InputError: The law is no such sum, so that its cost does not grow with the rows.
    """
    if not isinstance(target, (ProductMixture, CategoricalMixture)):
        raise InputError(
            f"rows needs a law that is a sum over the rows of data, got {type(target).__name__}, "
            "whose cost does not grow with them; leave rows out, or take --law rows."
        )
    products = target.products()
    return int(products.log_weights.shape[1])


def _survey(
    target: Target, families: Families, keywords: SurveyOptions
) -> tuple[list[Candidate], RunOptions]:
    """The candidates of a survey, and the options of its run."""
    network = keywords.get("network")
    fit_seconds, fit_steps = keywords.get("fit_seconds"), keywords.get("fit_steps")
    run = of_run(keywords, SurveyOptions, target)
    chosen = chosen_families(families)
    names = [one.family if isinstance(one, Probe) else one for one in chosen]
    options = mapping("options", keywords.get("options"), *OPTIONS)
    for name in options:
        if name not in names:
            raise InputError(
                f"options name {shown(name)}, which is not one of the families {shown(names)}."
            )
    listed = listed_networks(network)
    none = any(isinstance(one, str) and one == "none" for one in listed)
    if none and len(listed) > 1:
        raise InputError(
            f"network none excludes other networks, got {shown(listed)}; leave it out."
        )
    fits = _fit_limits(SURVEY_FIT_STEPS, fit_seconds, fit_steps)
    candidates: dict[str, Candidate] = {}
    for one, name in zip(chosen, names, strict=True):
        probe = probe_given(one, options.get(name))
        networks: list[Named] = []
        if target.spec.kind in probe.kinds and not none:
            by_default = [NEAR_ORACLE] if probe.near_oracle and not run.get("given") else []
            networks = checked_networks(by_default if network is None else listed)
        for candidate in _candidates(probe, networks, None, fits):
            held = candidates.setdefault(candidate.plan.model_dump_json(), candidate)
            if type(held.probe) is not type(probe):
                raise InputError(
                    f"families holds two classes whose family is {name!r}; give each its own name."
                )
    return list(candidates.values()), run


def _fit_limits(default: int, seconds: float | None, steps: int | None) -> dict[str, Any]:
    """The limit of every fit, as a field of `FittedNetwork`: `steps` or `seconds`."""
    if seconds is None:
        return {"steps": default if steps is None else whole_number("fit_steps", steps, 1)}
    if steps is not None:
        raise InputError("fit_seconds and fit_steps exclude each other, got both; give one.")
    rule = "above 0 and finite"
    return {"seconds": real_number("fit_seconds", seconds, rule, lambda s: 0 < s < math.inf)}


def _candidates(
    probe: AnyProbe,
    networks: Sequence[Named],
    objective: Objective | Literal["none"] | None,
    fits: Mapping[str, Any],
) -> list[Candidate]:
    """The candidates of one probe: with its oracle, and with each of the networks."""
    if objective is not None:
        one_of("objective", objective, (*get_args(Objective), "none"))
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
