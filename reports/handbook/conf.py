"""The settings by which Sphinx makes the handbook, a static site that loads nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from capcheck.core.version import __version__

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "capcheck"
author = "capcheck maintainers"
version = release = __version__
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml", "card"]
exclude_patterns = ["extensions", "pictures", "static"]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]  # annotations name types that have no page here

default_role = "code"  # docstrings have single backticks around code
add_module_names = False
autodoc_default_options = {"members": True, "exclude-members": "model_config, model_post_init"}
autodoc_member_order = "bysource"
autodoc_typehints = "description"  # of long signatures only the names are told
autodoc_typehints_format = "short"
autodoc_typehints_description_target = "documented"
autodoc_mock_imports = ["lightning", "transformers"]  # whose callbacks are documented
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = "capcheck handbook"
html_math_renderer = "mathml"
html_static_path = ["static"]
html_css_files = ["handbook.css"]
html_copy_source = False
html_use_index = False
html_domain_indices = False
html_show_sourcelink = False
html_show_sphinx = False
html_show_copyright = False
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"

linkcheck_timeout = 20  # seconds
linkcheck_workers = 2


def _accessible(app: Sphinx, page: str, template: str, context: Any, tree: Any) -> None:
    """Gives captions of the sidebar a level, and keyboards a way to scroll what is wide."""
    navigation = context.get("furo_navigation_tree", "")
    levels = navigation.replace('role="heading"', 'role="heading" aria-level="2"')
    context["furo_navigation_tree"] = levels
    body = context.get("body", "").replace("<pre>", '<pre tabindex="0">')
    wide = '<div class="table-wrapper'
    context["body"] = body.replace(wide, f'{wide[:4]} tabindex="0"{wide[4:]}')


def _open_defaults(
    app: Sphinx, what: str, name: str, found: object, options: Any, signature: str, returns: str
) -> tuple[str, str] | None:
    """Writes a default that the signature leaves open as it is written in Python."""
    return (signature.replace("Ellipsis", "..."), returns) if signature else None


def setup(app: Sphinx) -> None:
    """Connects what the settings cannot say."""
    app.connect("html-page-context", _accessible, priority=900)  # behind the theme's own
    app.connect("autodoc-process-signature", _open_defaults)
