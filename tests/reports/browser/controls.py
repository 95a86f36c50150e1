"""Checks of the controls: each does its work, by mouse and by keyboard, and reports no error."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Locator

from .records import normal_json, record_at
from .visits import Visit, opened, settle, until

__all__ = [
    "details_open_at_once",
    "downloads_are_the_result",
    "filters_hide_rows",
    "keyboard_reaches_everything",
    "records_open",
    "selections_redraw",
    "tables_sort",
]

MOST_TABS = 1000  # presses of Tab after which the focus counts as caught
NUMBER = re.compile(r"[-−]?(\d[\d,\u202f]*(\.\d+)?([eE][-+]?\d+)?|∞)(?![A-Za-z\d])")
MISSING = ("", "–", "—", "∅", "none")

# Texts of the visible rows' cells in each column, by group; a cell's `data-sort` replaces its text.
COLUMN = """button => {
    const table = button.closest("table"), taken = [];
    let column = 0;
    [...table.tHead.rows].forEach((row, r) => {  // places of cells that span rows or columns
        let c = 0;
        for (const cell of row.cells) {
            while (taken[r]?.[c]) c++;
            if (cell === button.closest("th")) column = c;
            for (let i = 0; i < cell.rowSpan; i++) for (let j = 0; j < cell.colSpan; j++) {
                (taken[r + i] ??= [])[c + j] = true;
            }
            c += cell.colSpan;
        }
    });
    return [...table.tBodies].map(body => [...body.rows]
        .filter(row => row.dataset.family !== undefined && row.checkVisibility())
        .map(row => {
            let c = 0;
            for (const cell of row.cells) {
                if (c <= column && column < c + cell.colSpan) {
                    return cell.dataset.sort ?? cell.innerText.trim();
                }
                c += cell.colSpan;
            }
            return "";
        }));
}"""
# Whether texts rise in some alphabet: that of code points, or that of the browser, which may count
# digits as numbers.
RISES = """texts => [null, false, true].some(numeric => texts.every((text, i) => {
    if (i === 0) return true;
    const [a, b] = [texts[i - 1].toLowerCase(), text.toLowerCase()];
    return numeric === null ? a <= b : a.localeCompare(b, "en", { numeric }) <= 0;
}))"""
FOCUSED = """() => {
    const element = document.activeElement;
    if (!element || element === document.body) return null;
    const style = getComputedStyle(element);
    const kind = element.matches("select, button[id]") ? "#" + element.id
        : element.matches("input[data-filter]") ? "filter"
        : element.matches("#families thead button") ? "sort"
        : element.matches("a[data-record]") ? "record"
        : element.matches("summary") ? "summary" : element.localName;
    const seen = style.outlineStyle !== "none" && style.outlineWidth !== "0px"
        || style.boxShadow !== "none";
    return [kind, seen, element.outerHTML.slice(0, 100)];
}"""


def selections_redraw(browser: Browser, path: Path) -> None:
    """Choosing a divergence or a scale draws the front chart anew, without an error."""
    with opened(browser, path) as visit:
        for name in ("divergence", "scale"):
            select = visit.page.locator(f"select#{name}")
            first = select.input_value()
            options: list[str] = select.locator("option").evaluate_all(
                "options => options.map(option => option.value)"
            )
            assert name != "scale" or sorted(options) == ["linear", "log"], f"scales: {options}"
            assert first in options, f"{name} {first!r} is none of {options}"
            drawings = {_front(visit)}
            for value in [*(option for option in options if option != first), first]:
                select.select_option(value)
                settle(visit)
                _no_error(visit)
                drawings.add(_front(visit))
            # The chart may show one of the divergences before any is chosen.
            least = len(options) - (name == "divergence")
            assert len(drawings) >= least, f"{name}: {len(drawings)} drawings for {options}"
            assert "" not in drawings, f"{name}: the front chart is empty"


def filters_hide_rows(browser: Browser, path: Path) -> None:
    """A filter's box, when cleared, hides the rows of its outcome and no others.

    All boxes are set at first. Every outcome in the table has its filter.
    """
    rows = "table#families tbody tr[data-outcome]"
    shown = f"""() => [...document.querySelectorAll({rows!r})]
        .filter(row => row.checkVisibility()).map(row => row.dataset.outcome)"""
    with opened(browser, path) as visit:
        page = visit.page
        everything = page.evaluate(shown)
        boxes = page.locator("input[data-filter]")
        named = [box.get_attribute("data-filter") for box in boxes.all()]
        assert everything, "no rows in the table of families"
        assert set(everything) <= set(named), f"outcomes {set(everything)}, filters of {named}"
        for box, outcome in zip(boxes.all(), named, strict=True):
            assert box.is_checked(), f"the filter of {outcome} is not set at first"
            box.uncheck()
            rest = [one for one in everything if one != outcome]
            assert page.evaluate(shown) == rest, f"without {outcome} there are other rows"
            box.check()
            assert page.evaluate(shown) == everything, f"with {outcome} there are other rows"
        _no_error(visit)


def tables_sort(browser: Browser, path: Path) -> None:
    """A button in the table's head sorts the rows of all groups, first one way, then the other.

    A column of numbers is sorted by number, another by letter; cells without a value come last.
    `aria-sort` of the column says the direction, and no other column says one. No row is lost.
    """
    with opened(browser, path) as visit:
        page = visit.page
        buttons = page.locator("table#families thead button")
        assert buttons.count(), "the table has no buttons to sort it by"
        for button in buttons.all():
            title, before = button.inner_text(), button.evaluate(COLUMN)
            directions = []
            for _ in range(2):
                button.click()
                sort = button.locator("xpath=ancestor::th").get_attribute("aria-sort") or ""
                directions.append(sort)
                after = [text for group in button.evaluate(COLUMN) for text in group]
                count = page.locator("th[aria-sort=ascending], th[aria-sort=descending]").count()
                assert count == 1, f"{count} columns say that the table is sorted by them"
                lost = Counter(text for group in before for text in group) - Counter(after)
                assert not lost, f"sorting by {title} loses {lost}"
                _is_sorted(visit, after, f"{title}, {sort}", down=sort == "descending")
            assert sorted(directions) == ["ascending", "descending"], f"{title}: {directions}"
        _no_error(visit)


def records_open(browser: Browser, path: Path, result: Mapping[str, Any]) -> None:
    """A number opens its record in a dialog by Enter; Escape closes it, and the focus returns.

    The first, a middle and the last visible number are tried, the first also by a click.

    Args:
        browser: The browser.
        path: File of the page.
        result: The run's JSON.
    """
    dialog = "dialog#record"
    with opened(browser, path) as visit:
        page = visit.page
        links = page.locator("a[data-record]:visible").all()
        assert links, "no visible number links to its record"
        for number, link in enumerate([links[0], links[0], links[len(links) // 2], links[-1]]):
            pointer = link.get_attribute("data-record") or ""
            if number == 0:
                link.click()
            else:
                link.focus()
                page.keyboard.press("Enter")
            page.locator(f"{dialog}[open]").wait_for(state="visible")
            texts = page.locator(f"{dialog} *").evaluate_all("all => all.map(x => x.textContent)")
            expected = normal_json(record_at(result, pointer))
            assert expected in map(_parsed, texts), f"the dialog does not show {pointer}"
            page.keyboard.press("Escape")
            until(lambda: not page.locator(f"{dialog}[open]").count(), otherwise="Escape is idle")
            focused = link.evaluate("link => document.activeElement === link")
            assert focused, f"the focus does not return to the number of {pointer}"
        _no_error(visit)


def downloads_are_the_result(browser: Browser, path: Path, result: Mapping[str, Any]) -> None:
    """The JSON file equals the result, and the CSV file has one line per cell and divergence.

    A line names its family and its divergence, and has the value, which is empty if it is unknown.

    Args:
        browser: The browser.
        path: File of the page.
        result: The run's JSON.
    """
    with opened(browser, path) as visit:
        whole = json.loads(_download(visit, "json"))
        lines = list(csv.reader(io.StringIO(_download(visit, "csv"), newline="")))
        _no_error(visit)
    assert normal_json(whole) == normal_json(result), "the JSON file is not the result"
    expected = [
        (family["family"], family.get("network", {}), name, estimate["value"])
        for family in result["families"]
        for cell in family["cells"]
        for name, estimate in cell["estimates"].items()
    ]
    assert len(lines) == 1 + len(expected), f"{len(lines) - 1} lines of {len(expected)} estimates"
    assert {len(line) for line in lines} == {len(lines[0])}, "lines of the CSV differ in length"
    for line, (family, network, name, value) in zip(lines[1:], expected, strict=True):
        whose = network.get("name", network.get("kind", ""))
        assert not whose or whose in line, f"a line lacks its network {whose!r}: {line}"
        assert family in line, f"a line lacks its family {family!r}: {line}"
        assert name in line, f"a line lacks its divergence {name}: {line}"
        numbers = [_float(cell) for cell in line]
        assert ("" in line) if value is None else (_float(str(value)) in numbers), (
            f"a line lacks its value {value}: {line}"
        )


def details_open_at_once(browser: Browser, path: Path) -> None:
    """The button `open-all` opens everything that is folded, and its charts are drawn."""
    with opened(browser, path) as visit:
        visit.page.locator("button#open-all").click()
        closed = visit.page.locator("details:not([open])")
        until(lambda: not closed.count(), otherwise="a section stays folded")
        settle(visit)
        _no_error(visit)


def keyboard_reaches_everything(browser: Browser, path: Path) -> None:
    """Tab reaches every kind of control and leaves it again; Enter, Space and arrows work them.

    Whatever has the focus shows it by an outline or a shadow.
    """
    wanted = {"#divergence", "#scale", "#download-json", "#download-csv", "#open-all"}
    wanted |= {"filter", "sort", "record", "summary"}
    with opened(browser, path) as visit:
        page = visit.page
        reached: set[str] = set()
        for _ in range(MOST_TABS):
            page.keyboard.press("Tab")
            focused = page.evaluate(FOCUSED)
            if focused is None:  # before the first element, or behind the last
                if reached:
                    break
                continue
            kind, seen, text = focused
            assert seen, f"the focus cannot be seen on {text}"
            reached.add(kind)
        else:
            raise AssertionError(f"Tab does not leave the page within {MOST_TABS} presses")
        assert wanted <= reached, f"Tab does not reach {sorted(wanted - reached)}"
        scale = page.locator("select#scale")
        before = scale.input_value()
        _press(scale, "ArrowDown" if scale.evaluate("s => s.selectedIndex") == 0 else "ArrowUp")
        assert scale.input_value() != before, "an arrow key does not choose another scale"
        settle(visit)
        box = page.locator("input[data-filter]").first
        _press(box, "Space")
        assert not box.is_checked(), "Space does not clear a filter"
        _press(box, "Space")
        sort = page.locator("table#families thead button").first
        _press(sort, "Enter")
        head = sort.locator("xpath=ancestor::th").get_attribute("aria-sort")
        assert head in ("ascending", "descending"), "Enter does not sort"
        section = page.locator("details.family").first
        was = section.get_attribute("open") is None
        _press(section.locator("summary").first, "Enter")
        assert (section.get_attribute("open") is None) != was, "Enter does not open a section"
        _no_error(visit)


def _press(element: Locator, key: str) -> None:
    element.focus()
    element.page.keyboard.press(key)


def _front(visit: Visit) -> str:
    """The front chart's markup, or an empty text while there is none."""
    markup: str = visit.page.evaluate(
        "() => document.querySelector('figure#front .chart svg')?.outerHTML ?? ''"
    )
    return markup


