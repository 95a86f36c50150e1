"""The card of a family: what its module says about it, with a link to its paper."""

from __future__ import annotations

import dataclasses
import importlib
import re

from markupsafe import Markup, escape

from capcheck.core.plugins import declared
from capcheck.procedures.listing import FamilyFacts, docstring_entries

__all__ = ["Card", "card"]

LINK = re.compile(r"https://(?:arxiv\.org|openreview\.net|doi\.org|proceedings\.\w+)[\w./?=&-]*\w")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """The card of a family.

    Attributes:
        summary: What it does, in a sentence.
        entries: Label and text of what its module says, with links.
    """

    summary: str
    entries: tuple[tuple[str, Markup], ...]


def card(facts: FamilyFacts) -> Card:
    """The card of a registered family."""
    module = importlib.import_module(declared("capcheck.families")[facts.family].module)
    _, entries = docstring_entries(module.__doc__ or "")
    return Card(
        summary=facts.summary,
        entries=tuple((label, _with_links(text)) for label, text in entries),
    )


def _with_links(text: str) -> Markup:
    """A text in which the addresses of papers are links; nothing else becomes one."""
    found, end = Markup(""), 0
    for match in LINK.finditer(text):
        link = Markup('<a href="{0}" rel="noreferrer">{0}</a>').format(match.group())
        found += escape(text[end : match.start()]) + link
        end = match.end()
    return found + escape(text[end:])
