"""The registry finds families and report writers by the entry points of installed packages.

A package adds a family by an entry point of the group `capcheck.families` (name -> Probe class),
and a report writer by one of the group `capcheck.reports` (name -> function of a `SurveyResult`
that returns the page as text).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from capcheck.core.arguments import mapping, one_of, shown
from capcheck.core.errors import CapcheckError, InputError, near
from capcheck.core.plugins import declared
from capcheck.procedures.probe import AnyProbe, Probe
from capcheck.procedures.rows import ROWS

__all__ = ["OPTIONS", "build_probe", "families", "probe_class", "probe_given", "report_writer"]


LARGEST_OPTION = 2**31 - 1  # largest number that an option of a family may be
OWN = (
    "a class of your own is found by name once its package declares it as an entry point of "
    "capcheck.families, and from Python without that."
)
OPTIONS = ("values by names of options", "see `capcheck families FAMILY`")  # for messages


def families() -> list[str]:
    """Names of all registered families, in the order of the paper's table."""
    names = sorted(declared("capcheck.families"))
    return sorted(names, key=lambda name: ROWS.index(probe_class(name).row))


@functools.cache
def probe_class(family: str) -> type[AnyProbe]:
    """The probe class of a family.

    Raises:
        InputError: The name is unknown; the most similar name is suggested.
        CapcheckError: The entry point does not hold a probe of that family.
    """
    known = declared("capcheck.families")
    if family not in known:
        hint = OWN if ":" in family else near(family, known)
        raise InputError(f"family {family!r} is not registered; {hint}")
    try:
        loaded = known[family].load()
    except Exception as error:  # whatever other people's code raises
        dist = known[family].dist
        package = "" if dist is None else f" of package {dist.name}"
        raise CapcheckError(
            f"family {family!r}{package} cannot be loaded from {known[family].value}, which raised "
            f"{type(error).__name__}: {error}; repair or uninstall it."
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, Probe) and loaded.family == family):
        raise CapcheckError(
            f"{known[family].value} must be a Probe subclass whose family is {family!r}."
        )
    return loaded


def build_probe(family: str, options: Mapping[str, Any] | None = None) -> AnyProbe:
    """Makes a probe from the name of its family and its options, which may be given as text.

    Raises:
        InputError: The family or an option is unknown, or an option does not take the value.
    """
    probe = probe_class(family)
    given = mapping("options", options, *OPTIONS)
    options = {
        name: None if isinstance(value, str) and value == "none" else value
        for name, value in given.items()
    }
    known = [field.name for field in dataclasses.fields(probe)]
    for name in options:
        if name not in known:
            hint = near(name, known) if known else "it has no options."
            raise InputError(f"{family} has no option {shown(name)}; {hint}")
    _require_sizes(family, options)
    try:
        made = probe(**options)
        _require_sizes(family, dataclasses.asdict(made))
        return made
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"][:1]) or "options"
        given = options.get(field, options)
        raise InputError(
            f"{family}.{field}: {problem['msg'].removeprefix('Value error, ')}, got "
            f"{shown(given)}; see `capcheck families {family}`."
        ) from None


def probe_given(family: object, options: Mapping[str, Any] | None = None) -> AnyProbe:
    """The probe that a caller gives, or the one of the family whose name the caller gives.

    Args:
        family: Name of a registered family, or a `Probe`.
        options: Options of a family given by its name; a `Probe` already has its options.

    Raises:
        InputError: It is neither, the options are wrong, or a `Probe` is given with options.
    """
    if isinstance(family, str):
        return build_probe(family, options)
    if not isinstance(family, Probe):
        raise InputError(
            f"family must be the name of a family or a Probe, got {shown(family)}; make the probe "
            "first, as in MyProbe()."
        )
    if given := mapping("options", options, *OPTIONS):
        raise InputError(
            f"options must be left out when family is a Probe, got {shown(given)}; give them to "
            f"{type(family).__name__}."
        )
    return family


def _require_sizes(family: str, options: Mapping[str, Any]) -> None:
    """Raise InputError if an option is a number that no computation could hold."""
    for name, value in options.items():
        for number in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(number, (int, float)) and not abs(number) <= LARGEST_OPTION:
                raise InputError(
                    f"{family}.{name} must be a number of at most {LARGEST_OPTION:,}, got "
                    f"{shown(number)}; see `capcheck families {family}`."
                )


def report_writer(name: str = "html") -> Callable[[Any], Any]:
    """The function that turns a result into a report of some kind.

    It returns the text of one file, or the contents of several files by their names.

    Raises:
        InputError: The kind of report is unknown.
    """
    known = declared("capcheck.reports")
    one_of("kind of report", name, known)
    writer: Callable[[Any], Any] = known[name].load()
    return writer
