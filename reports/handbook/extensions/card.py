"""Placeholder of the directive that shows the card of a family."""

from __future__ import annotations

from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers nothing."""
    return {"parallel_read_safe": True}
