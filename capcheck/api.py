"""The Python interface: `check` one family, `survey` many, `require` a capacity.

All three take the same keywords; a survey is a check of each family on the same draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Unpack

from capcheck.engine import Engine, Measuring
from capcheck.errors import InputError
from capcheck.findings import wrong_kind
from capcheck.registry import build_probe
from capcheck.registry import families as registered
from capcheck.results import (
    CapacityError,
    CheckResult,
    Outcome,
    SurveyResult,
)
from capcheck.targets.target import Target


def check(
    family: str,
    target: Target,
    *,
    options: Mapping[str, Any] | None = None,
    network: Callable[..., Any] | None = None,
    **measuring: Unpack[Measuring],
) -> CheckResult:
    """Measure whether a family's procedure can produce a target, and at which budget.

    Args:
        family: Name of a registered family.
        target: What it should produce.
        options: The probe's own options, as values or text.
        network: A network of the probe's signature in the oracle's place.
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
    if network is not None and measuring.get("out") is not None:
        raise InputError(
            "out cannot resume a network given as an object, got both; "
            "omit out and call save(folder) on the result."
        )
    engine = Engine(target, [probe], measuring, network)
    return engine.run(errors_are_results=False).check_result(family)


def survey(
    target: Target,
    families: Iterable[str] | None = None,
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    **measuring: Unpack[Measuring],
) -> SurveyResult:
    """Measure several families on one target.

    A family that cannot take such tokens, or that fails, is listed with the reason.

    Args:
        target: What they should produce.
        families: Names of registered families; all by default.
        options: The probes' own options, by family.
        **measuring: See `Measuring`.

    Raises:
        InputError: Something was asked for that is not possible; the sentence says what.
    """
    names = list(registered() if families is None else families)
    options = dict(options or {})
    for name in options:
        if name not in names:
            raise InputError(f"options name {name!r}, which is not surveyed; it is not in {names}.")
    probes = [build_probe(name, options.get(name)) for name in dict.fromkeys(names)]
    return Engine(target, probes, measuring).run(errors_are_results=True)


def require(
    family: str,
    target: Target,
    *,
    options: Mapping[str, Any] | None = None,
    network: Callable[..., Any] | None = None,
    **measuring: Unpack[Measuring],
) -> CheckResult:
    """Like `check`, but raise unless the family is representable.

    Raises:
        CapacityError: It is not representable, or the evidence is missing.
        InputError: Something was asked for that is not possible; the sentence says what.
    """
    result = check(family, target, options=options, network=network, **measuring)
    if result.outcome is not Outcome.REPRESENTABLE:
        words = result.outcome.value.replace("_", " ")
        raise CapacityError(f"{family} is {words} on this target: {result.reason}.", result)
    return result
