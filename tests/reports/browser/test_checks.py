"""The checks accept a page that keeps every rule, and refuse each of its twins that breaks one."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from . import checks
from .records import link_equals_record, record_at

PAGE = Path(__file__).with_name("model.html").read_text()
RESULT = json.loads(re.findall(r'id="result">(.*?)</script>', PAGE, re.S)[0])
pytestmark = pytest.mark.browser
ANSWER = "gpt suffices at 3 calls"

Check = Callable[[Browser, Path], None]
CHECKS: dict[str, Check] = {
    "quiet": checks.loads_quietly,
    "scriptless": checks.readable_without_scripts,
    "accessible": checks.accessible,
    "phone": partial(checks.nothing_overlaps, width=390),
    "tablet": partial(checks.nothing_overlaps, width=768),
    "desktop": partial(checks.nothing_overlaps, width=1400),
    "first screen": checks.first_screen_answers,
    "records": partial(checks.numbers_equal_records, result=RESULT),
    "selections": checks.selections_redraw,
    "filters": checks.filters_hide_rows,
    "sort": checks.tables_sort,
    "dialog": partial(checks.records_open, result=RESULT),
    "downloads": partial(checks.downloads_are_the_result, result=RESULT),
    "open all": checks.details_open_at_once,
    "keyboard": checks.keyboard_reaches_everything,
    "dark": checks.dark_is_readable,
    "print": checks.prints,
    "inert": partial(checks.inert, scripts=2, shown=[ANSWER]),
    "time": partial(checks.opened_within, seconds=20.0),
}
# Check, a text of the page, what replaces it in the twin, and what the check says of the twin.
TWINS = [
    ("quiet", '"use strict";', 'console.warn("loud");', "warning: loud"),
    ("quiet", '"use strict";', "undefined.x;", "uncaught"),
    ("quiet", "<h1>", '<img alt="" src="https://host.invalid/x.png"><h1>', "console says"),
    ("quiet", "img-src data:", "img-src https://host.invalid", "policy allows"),
    ("quiet", 'data:">', 'file:"><img alt="" src="page.html?x">', "asked for: .*html.x"),
    ("quiet", "default-src 'none'; ", "", "without default-src"),
    ("quiet", "script-src ", "script-src 'unsafe-eval' ", "allows eval"),
    ("quiet", "<meta charset", "<script></script><meta charset", "behind a script"),
    ("scriptless", f"On rows.npy: {ANSWER}; maskgit cannot.", "", "no answer"),
    ("scriptless", "<td>cannot</td>", "<td>no</td>", "lacks the words"),
    ("scriptless", '"maskgit" data-outcome="cannot"', '"maskgit" data-outcome="can"', "lacks"),
    ("scriptless", '<div class="controls" id="controls">', "<div><button>x</button>", "do nothing"),
    ("scriptless", "<p>It places one token after the other.</p>", "", "family-gpt is empty"),
    ("accessible", '<html lang="en">', "<html>", "html-has-lang"),
    ("accessible", "#eeeeee", "#333333", "axe, dark, folded: color-contrast"),
    ("accessible", "<p>It places", '<p style="color: #ddd">It places', "axe, light, open"),
    ("phone", "<h1>", '<div style="width: 500px">x</div><h1>', "pixels wide"),
    ("phone", 'class="scroller"', 'style="overflow: hidden; width: 9em"', "is cut off"),
    ("phone", "<h1>", '<h1 style="white-space: nowrap; font-size: 40px">', "pixels wide"),
    ("tablet", "h2>Is", 'h2 style="margin: 0 0 -30px">Is', "overlap"),
    (
        "tablet",
        "<td>undecided",
        '<td><span style="position: relative; left: 4em">undecided',
        "overlap",
    ),
    ("desktop", '<text x="10" y="60">', '<text x="12" y="24">', '"gpt" and "maskgit" of a chart'),
    ("desktop", "translate(300 110)", "translate(312 110)", '"calls" leaves its chart'),
    ("desktop", "<p>It places one", '<p style="margin-top: -20px">It places one', "open"),
    ("first screen", '<figure id="front"', '<figure style="margin-top: 50em" id="front"', "leaves"),
    ("records", ">12</a>", ">13</a>", "prints 13"),
    ("records", "2.99 [2.74, 3.25]", "2.99 [2.74, 3.24]", "prints 3.24"),
    ("records", "0.00123 [0, ∞]", "0.00123 [−∞, ∞]", "prints −∞"),
    ("records", ">–</a>", ">0</a>", "prints 0"),
    ("records", ">0.00123 [0, ∞]</a>", ">–</a>", "lacks nothing"),
    ("records", "cells/0/model_calls", "cells/7/model_calls", "leads nowhere"),
    ("records", "JSON.parse(text);\nconst", "({});\nconst", "is not the run's"),
    ("selections", 'chart.setAttribute("data-drawn", id + select.value);', "", "1 drawings for"),
    ("selections", 'chart.setAttribute("data-drawn"', 'null.setAttribute("x"', "the console says"),
    ("filters", "row.hidden = !box.checked", "0", "there are other rows"),
    ("filters", "if (row.dataset.outcome === outcome)", "", "there are other rows"),
    ("filters", "checked: true", "checked: false", "not set at first"),
    ("sort", "parseFloat(x) - parseFloat(y)", "x.localeCompare(y)", "calls"),
    ("sort", "column > 1 ?", "column > 0 ?", "outcome"),
    ("sort", "return down ? -order : order", "return order", "descending"),
    ("sort", '(x === "–") - (y === "–")', '(y === "–") - (x === "–")', "unknown first"),
    ("sort", 'one.removeAttribute("aria-sort")', "0", "sorted by them"),
    ("dialog", "JSON.stringify(record, null, 1)", '"{}"', "does not show"),
    ("dialog", "dialog.showModal();", "dialog.show(); dialog.focus();", "Escape is idle"),
    (
        "dialog",
        "dialog.showModal();",
        "dialog.showModal(); dialog.onclose = () => all.focus();",
        "f",
    ),
    ("downloads", 'offer("json", () => text)', "offer(\"json\", () => '{}')", "not the result"),
    ("downloads", 'value ?? ""', "value ?? 0", "lacks its value None"),
    ("downloads", "lines.push([family", "lines.push([0", "lacks its family"),
    ("downloads", "const lines = [[", "const lines = [[0, 0, 0], [", "estimates"),
    ("open all", "one.open = true", "one.open = !one.id.endsWith('t')", "stays folded"),
    (
        "keyboard",
        ":focus-visible { outline: 2px solid",
        ":focus { outline: 0 solid",
        "cannot be seen",
    ),
    ("keyboard", 'type: "checkbox"', 'tabIndex: -1, type: "checkbox"', "does not reach .'filter'"),
    ("keyboard", "const down =", "event.detail || event.stop(); const down =", "Enter does not"),
    ("dark", "prefers-color-scheme: dark", "prefers-color-scheme: none", "tone"),
    ("dark", "svg text { fill: var(--ink)", "svg text { fill: #1b1b1b", "changed to dark"),
    ("dark", '<rect width="320" height="120" fill="none"', '<rect width="99" height="99"', "light"),
    ("print", 'addEventListener("beforeprint"', 'addEventListener("never"', "folded"),
    ("print", "@media screen and (prefers", "@media (prefers", "paper has the tone"),
    ("print", ".controls, thead button { display", ".x { display", "controls are printed"),
    ("inert", ANSWER, f"{ANSWER}<script></script>", "3 scripts"),
    ("inert", ANSWER, f'{ANSWER}<b onclick="x">', "attributes are scripts"),
    ("inert", ANSWER, f'{ANSWER}<a href="javascript:x">', "attributes are scripts"),
    ("inert", ANSWER, f"{ANSWER}\u202e", "U\\+202E"),
    ("inert", ANSWER, f'{ANSWER}<b title="\u202e">', "U\\+202E"),
    ("inert", ANSWER, "hidden", "is not shown"),
    ("inert", '"use strict";', "alert(1);", "opened"),
]


@pytest.fixture
def page(tmp_path: Path) -> Callable[[str], Path]:
    def written(text: str) -> Path:
        (tmp_path / "page.html").write_text(text)
        return tmp_path / "page.html"

    return written


@pytest.mark.parametrize("name", CHECKS)
def test_a_page_that_keeps_every_rule_passes(
    browser: Browser, page: Callable[[str], Path], name: str
) -> None:
    CHECKS[name](browser, page(PAGE))


@pytest.mark.parametrize(("name", "old", "new", "says"), TWINS)
def test_a_page_that_breaks_a_rule_is_refused(
    browser: Browser,
    page: Callable[[str], Path],
    name: str,
    old: str,
    new: str,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.reports.browser.visits.WAIT", 0.3)
    assert old in PAGE
    with pytest.raises(AssertionError, match=says):
        CHECKS[name](browser, page(PAGE.replace(old, new)))


def test_a_slow_page_is_refused(browser: Browser, page: Callable[[str], Path]) -> None:
    with pytest.raises(AssertionError, match="more than 0"):
        checks.opened_within(browser, page(PAGE), seconds=0.0)


def test_no_event_loop_is_left_running_outside_of_a_test(running_browser: Any) -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()


@pytest.mark.parametrize(
    ("text", "record"),
    [
        ("W2 0.31 [0.2, ∞]", {"value": 0.3149, "low": 0.2, "high": "Infinity"}),
        ("1e-05", 1.04e-5),
        ("1.2 × 10⁻⁵", 1.2345e-5),
        ("1,234", 1234),
        ("95 %", 0.95),
        ("−0.5", -0.4996),
        ("0.5", 0.4996),  # 0.500 without its last zeros
        ("0.13", 0.125),  # a half goes up in browsers
        ("0.12", 0.125),  # and to the even digit in Python
        ("100", 99.96),
        ("length 8, steps 16", {"length": 8, "steps": 16}),
        ("kl is at least 33.5 times its tolerance", "kl is at least 33.5 times its tolerance"),
        ("–", None),
        ("–", {"value": None, "low": "NaN"}),
    ],
)
def test_a_number_that_is_rounded_to_its_digits_passes(text: str, record: Any) -> None:
    link_equals_record(text, "/a~1b/0", {"a/b": [record]})


@pytest.mark.parametrize(
    ("text", "record"),
    [
        ("0.31", 0.3151),
        ("0.310", 0.3149),  # three digits are 0.315
        ("1", 0.6),  # one digit is 0.6
        ("0", 0.3),
        ("0", 1e-300),
        ("1200", 1234),
        ("10", 9.6),
        ("−0.5", 0.5),
        ("∞", 1e308),
        ("1e-05", 1e-4),
        ("95", 0.95),
        ("0.5", None),
        ("1", True),
        ("–", {"value": 0.5}),
        ("35 times", "33.5 times"),
    ],
)
def test_a_number_that_is_not_its_record_is_refused(text: str, record: Any) -> None:
    with pytest.raises(AssertionError):
        link_equals_record(text, "/a~1b/0", {"a/b": [record]})


@pytest.mark.parametrize("pointer", ["a", "/b", "/a/2", "/a/-1", "/a/0/c", "/a/x"])
def test_a_pointer_that_leads_nowhere_is_refused(pointer: str) -> None:
    with pytest.raises(AssertionError, match=r"pointer|nowhere"):
        record_at({"a": [1, 2]}, pointer)
