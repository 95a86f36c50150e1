"""A visit is one page in a browser, with everything that happened since it was opened.

A visit records console messages, errors, requests and dialogs from before the page is loaded, so that
a check can say that there were none.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page

__all__ = ["HEIGHT", "WIDTH", "Visit", "open_details", "opened", "result_of", "settle", "until"]

WIDTH, HEIGHT = 1400, 900  # pixels of the first screen that the report is made for
WAIT = 10.0  # seconds until a change that has not come is an error

DRAWN = """() => [...document.querySelectorAll("figure[data-chart] .chart")]
    .filter(chart => chart.checkVisibility() && !chart.querySelector("svg")).length === 0"""
FRAMES = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


@dataclass(frozen=True, kw_only=True)
class Visit:
    """A page, and its events.

    Attributes:
        page: The page.
        address: Its address.
        scripts: Whether the page's scripts run.
        messages: Texts of console messages of type error or warning, and of uncaught errors.
        requests: Addresses that were asked for.
        dialogs: Texts of dialogs (`alert`, `confirm`, `prompt`) and addresses of new windows.
    """

    page: Page
    address: str
    scripts: bool = True
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)


@contextmanager
def opened(
    browser: Browser,
    path: Path,
    *,
    width: int = WIDTH,
    height: int = HEIGHT,
    scheme: Literal["light", "dark"] = "light",
    scripts: bool = True,
) -> Iterator[Visit]:
    """Opens a page in a fresh context, waits until its charts are drawn, and closes it at last.

    Args:
        browser: The browser.
        path: File of the page.
        width: Width of the viewport, in pixels.
        height: Height of the viewport, in pixels.
        scheme: Colour scheme that the user prefers.
        scripts: Whether scripts run.
    """
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        java_script_enabled=scripts,
    )
    page = context.new_page()
    visit = Visit(page=page, address=path.absolute().as_uri(), scripts=scripts)

    def heard(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            visit.messages.append(f"{message.type}: {message.text}")

    def asked(dialog: Dialog) -> None:
        visit.dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("console", heard)
    page.on("pageerror", lambda error: visit.messages.append(f"uncaught: {error}"))
    page.on("request", lambda request: visit.requests.append(request.url))
    page.on("dialog", asked)
    page.on("popup", lambda window: visit.dialogs.append(f"window: {window.url}"))
    try:
        page.goto(visit.address)
        settle(visit)
        yield visit
    finally:
        context.close()


def until(happened: Callable[[], object], *, otherwise: str) -> None:
    """Waits until something has happened, and fails with a sentence if it does not.

    The page's own `wait_for_function` is not used, since it needs `unsafe-eval`.
    """
    deadline = time.monotonic() + WAIT
    while not happened():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.02)


def settle(visit: Visit) -> None:
    """Waits until every visible chart is drawn; does nothing if scripts are off."""
    if visit.scripts:
        until(lambda: visit.page.evaluate(DRAWN), otherwise="a visible chart has no svg")
        visit.page.evaluate(FRAMES)


def open_details(visit: Visit) -> None:
    """Opens everything that is folded, as a reader who clicks on all of it."""
    visit.page.evaluate(
        "() => document.querySelectorAll('details').forEach(one => { one.open = true })"
    )
    settle(visit)


def result_of(visit: Visit) -> Any:
    """The run's JSON, as the page holds it."""
    return json.loads(
        visit.page.evaluate("async () => JSON.stringify(await window.capcheckResult())")
    )
