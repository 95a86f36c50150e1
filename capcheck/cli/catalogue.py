"""The catalogue: a table of the built-in targets, and the card of one family."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Column, Table

from capcheck.procedures.listing import docstring_entries
from capcheck.procedures.probe import AnyProbe
from capcheck.procedures.rows import ROW_TITLES
from capcheck.results.family import WITHOUT_KL, WITHOUT_KL_MEANING, FamilyResult
from capcheck.targets.built_in import BUILT_IN
from capcheck.targets.specs import parameters

__all__ = [
    "OPTION_COLUMNS",
    "card_entries",
    "family_card",
    "option_rows",
    "option_values",
    "targets_table",
    "without_kl",
]


OPTION_COLUMNS = ("--option", "values", "default", "meaning")


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


def card_entries(probe: AnyProbe) -> tuple[str, list[tuple[str, str]]]:
    """The title of a family's card, and its entries: the label and the text of each."""
    title, facts = docstring_entries(sys.modules[type(probe).__module__].__doc__ or "")
    place = ROW_TITLES[probe.row]
    if not probe.in_paper:
        place = f"not in its table; the procedure belongs under {place}"
    causes = [f"{s.failure}: cured with {s.cure}" for s in probe.suspects()]
    return title, [
        ("Tokens", " and ".join(sorted(probe.kinds))),
        ("Paper", place),
        *facts,
        ("Suspects", "\n".join(causes) or "none, with the default options"),
    ]


def option_rows(probe: AnyProbe) -> list[tuple[str, str, str, str]]:
    """Name, values, default and meaning of every option of a family."""
    options: dict[str, FieldInfo] = getattr(probe, "__pydantic_fields__", {})
    return [
        (name, option_values(field), _as_text(getattr(probe, name)), field.description or "")
        for name, field in options.items()
    ]


def family_card(probe: AnyProbe) -> RenderableType:
    """The card of a family: its module docstring, its options and its suspected causes."""
    title, entries = card_entries(probe)
    grid = Table.grid(Column(style="bold", no_wrap=True), Column(), padding=(0, 2, 0, 0))
    for label, text in entries:
        grid.add_row(label, escape(text))
    parts: list[RenderableType] = [f"[bold]{probe.family}[/bold]  {escape(title)}", "", grid]
    if rows := option_rows(probe):
        table = Table(*OPTION_COLUMNS)
        for row in rows:
            table.add_row(*map(escape, row))
        parts += ["", table]
    return Group(*parts)


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
