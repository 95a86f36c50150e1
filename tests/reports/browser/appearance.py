"""Checks of appearance: dark colours can be read, and so can paper."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Browser

from .visits import Visit, open_details, opened, settle

__all__ = ["dark_is_readable", "prints"]

FAULTS = Path(__file__).with_name("appearance.js").read_text()
SHOWN = 10  # most faults that a message lists
BRIGHT, DIM = 0.8, 0.3  # mean of red, green and blue that bright paper exceeds, and dark text not

# Mean of red, green and blue of the page's background and of its text, 0..1.
TONES = """() => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const tone = colour => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
        return a === 0 ? null : (r + g + b) / 765;
    };
    const body = getComputedStyle(document.body), root = getComputedStyle(document.documentElement);
    return [tone(body.backgroundColor) ?? tone(root.backgroundColor) ?? 1,
            tone(getComputedStyle(document.querySelector("#answer")).color)];
}"""


def dark_is_readable(browser: Browser, path: Path) -> None:
    """The background follows the user's colour scheme, and texts keep their contrast in both.

    Also the texts of charts, each against what lies beneath its middle: 4.5, or 3 for large texts
    (WCAG 2, level AA). The scheme may change while the page is open.
    """
    with opened(browser, path) as visit:
        light, _ = visit.page.evaluate(TONES)
        open_details(visit)
        _has_contrast(visit, "light")
        visit.page.emulate_media(color_scheme="dark")
        settle(visit)
        dark, _ = visit.page.evaluate(TONES)
        assert dark < 0.5 < light, f"the background's tone is {light:.2f}, in the dark {dark:.2f}"
        _has_contrast(visit, "changed to dark")
    with opened(browser, path, scheme="dark") as visit:
        open_details(visit)
        _has_contrast(visit, "dark")


def prints(browser: Browser, path: Path) -> None:
    """On paper everything is open, controls are gone, and text is dark, whatever the scheme."""
    with opened(browser, path, scheme="dark") as visit:
        page = visit.page
        page.emulate_media(media="print", color_scheme="dark")
        page.evaluate("() => window.dispatchEvent(new Event('beforeprint'))")
        closed = page.locator("details:not([open])").count()
        assert not closed, f"{closed} sections are folded on paper"
        settle(visit)
        paper, ink = page.evaluate(TONES)
        assert paper > BRIGHT, f"paper has the tone {paper:.2f}"
        assert ink < DIM, f"ink has the tone {ink:.2f}"
        assert page.locator("#answer").is_visible(), "the answer is not printed"
        controls = page.locator("main :is(select, button[id], input):visible").count()
        assert not controls, f"{controls} controls are printed"
        pages = len(re.findall(rb"/Type\s*/Page\b", page.pdf()))
        assert pages, "the page does not print"
        assert not visit.messages, f"the console says: {visit.messages}"


def _has_contrast(visit: Visit, scheme: str) -> None:
    faults = visit.page.evaluate(FAULTS)
    first = "; ".join(faults[:SHOWN])
    assert not faults, f"{len(faults)} texts are faint, {scheme}: {first}"
