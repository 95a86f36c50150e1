"""The directive `card` shows the card of a family, as `capcheck families FAMILY` prints it.

    ```{card} gpt
    ```

The card is read from the family's module when the site is built, so that no page repeats by hand
what the code says. Addresses become links, and what stands between backticks becomes code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

from capcheck.cli.catalogue import OPTION_COLUMNS, card_entries, option_rows
from capcheck.core.errors import CapcheckError
from capcheck.procedures.registry import build_probe

__all__ = ["CardDirective", "setup"]

# An address does not end with the punctuation of the sentence around it.
MARKS = re.compile(r"(?P<link>https://[^\s)]*[\w/])|`(?P<code>[^`]+)`")


class CardDirective(SphinxDirective):
    """The card of the family that its argument names; a wrong name is a warning."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The title, the labelled entries and the table of options."""
        (family,) = self.arguments
        try:
            probe = build_probe(family)
        except CapcheckError as error:
            logging.getLogger(__name__).warning("card: %s", error, location=self.get_location())
            return []
        title, entries = card_entries(probe)
        card = nodes.container(classes=["family-card"])
        card["support_smartquotes"] = False  # primes of formulas and dashes of options stay
        card += nodes.paragraph("", "", nodes.strong(text=title))
        card += _definitions(entries)
        if rows := option_rows(probe):
            card += _table(OPTION_COLUMNS, rows)
        return [card]


def _definitions(entries: Sequence[tuple[str, str]]) -> nodes.definition_list:
    """Labels with their texts; every line of a text is a paragraph."""
    found = nodes.definition_list()
    for label, text in entries:
        body = nodes.definition()
        for line in text.splitlines():
            body += nodes.paragraph("", "", *_marked(line))
        found += nodes.definition_list_item("", nodes.term(text=label), body)
    return found


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> nodes.table:
    """A table whose first column is code."""
    group = nodes.tgroup(cols=len(columns))
    group += [nodes.colspec(colwidth=1) for _ in columns]
    group += nodes.thead("", _row([nodes.Text(name)] for name in columns))
    body = nodes.tbody()
    for name, *cells in rows:
        body += _row([[nodes.literal(text=name)], *(list(_marked(cell)) for cell in cells)])
    group += body
    return nodes.table("", group, classes=["options"])


def _row(cells: Iterator[list[nodes.Node]] | Sequence[list[nodes.Node]]) -> nodes.row:
    row = nodes.row()
    for cell in cells:
        row += nodes.entry("", nodes.paragraph("", "", *cell))
    return row


def _marked(text: str) -> Iterator[nodes.Node]:
    """A text with its addresses as links and its backticks as code."""
    end = 0
    for found in MARKS.finditer(text):
        if found.start() > end:
            yield nodes.Text(text[end : found.start()])
        if link := found["link"]:
            yield nodes.reference("", link, refuri=link)
        else:
            yield nodes.literal(text=found["code"])
        end = found.end()
    if end < len(text):
        yield nodes.Text(text[end:])


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register the directive."""
    app.add_directive("card", CardDirective)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
