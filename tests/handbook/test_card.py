"""The directive of the handbook that shows the card of a family."""

from __future__ import annotations

import html
import io
import re
from pathlib import Path

import pytest
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

from capcheck.cli.catalogue import card_entries, option_rows
from capcheck.procedures.registry import build_probe, families

EXTENSIONS = Path(__file__).parents[2] / "reports" / "handbook" / "extensions"


def built(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """The page that a text makes, and the warnings of the build."""
    monkeypatch.syspath_prepend(str(EXTENSIONS))
    source, out = folder / "source", folder / "out"
    source.mkdir()
    conf = 'extensions = ["myst_parser", "card"]\nhtml_theme = "basic"\n'
    (source / "conf.py").write_text(conf)
    (source / "index.md").write_text(text, encoding="utf-8")
    warnings = io.StringIO()
    with patch_docutils(source), docutils_namespace():
        Sphinx(source, source, out, out / "doctrees", "html", status=None, warning=warnings).build()
    return (out / "index.html").read_text(encoding="utf-8"), warnings.getvalue()


def shown(page: str) -> str:
    """The words of a page, without tags and spaces."""
    return plain(html.unescape(re.sub(r"<[^>]*>", " ", page)))


def plain(text: str) -> str:
    """A text without the spaces that tags leave, and without backticks."""
    return re.sub(r"[\s`]", "", text)


def test_a_card_says_all_that_the_command_line_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = "\n\n".join(f"## {family}\n\n```{{card}} {family}\n```" for family in families())
    page, warnings = built(tmp_path, f"# Cards\n\n{cards}\n", monkeypatch)
    assert warnings == ""
    words = shown(page)
    for family in families():
        probe = build_probe(family)
        title, entries = card_entries(probe)
        assert plain(title) in words
        for label, text in entries:
            assert plain(label + text) in words, (family, label)
        for row in option_rows(probe):
            assert plain("".join(row)) in words, (family, row)
    assert 'href="https://arxiv.org/abs/2202.04200"' in page  # the paper of maskgit
    assert not re.search(r'href="https?:[^"]*[.;,)]"', page)  # the sentence goes on after a link


def test_a_card_of_no_family_is_one_clear_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, warnings = built(tmp_path, "# Cards\n\n```{card} maskgti\n```\n\nafter\n", monkeypatch)
    (warning,) = warnings.splitlines()
    assert "index.md:3: WARNING: card: family 'maskgti' is not registered" in warning
    assert "did you mean 'maskgit'?" in warning
    assert "after" in page
    assert "family-card" not in page
