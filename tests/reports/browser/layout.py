"""The layout check: nothing overlaps, and nothing leaves its place."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser

from .visits import HEIGHT, WIDTH, open_details, opened

__all__ = ["WIDTHS", "first_screen_answers", "nothing_overlaps"]

WIDTHS = (390, 768, 1400)  # pixels of a phone, a tablet and a desktop
FAULTS = Path(__file__).with_name("layout.js").read_text()
SHOWN = 10  # most faults that a message lists


def nothing_overlaps(browser: Browser, path: Path, *, width: int) -> None:
    """The page fits into a window of a width, and no two of its texts overlap.

    The page must not be wider than the window. Within each svg, no two visible texts may share
    more than 1 pixel (turned texts by their turned boxes), and none may leave the svg. Headings,
    captions, paragraphs, cells of tables, controls and charts must not overlap each other, nor
    leave the window unless a box around them scrolls. All this holds with everything folded and
    with everything open.

    Args:
        browser: The browser.
        path: File of the page.
        width: Width of the window, in pixels.
    """
    with opened(browser, path, width=width) as visit:
        for state in ("folded", "open"):
            if state == "open":
                open_details(visit)
            faults = visit.page.evaluate(FAULTS, width)
            first = "; ".join(faults[:SHOWN])
            assert not faults, f"{len(faults)} faults at {width} pixels, {state}: {first}"


def first_screen_answers(browser: Browser, path: Path) -> None:
    """The answer, the first row of the table and the front are whole on the first screen."""
    with opened(browser, path) as visit:
        for place in ("#answer", "table#families tbody tr", "figure#front .chart svg"):
            box = visit.page.locator(place).first.bounding_box()
            assert box is not None, f"{place} is not visible"
            bottom, right = box["y"] + box["height"], box["x"] + box["width"]
            inside = box["y"] >= 0 and bottom <= HEIGHT and box["x"] >= 0 and right <= WIDTH
            assert inside, f"{place} leaves the first screen: {box}"
