"""Formulas as MathML: LaTeX is translated when the site is made, and no script draws anything.

Browsers set MathML by themselves. The LaTeX stays in `alttext`.
"""

from __future__ import annotations

from html import escape
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

__all__ = ["mathml", "setup"]

LOGGER = logging.getLogger(__name__)


def mathml(latex: str, *, block: bool = False) -> str:
    """Translates a formula.

    Args:
        latex: The formula, without dollars.
        block: Whether it stands on lines of its own.

    Raises:
        ExtensionError: The formula is not LaTeX that can be translated.
    """
    try:
        found = convert(latex, display="block" if block else "inline")
    except Exception as error:  # of many classes, some of which are built in
        raise ExtensionError(f"formula {latex!r}: {type(error).__name__} {error}") from error
    if "<mtext>\\" in found or "<mi>\\" in found:  # it was copied as it is
        raise ExtensionError(f"formula {latex!r} has a command that is not known")
    told = escape(latex.strip(), quote=True)
    return str(found).replace("<math ", f'<math alttext="{told}" ', 1)


def _inline(writer: Any, node: nodes.math) -> None:
    writer.body.append(_translated(node, node.astext(), block=False))
    raise nodes.SkipNode


def _block(writer: Any, node: nodes.math_block) -> None:
    anchor = f' id="{node["ids"][0]}"' if node.get("ids") else ""
    writer.body.append(f'<div class="math"{anchor}>')
    if node.get("number"):
        number = get_node_equation_number(writer, node)
        writer.body.append(f'<span class="eqno">({number})</span>')
    writer.body.append(_translated(node, node.astext(), block=True) + "</div>\n")
    raise nodes.SkipNode


def _translated(node: nodes.Element, latex: str, *, block: bool) -> str:
    try:
        return mathml(latex, block=block)
    except ExtensionError as error:
        LOGGER.warning("%s", error, location=node)
        return ""


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the renderer under the name `mathml`."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
