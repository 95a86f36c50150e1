"""The built site: no warnings, no link that leads nowhere, nothing from a network, readable."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from filelock import FileLock
from playwright.sync_api import Browser, Page

import capcheck
from capcheck import authoring, targets, testing

from .blocks import FOLDER

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
LOADED = {"img": "src", "script": "src", "link": "href", "source": "src", "iframe": "src"}
COLOURED = {"index", "family", "measuring", "steps"}
"""Pages below a folder that have all kinds of text between them; colours are the same on all."""
FROM_A_NETWORK = re.compile(r"(?:@import\s+|url\()[\"']?((?:https?:)?//[^\"')]+)")
CUT_OFF = Path(__file__).with_name("layout.js").read_text()
KINDS = {"stylesheet", "preload", "icon", "shortcut icon", "modulepreload", "preconnect"}
"""What a link element loads; other relations are addresses for readers of the source."""


class Addresses(HTMLParser):
    """Anchors, links and loaded files of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = {""}
        self.links: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        address = found.get(LOADED.get(tag, ""))
        if address and (tag != "link" or found.get("rel", "") in KINDS):
            self.loaded.append(address)


def addresses(path: Path) -> Addresses:
    """Anchors, links and loaded files of a page."""
    found = Addresses()
    found.feed(path.read_text(encoding="utf-8"))
    return found


def build(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Makes a site as `make handbook` does."""
    strict = ["-W", "--keep-going", "-q", "-b", "html"]
    command = [sys.executable, "-m", "sphinx", *strict, str(source), str(out)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=dict(os.environ)
    )


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The handbook, made once for all workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "handbook"
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            made = build(FOLDER, folder)
            assert made.returncode == 0, made.stderr
    return folder


def html(site: Path) -> Iterator[Path]:
    """The pages of the site."""
    return (path for path in sorted(site.rglob("*.html")) if "_static" not in path.parts)


def broken(site: Path) -> list[str]:
    """Links that lead nowhere, and addresses that are loaded from a network."""
    known = {path.resolve(): addresses(path) for path in html(site)}
    faults = []
    for path, found in known.items():
        for link in found.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if parts.scheme != "https" or "." not in parts.netloc or " " in link:
                    faults.append(f"{path.name} links to {link}")
                continue
            place = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not place.is_file():
                faults.append(f"{path.name} links to {link}, which does not exist")
            elif place in known and unquote(parts.fragment) not in known[place].anchors:
                faults.append(f"{path.name} links to {link}, whose anchor does not exist")
        for address in found.loaded:
            local = (path.parent / unquote(urlsplit(address).path)).resolve()
            if re.match(r"(https?:)?//", address) or not local.is_file():
                faults.append(f"{path.name} loads {address}")
    return faults


def test_the_handbook_is_made_without_warnings(site: Path) -> None:
    sources = {path.relative_to(FOLDER).with_suffix("") for path in FOLDER.rglob("*.md")}
    made = {path.relative_to(site).with_suffix("") for path in html(site)}
    assert sources <= made


@pytest.mark.parametrize(
    "fault", ["[x](nowhere.md)", "$\\frobnicate x$", "{nothing}`x`", "![x](none.svg)"]
)
def test_a_page_with_a_fault_is_not_made(fault: str, tmp_path: Path) -> None:
    settings = (FOLDER / "conf.py").read_text().replace("__file__", repr(str(FOLDER / "conf.py")))
    (tmp_path / "conf.py").write_text(settings.replace('"static"]', "]"))
    (tmp_path / "index.md").write_text(f"# A page\n\n{fault}\n")
    made = build(tmp_path, tmp_path / "out")
    assert made.returncode != 0, made.stderr


def test_every_link_leads_somewhere_and_nothing_comes_from_a_network(site: Path) -> None:
    assert not broken(site), "\n".join(broken(site))
    for style in site.rglob("*.css"):
        loaded = FROM_A_NETWORK.findall(style.read_text())
        assert not loaded, f"{style.name} loads {loaded}"


def test_every_public_name_is_documented(site: Path) -> None:
    pages = list((site / "api").glob("*.html"))
    anchors = {anchor for path in pages for anchor in addresses(path).anchors}
    text = (FOLDER / "api" / "authoring.md").read_text(encoding="utf-8")
    for module in (capcheck, authoring, targets, testing):
        names = {name for name in module.__all__ if f"{module.__name__}.{name}" not in anchors}
        if module is authoring:
            names = {name for name in names if f"| `{name}` |" not in text}
        assert names <= {"__version__", "authoring", "targets", "testing"}, module.__name__


def test_links_that_lead_nowhere_are_told(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(
        "<h1 id=here>x</h1><a href=#here>1</a><a href=#there>2</a><a href=none.html>3</a>"
        "<a href=http://example.org>4</a><a href=https://example.org>5</a>"
        "<script src=https://example.org/x.js></script><img src=none.png>"
    )
    told = broken(tmp_path)
    assert len(told) == 5
    for part in ("#there", "none.html", "http://", "x.js", "none.png"):
        assert any(part in one for one in told)


def test_no_page_asks_a_network_for_anything(browser: Browser, site: Path) -> None:
    context = browser.new_context()
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for path in html(site):
        page.goto(path.as_uri())
    context.close()
    assert asked
    assert not [one for one in asked if not one.startswith(("file:", "data:", "blob:"))]


def visited(
    browser: Browser, site: Path, width: int, scheme: Literal["light", "dark"]
) -> Iterator[tuple[Path, Page]]:
    """Every page of the site in a window of a width, in one colour scheme."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    for path in html(site):
        page.goto(path.as_uri())
        yield path, page
    context.close()


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1400])
def test_every_page_fits(browser: Browser, site: Path, width: int) -> None:
    faults = [
        f"{path.relative_to(site)}: {fault}"
        for path, page in visited(browser, site, width, "light")
        for fault in page.evaluate(CUT_OFF, width)
    ]
    assert not faults, "\n".join(faults)


