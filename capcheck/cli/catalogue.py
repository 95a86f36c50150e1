"""The catalogue: tables of families and of built-in targets, and the card of one family."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Column, Table

from capcheck.procedures.probe import ROW_TITLES, ROWS, AnyProbe, Row
from capcheck.results.family import WITHOUT_KL, WITHOUT_KL_MEANING, FamilyResult
from capcheck.targets.built_in import BUILT_IN
from capcheck.targets.specs import parameters

__all__ = [
    "caption",
    "families_table",
    "family_card",
    "grouped",
    "heading",
    "named",
    "option_values",
    "targets_table",
    "without_kl",
]

_Member = TypeVar("_Member", type[AnyProbe], FamilyResult)
_NOT_IN_PAPER = "+"  # mark after the name of a family that the paper's table does not list


def grouped(members: Iterable[_Member]) -> list[tuple[Row, list[_Member]]]:
    """Group members by row of the paper's table, in the table's order, without empty rows."""
    members = list(members)
    groups = [(row, [member for member in members if member.row == row]) for row in ROWS]
    return [(row, group) for row, group in groups if group]


def heading(row: Row) -> str:
    """The title of a row of the paper's table, as markup."""
    return f"[bold]{ROW_TITLES[row]}[/bold]"


def named(family: str, member: type[AnyProbe] | FamilyResult) -> str:
    """The name of a family, with a mark if the paper's table does not list the family."""
    return f"  {family}" if member.in_paper else f"  {family} {_NOT_IN_PAPER}"


def caption(members: Iterable[type[AnyProbe] | FamilyResult]) -> str | None:
    """The meaning of the mark, or None if no member has it."""
    marked = any(not member.in_paper for member in members)
    return f"{_NOT_IN_PAPER} not in the paper's table" if marked else None


def without_kl(members: Iterable[FamilyResult]) -> str | None:
    """The meaning of the mark of verdicts without KL, or None if no member has it."""
    marked = any(member.without_kl for member in members)
    return f"{WITHOUT_KL} {WITHOUT_KL_MEANING}" if marked else None


def targets_table() -> Table:
    """A table of the built-in targets with their parameters."""
    table = Table("target", "law", "parameters")
    for name in BUILT_IN:
        lines = [
            f"{key}={_as_text(default)}  [dim]{text}[/dim]"
            for key, (default, text) in parameters(name).items()
        ]
        law = (BUILT_IN[name].__doc__ or "").splitlines()[0]
        table.add_row(f"[bold]{name}[/bold]", escape(law), "\n".join(lines), end_section=True)
    return table


def _as_text(default: Any) -> str:
    if default is None:
        return "none"
    return ("yes" if default else "no") if isinstance(default, bool) else str(default)


def families_table(probes: Sequence[type[AnyProbe]]) -> Table:
    """A table of the families with their procedures and routes to KL, in the paper's groups."""
    table = Table("family", "tokens", "procedure", "KL", caption=caption(probes))
    for row, members in grouped(probes):
        table.add_row(heading(row))
        for probe in members:
            summary = (probe.__doc__ or "").strip().splitlines()[0]
            facts = dict(_docstring(sys.modules[probe.__module__].__doc__ or "")[1])
            table.add_row(
                named(probe.family, probe),
                ", ".join(sorted(probe.kinds)),
                escape(summary),
                escape(facts.get("KL", "")),
            )
        table.add_section()
    return table


def family_card(probe: AnyProbe) -> RenderableType:
    """The card of a family: its module docstring, its options and its suspected causes."""
    title, facts = _docstring(sys.modules[type(probe).__module__].__doc__ or "")
    place = ROW_TITLES[probe.row]
    if not probe.in_paper:
        place = f"not in its table; the procedure belongs under {place}"
    grid = Table.grid(Column(style="bold", no_wrap=True), Column(), padding=(0, 2, 0, 0))
    grid.add_row("Tokens", " and ".join(sorted(probe.kinds)))
    grid.add_row("Paper", place)
    for label, text in facts:
        grid.add_row(label, escape(text))
    causes = [f"{s.failure}: cured with {s.cure}" for s in probe.suspects()]
    grid.add_row("Suspects", escape("\n".join(causes)) or "none, with the default options")
    options: dict[str, FieldInfo] = getattr(probe, "__pydantic_fields__", {})
    parts: list[RenderableType] = [f"[bold]{probe.family}[/bold]  {escape(title)}", "", grid]
    if options:
        parts += ["", _options_table(probe, options)]
    return Group(*parts)


def _docstring(text: str) -> tuple[str, list[tuple[str, str]]]:
    """The first line and the `Label: text` entries of a module docstring, with lines joined."""
    first, _, rest = text.strip().partition("\n")
    entries: list[tuple[str, str]] = []
    for line in filter(None, map(str.strip, rest.splitlines())):
        label, colon, tail = line.partition(": ")
        if colon and re.fullmatch(r"[A-Z][A-Za-z]+( [a-z]+)?", label):
            entries.append((label, tail))
        elif entries:
            entries[-1] = entries[-1][0], f"{entries[-1][1]} {line}"
        else:
            entries.append(("", line))
    return first, entries


def _options_table(probe: AnyProbe, options: Mapping[str, FieldInfo]) -> Table:
    table = Table("--option", "values", "default", "meaning")
    for name, field in options.items():
        default = getattr(probe, name)
        table.add_row(
            name,
            escape(option_values(field)),
            _as_text(default),
            escape(field.description or ""),
        )
    return table


def option_values(field: FieldInfo) -> str:
    """The values of a probe's option in words: its type, its choices and its range."""
    kinds = _alternatives(field.annotation)
    named = [_kind(kind, field.metadata) for kind in kinds if kind is not NoneType]
    text = ", or ".join(filter(None, [", ".join(named[:-1]), named[-1]]))
    return f"{text}, or none" if NoneType in kinds else text


def _alternatives(annotation: Any) -> list[Any]:
    """The members of a union type, or the type itself if it is no union."""
    united = isinstance(annotation, UnionType) or get_origin(annotation) is Union
    return list(get_args(annotation)) if united else [annotation]


def _kind(kind: Any, rules: Sequence[Any]) -> str:
    """One type in words, with the range that its rules set."""
    if get_origin(kind) is Annotated:
        kind, *rules = get_args(kind)
        rules = [rule for own in rules for rule in getattr(own, "metadata", [own])]
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return _kind(get_args(kind)[0], ()).replace("number", "numbers", 1) + " with / in between"
    words: dict[Any, str] = {int: "whole number", float: "number", bool: "yes, no"}
    signs = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    limits = [
        f"{sign} {getattr(rule, name):g}"
        for rule in rules
        for name, sign in signs.items()
        if getattr(rule, name, None) is not None
    ]
    named = words.get(kind, getattr(kind, "__name__", str(kind)))
    return " ".join([named, *limits[:1]]) + "".join(f", {more}" for more in limits[1:])