def _no_error(visit: Visit) -> None:
    assert not visit.messages, f"the console says: {visit.messages}"


def _is_sorted(visit: Visit, texts: list[str], title: str, *, down: bool) -> None:
    """Texts are in order, by number if all are numbers; those of unknown values come last."""
    known = [text for text in texts if text not in MISSING]
    assert all(text in MISSING for text in texts[len(known) :]), f"{title}: unknown first: {texts}"
    rising = known[::-1] if down else known
    numbers = [_first_number(text) for text in rising]
    if all(number is not None for number in numbers):
        assert numbers == sorted(numbers, key=lambda x: x or 0.0), f"{title}: {texts}"
    else:
        assert visit.page.evaluate(RISES, rising), f"{title}: {texts}"


def _first_number(text: str) -> float | None:
    """The number that a text begins with, or None."""
    found = NUMBER.match(text)
    if found is None:
        return None
    return float(re.sub(r"[,\u202f]", "", found[0]).replace("−", "-").replace("∞", "inf"))


def _download(visit: Visit, kind: str) -> str:
    """The text of a file that a button of the page offers."""
    with visit.page.expect_download() as found:
        visit.page.locator(f"button#download-{kind}").click()
    name = found.value.suggested_filename
    assert name.endswith(f".{kind}"), f"the {kind} file is called {name!r}"
    return Path(found.value.path()).read_text(encoding="utf-8-sig")


def _parsed(text: str) -> Any:
    """The JSON value that a text is, or the text."""
    try:
        return normal_json(json.loads(text))
    except ValueError:
        return text


def _float(text: str) -> float | None:
    """The number that a text is, or None."""
    try:
        return float(text)
    except ValueError:
        return None