def violations(page: Page, *, whole: bool, rules: dict[str, Any]) -> list[str]:
    """What axe finds to be serious or critical on a page, or in its text."""
    found = Axe().run(page, context=None if whole else "article", options=rules)
    return [
        f"{one['id']}, {[node['html'][:120] for node in one['nodes'][:3]]}"
        for one in found.response["violations"]
        if one["impact"] in ("serious", "critical")
    ]


@pytest.mark.browser
def test_every_page_is_accessible(browser: Browser, site: Path) -> None:
    rules = {"rules": {"color-contrast": {"enabled": False}}}  # which takes long, and is below
    faults = [
        f"{path.relative_to(site)}: {fault}"
        for path, page in visited(browser, site, 1400, "light")
        for fault in violations(page, whole=path.parent == site, rules=rules)
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_read(
    browser: Browser, site: Path, scheme: Literal["light", "dark"]
) -> None:
    faults = [
        f"{path.relative_to(site)}, {scheme}: {fault}"
        for path, page in visited(browser, site, 1400, scheme)
        if path.parent == site or path.stem in COLOURED
        for fault in violations(page, whole=True, rules={"runOnly": ["color-contrast"]})
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.browser
def test_what_is_not_accessible_is_told(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "x.html").write_text("<p style='color:#999'>faint</p><img src=x.png>")
    told = [
        fault
        for _, page in visited(browser, tmp_path, 1400, "light")
        for fault in violations(page, whole=True, rules={})
    ]
    assert {fault.split(",")[0] for fault in told} >= {"color-contrast", "image-alt"}


@pytest.mark.browser
def test_what_is_cut_off_is_told(browser: Browser, tmp_path: Path) -> None:
    wide = "<p style='width:2000px'>wide</p>"
    pages = {
        "cut": f"<article><div style='overflow:hidden'>{wide}</div></article>",
        "page": f"<article>{wide}</article>",
        "scrolls": f"<article><div style='overflow:auto'>{wide}</div></article>",
    }
    told = {}
    for name, text in pages.items():
        (tmp_path / f"{name}.html").write_text(text)
    for path, page in visited(browser, tmp_path, 390, "light"):
        told[path.stem] = page.evaluate(CUT_OFF, 390)
    assert any("is cut off" in one for one in told["cut"])
    assert any("pixels wide" in one for one in told["page"])
    assert not told["scrolls"]
