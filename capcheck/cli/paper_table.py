"""Tables of families in the groups of the paper's table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from rich.markup import escape
from rich.table import Table

from capcheck.procedures.listing import FamilyFacts
from capcheck.procedures.rows import PAPER, ROW_TITLES, ROWS, Row

__all__ = ["Member", "caption", "families_table", "grouped", "heading", "named"]

_NOT_IN_PAPER = "+"  # mark after the name of a family that the paper's table does not list


class Member(Protocol):
    """A family, or its result."""

    @property
    def row(self) -> Row:
        """The row of the paper's table that it stands in."""

    @property
    def in_paper(self) -> bool:
        """Whether the paper's table lists it."""


_Member = TypeVar("_Member", bound=Member)


def grouped(members: Iterable[_Member]) -> list[tuple[Row, list[_Member]]]:
    """Group members by row of the paper's table, in the table's order, without empty rows."""
    members = list(members)
    groups = [(row, [member for member in members if member.row == row]) for row in ROWS]
    return [(row, group) for row, group in groups if group]


def heading(row: Row) -> str:
    """The title of a row of the paper's table, as markup."""
    return f"[bold]{ROW_TITLES[row]}[/bold]"


def named(family: str, member: Member) -> str:
    """The name of a family, with a mark if the paper's table does not list the family."""
    return f"  {family}" if member.in_paper else f"  {family} {_NOT_IN_PAPER}"


def caption(members: Iterable[Member]) -> str | None:
    """The meaning of the mark, or None if no member has it."""
    marked = any(not member.in_paper for member in members)
    return f"{_NOT_IN_PAPER} not in the table of {PAPER}" if marked else None


def families_table(facts: Sequence[FamilyFacts]) -> Table:
    """A table of the families with their procedures and routes to KL, in the paper's groups."""
    table = Table("family", "tokens", "procedure", "KL", caption=caption(facts))
    for row, members in grouped(facts):
        table.add_row(heading(row))
        for one in members:
            tokens = ", ".join(sorted(one.kinds))
            table.add_row(named(one.family, one), tokens, escape(one.summary), escape(one.kl))
        table.add_section()
    return table
