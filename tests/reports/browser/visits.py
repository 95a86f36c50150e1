"""A visit is one page in a browser, with everything that happened since it was opened.

A visit records console messages, errors, requests and dialogs from before the page is loaded, so
that a check can say that there were none.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page

__all__ = ["HEIGHT", "WIDTH", "Visit", "open_details", "opened", "result_of", "settle", "until"]

WIDTH, HEIGHT = 1400, 900  # pixels of the first screen that the report is made for
WAIT = 5.0  # seconds until a change that has not come is an error

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
    """Opens a page, waits until its charts are drawn, and leaves it at last.

    The tab is the same for all pages, which saves half the time; the page that is left takes its
    storage and its windows with it.

    Args:
        browser: The browser.
        path: File of the page.
        width: Width of the viewport, in pixels.
        height: Height of the viewport, in pixels.
        scheme: Colour scheme that the user prefers.
        scripts: Whether scripts run.
    """
    page = _tab(browser, scripts)
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(media="screen", color_scheme=scheme)
    page.mouse.move(0, 0)
    visit = Visit(page=page, address=path.absolute().as_uri(), scripts=scripts)

    def asked(dialog: Dialog) -> None:
        visit.dialogs.append(dialog.message)
        dialog.dismiss()

    listeners: dict[Any, Callable[[Any], None]] = {
        "console": lambda message: _heard(visit, message),
        "pageerror": lambda error: visit.messages.append(f"uncaught: {error}"),
        "request": lambda request: visit.requests.append(request.url),
        "dialog": asked,
        "popup": lambda window: visit.dialogs.append(f"window: {window.url}"),
    }
    for event, listener in listeners.items():
        page.on(event, listener)
    try:
        page.goto(visit.address)
        settle(visit)
        yield visit
    finally:
        for event, listener in listeners.items():
            page.remove_listener(event, listener)
        _leave(page)


@cache
def _tab(browser: Browser, scripts: bool) -> Page:
    """A tab of the browser, one with scripts and one without."""
    context = browser.new_context(java_script_enabled=scripts)
    context.set_default_timeout(1000 * WAIT)  # milliseconds
    return context.new_page()


def _leave(page: Page) -> None:
    page.evaluate("() => { localStorage.clear(); sessionStorage.clear(); }")
    page.goto("about:blank")
    for window in page.context.pages:
        if window is not page:
            window.close()


def _heard(visit: Visit, message: ConsoleMessage) -> None:
    if message.type in ("error", "warning"):
        visit.messages.append(f"{message.type}: {message.text}")


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
