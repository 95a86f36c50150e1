"""The Python interface: `check` one family, `survey` many, `require` a capacity.

All three take the same keywords; a survey is a check of each family on the same draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Unpack, get_args

from capcheck.engine import Contender, Engine
from capcheck.errors import InputError, near
from capcheck.findings import plan_of, wrong_kind
from capcheck.measuring import Measuring
from capcheck.network import Named, is_architecture, require_named
from capcheck.probe import AnyProbe
from capcheck.records import Objective, Outcome
from capcheck.registry import build_probe
from capcheck.registry import families as registered
from capcheck.results import CapacityError, CheckResult, SurveyResult
from capcheck.targets.parameters import require_count
from capcheck.targets.target import Target

FIT_SECONDS = 60.0
SURVEY_FIT_SECONDS = 20.0
QUICK_FIT_SECONDS = 5.0
NEAR_ORACLE = "mlp:width=128,depth=3"


def check(
    family: str,
    target: Target,
    *,
    options: Mapping[str, Any] | None = None,
    network: Named | Sequence[Named] | None = None,
    objective: Objective | Literal["none"] | None = None,
    fit_seconds: float | None = None,
    fit_steps: int | None = None,
    **measuring: Unpack[Measuring],
) -> CheckResult:
    """Measure whether a family's procedure can produce a target, and at which budget.

    Args:
        family: Name of a registered family.
        target: What it should produce.
        options: The probe's own options, as values or text.
        network: What to measure in the oracle's place, beside the oracle: an architecture
            (`mlp:width=128,depth=3`, `transformer:width=64,depth=2`), a function of a signature and
            a spec that returns a module (`package.module:factory`), or a network of the probe's
            signature; several for a capacity curve.
        objective: What networks are fitted to: the `oracle`, the target `end_to_end` through the
            procedure at its one budget, or `none` for networks as they are. By default those with
            a name are fitted to the oracle, and an object is taken as it is.
        fit_seconds: Time of each fit, above 0; 60 by default. How far a fit comes within it depends
            on the machine.
        fit_steps: Steps of each fit in place of a time; it is then the same on every CPU.
        **measuring: See `Measuring`.

    Raises:
        InputError: Something was asked for that is not possible; the sentence says what.

    Example:
        >>> from capcheck import check, targets
        >>> check("gpt", targets.from_spec("modes:tokens=2"), samples=200).smallest_budget
        Budget(length=1, steps=1)
    """
    probe = build_probe(family, options)
    if target.spec.kind not in probe.kinds:
        raise InputError(wrong_kind(probe, target.spec.kind))
    networks = _networks(network)
    objects = [one for one in networks if not isinstance(one, str)]
    if objects and measuring.get("out") is not None:
        raise InputError(
            "out cannot resume a network given as an object, got both; "
            "omit out and call save(folder) on the result."
        )
    if len(objects) > 1:
        raise InputError(
            f"network may hold one object, got {len(objects)}; measure them one by one, or name "
            "factories."
        )
    if not networks and (objective, fit_seconds, fit_steps) != (None, None, None):
        raise InputError(
            "objective, fit_seconds and fit_steps are of networks, and none is named; give one as "
            "network."
        )
    fits = _fits(FIT_SECONDS, fit_seconds, fit_steps)
    contenders = _contenders(probe, networks, objective, fits)
    engine = Engine(target, contenders, measuring)
    return engine.run(errors_are_results=False).check_result(family)


def survey(
    target: Target,
    families: Iterable[str] | None = None,
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    network: str | Sequence[str] | None = None,
    fit_seconds: float | None = None,
    fit_steps: int | None = None,
    **measuring: Unpack[Measuring],
) -> SurveyResult:
    """Measure several families on one target.

    A family that cannot take such tokens, or that fails, is listed with the reason. Families whose
    oracles say little of what can be trained (`Probe.near_oracle`) are also measured with a fitted
    network.

    Args:
        target: What they should produce.
        families: Names of registered families; all by default.
        options: The probes' own options, by family.
        network: Names of networks to fit for every family, or `none` for no family.
        fit_seconds: Time of each fit, above 0; 20 by default.
        fit_steps: Steps of each fit in place of a time.
        **measuring: See `Measuring`.

    Raises:
        InputError: Something was asked for that is not possible; the sentence says what.
    """
    names = list(registered() if families is None else families)
    options = dict(options or {})
    for name in options:
        if name not in names:
            raise InputError(f"options name {name!r}, which is not surveyed; it is not in {names}.")
    contenders: list[Contender] = []
    if not isinstance(network, str) and "none" in (network or ()):
        raise InputError(f"network none goes alone, got {list(network or ())}; leave it out.")
    fits = _fits(SURVEY_FIT_SECONDS, fit_seconds, fit_steps)
    for name in dict.fromkeys(names):
        probe = build_probe(name, options.get(name))
        networks: list[Named] = []
        if target.spec.kind in probe.kinds and network != "none":
            by_default = NEAR_ORACLE if probe.near_oracle and not measuring.get("given") else None
            networks = _networks(by_default if network is None else network)
        contenders += _contenders(probe, networks, None, fits)
    return Engine(target, contenders, measuring).run(errors_are_results=True)


def require(
    family: str,
    target: Target,
    *,
    options: Mapping[str, Any] | None = None,
    network: Named | Sequence[Named] | None = None,
    objective: Objective | Literal["none"] | None = None,
    fit_seconds: float | None = None,
    fit_steps: int | None = None,
    **measuring: Unpack[Measuring],
) -> CheckResult:
    """Like `check`, but raise unless the family is representable.

    Raises:
        CapacityError: It is not representable, or not in a precision that was asked for, or the
            evidence is missing.
        InputError: Something was asked for that is not possible; the sentence says what.
    """
    result = check(
        family,
        target,
        options=options,
        network=network,
        objective=objective,
        fit_seconds=fit_seconds,
        fit_steps=fit_steps,
        **measuring,
    )
    if result.outcome is not Outcome.REPRESENTABLE:
        words = result.outcome.value.replace("_", " ")
        raise CapacityError(f"{result.title} is {words} on this target: {result.reason}.", result)
    for rounded in result.precisions:
        if rounded.holding == "numerics":
            raise CapacityError(f"{result.title} breaks by its numerics: {rounded.reason}.", result)
    return result


def _networks(network: Named | Sequence[Named] | None) -> list[Named]:
    """What was named, each name once."""
    if network is None:
        return []
    if isinstance(network, str) or not isinstance(network, Sequence):
        network = [network]
    found: list[Named] = []
    for one in map(require_named, network):
        if not isinstance(one, str) or one not in found:
            found.append(one)
    return found


def _fits(default: float, seconds: float | None, steps: int | None) -> dict[str, Any]:
    """What limits a fit, as fields of a plan."""
    if steps is not None:
        if seconds is not None:
            raise InputError("fit_seconds and fit_steps exclude each other, got both; give one.")
        return {"fit_steps": require_count("fit_steps", steps)}
    seconds = default if seconds is None else seconds
    if not (isinstance(seconds, (int, float)) and 0 < seconds < math.inf):
        raise InputError(f"fit_seconds must be above 0 and finite, got {seconds!r}.")
    return {"fit_seconds": float(seconds)}


def _contenders(
    probe: AnyProbe,
    networks: Sequence[Named],
    objective: Objective | Literal["none"] | None,
    fits: Mapping[str, Any],
) -> list[Contender]:
    """A probe with its oracle and with each of the networks."""
    known = (*get_args(Objective), "none", None)
    if objective not in known:
        hint = near(str(objective), [str(name) for name in known[:-1]])
        raise InputError(f"objective {objective!r} is unknown; {hint}")
    plan = plan_of(probe)
    contenders = [Contender(probe=probe, plan=plan)]
    for network in networks:
        by_name = isinstance(network, str)
        to: Objective | Literal["none"] = objective or ("oracle" if by_name else "none")
        if to == "none" and is_architecture(network):
            raise InputError(
                f"objective none measures weights as they are, and {network} has none yet; name a "
                "function that returns your module, or leave objective out."
            )
        update: dict[str, Any] = {"network": network if by_name else "given"}
        if to != "none":
            update |= {"objective": to, **fits}
        own = plan.model_copy(update=update)
        contenders.append(Contender(probe=probe, plan=own, network=network))
    return contenders
