"""Checks of a report in a real browser; each opens the page afresh, and asserts.

A check says in its docstring what holds of every page, and has a page in `test_checks.py` that it
must refuse. Checks of the layout, of records, of controls and of appearance have a file each.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from .appearance import dark_is_readable, prints
from .controls import (
    details_open_at_once,
    downloads_are_the_result,
    filters_hide_rows,
    keyboard_reaches_everything,
    records_open,
    selections_redraw,
    tables_sort,
)
from .layout import WIDTHS, first_screen_answers, nothing_overlaps
from .records import numbers_equal_records
from .visits import Visit, open_details, opened

__all__ = [
    "VERDICTS",
    "WIDTHS",
    "accessible",
    "dark_is_readable",
    "details_open_at_once",
    "downloads_are_the_result",
    "filters_hide_rows",
    "first_screen_answers",
    "inert",
    "keyboard_reaches_everything",
    "loads_quietly",
    "nothing_overlaps",
    "numbers_equal_records",
    "opened_within",
    "prints",
    "readable_without_scripts",
    "records_open",
    "scripts_of",
    "selections_redraw",
    "tables_sort",
]

VERDICTS = {  # the words of a verdict, by the outcome of a row
    "can": "can",
    "cannot": "cannot",
    "undecided": "undecided",
    "not-measured": "not measured",
}
GRAVE = ("serious", "critical")
TRIES = 3  # loads of a timed page; the fastest counts, as a machine may be busy
BIDI = "".join(map(chr, [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]))

POLICY = """() => {
    const found = document.querySelector('meta[http-equiv="Content-Security-Policy" i]');
    const first = document.querySelector("script");
    const early = found && (!first
        || found.compareDocumentPosition(first) & Node.DOCUMENT_POSITION_FOLLOWING);
    return [found ? found.content : "", Boolean(early)];
}"""
ROWS = """() => [...document.querySelectorAll("table#families tbody tr[data-outcome]")]
    .map(row => [row.dataset.family, row.dataset.outcome, row.checkVisibility(), row.innerText])"""
# Texts and named attributes of everything but scripts and styles, and attributes that are scripts.
TEXTS = """() => {
    const walk = document.createTreeWalker(document.documentElement, NodeFilter.SHOW_TEXT);
    const texts = [];
    while (walk.nextNode()) {
        if (!walk.currentNode.parentElement.matches("script, style")) {
            texts.push(walk.currentNode.data);
        }
    }
    const live = [];
    for (const element of document.querySelectorAll("*")) for (const { name, value } of
            element.attributes) {
        if (["title", "aria-label", "alt", "value"].includes(name)) texts.push(value);
        if (name.startsWith("on") || /^\\s*javascript:/i.test(value)) live.push(`${name}=${value}`);
    }
    return [texts.join("\\n"), live];
}"""


def loads_quietly(browser: Browser, path: Path) -> None:
    """The page loads without an error, a warning or a request, under a strict policy.

    No message of type error or warning reaches the console, no error is uncaught, nothing but the
    file itself and `data:` or `blob:` addresses is asked for, also once everything is open. The
    content security policy stands before the first script, begins with `default-src 'none'`, and
    allows neither `unsafe-eval` nor any host.
    """
    with opened(browser, path) as visit:
        policy, early = visit.page.evaluate(POLICY)
        open_details(visit)
        _is_quiet(visit)
    rules = {words[0]: words[1:] for rule in policy.split(";") if (words := rule.split())}
    assert rules.get("default-src") == ["'none'"], f"policy without default-src 'none': {policy!r}"
    allowed = {source for sources in rules.values() for source in sources}
    assert "'unsafe-eval'" not in allowed, f"the policy allows eval: {policy!r}"
    hosts = {s for s in allowed if not s.startswith("'") and s not in ("data:", "blob:")}
    assert not hosts, f"the policy allows {sorted(hosts)}"
    assert early, "the policy stands behind a script, which it does not concern"


def readable_without_scripts(browser: Browser, path: Path) -> None:
    """Without scripts, the answer, every verdict and every family's section can be read.

    Each row of the table has the words of its outcome. Each section opens by a click on its summary
    and has text. No control that needs a script is visible.
    """
    with opened(browser, path, scripts=False) as visit:
        page = visit.page
        assert page.locator("h1").first.inner_text().strip(), "no title"
        assert page.locator("#answer").inner_text().strip(), "no answer"
        rows = page.evaluate(ROWS)
        assert rows, "no rows in the table of families"
        for family, outcome, visible, text in rows:
            words = VERDICTS[outcome]
            assert visible, f"the row of {family} is hidden"
            assert words in text.splitlines() or f" {words} " in f" {' '.join(text.split())} ", (
                f"the row of {family} lacks the words {words!r}: {text!r}"
            )
        controls = page.locator("main :is(button, select, input):visible").count()
        assert not controls, f"{controls} controls are visible that do nothing without scripts"
        sections = page.locator("details.family")
        assert sections.count(), "no sections of families"
        for section in sections.all()[:5]:  # all are made alike, and a click takes 50 ms
            name = section.get_attribute("id")
            if section.get_attribute("open") is None:
                section.locator("summary").first.click()
            assert section.get_attribute("open") is not None, f"{name} does not open"
            title = section.locator("summary").first.inner_text()
            assert len(section.inner_text()) > len(title.strip()) + 1, f"{name} is empty"


def accessible(browser: Browser, path: Path) -> None:
    """An accessibility checker finds no violation that is serious or critical.

    axe looks at the page in light and in dark colours, folded and with everything open.
    """
    for scheme in ("light", "dark"):
        with opened(browser, path, scheme=scheme) as visit:
            for state in ("folded", "open"):
                if state == "open":
                    open_details(visit)
                violations = Axe().run(visit.page).response["violations"]
                grave = [_told(one) for one in violations if one["impact"] in GRAVE]
                assert not grave, f"axe, {scheme}, {state}: " + "\n".join(grave)


def inert(browser: Browser, path: Path, *, scripts: int, shown: Iterable[str]) -> None:
    """Texts that come from users are shown, and do nothing.

    The page has no script of its own beyond `scripts`, no attribute is a script, no dialog and no
    window opens, and no text contains a character that turns the direction of what follows, such
    as U+202E. Loading is quiet.

    Args:
        browser: The browser.
        path: File of the page.
        scripts: Number of script elements of a harmless page of the same kind.
        shown: Hostile strings that the page must show as they are.
    """
    with opened(browser, path) as visit:
        open_details(visit)
        texts, live = visit.page.evaluate(TEXTS)
        count = visit.page.evaluate("() => document.scripts.length")
        _is_quiet(visit)
        assert not visit.dialogs, f"opened: {visit.dialogs}"
    assert count == scripts, f"{count} scripts, and a harmless page has {scripts}"
    assert not live, f"attributes are scripts: {live}"
    turning = sorted({f"U+{ord(c):04X}" for c in texts if c in BIDI})
    assert not turning, f"the page's text contains {turning}"
    for text in shown:
        assert text in texts, f"{text!r} is not shown"


def scripts_of(browser: Browser, path: Path) -> int:
    """Number of script elements of a page once it is drawn."""
    with opened(browser, path) as visit:
        open_details(visit)
        count: int = visit.page.evaluate("() => document.scripts.length")
    return count


def opened_within(browser: Browser, path: Path, *, seconds: float) -> None:
    """The page is loaded and its first chart is drawn within some seconds, in one try of three."""
    times = []
    for _ in range(TRIES):
        context = browser.new_context()
        page = context.new_page()
        begin = time.monotonic()
        page.goto(path.absolute().as_uri(), wait_until="load")
        page.locator("figure#front .chart svg").first.wait_for(state="visible")
        times.append(time.monotonic() - begin)
        context.close()
        if times[-1] <= seconds:
            return
    raise AssertionError(f"opened within {min(times):.2f} seconds, more than {seconds:g}")


def _is_quiet(visit: Visit) -> None:
    """Nothing was reported to the console, and nothing but the page itself was asked for."""
    assert not visit.messages, f"the console says: {visit.messages}"
    others = [
        request
        for request in visit.requests
        if request.split("#")[0] != visit.address and not request.startswith(("data:", "blob:"))
    ]
    assert not others, f"asked for: {others}"


def _told(violation: dict[str, Any]) -> str:
    """A violation with the first elements that it concerns."""
    nodes = "; ".join(node["html"][:120] for node in violation["nodes"][:3])
    return f"{violation['id']} ({violation['impact']}, {len(violation['nodes'])}): {nodes}"
