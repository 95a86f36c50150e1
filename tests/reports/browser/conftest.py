"""One headless Chromium per worker, and pages that are opened in it."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def running_browser() -> Iterator[tuple[Browser, asyncio.AbstractEventLoop]]:
    """The browser, and the event loop that its calls run on."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no browser is installed: none of {', '.join(NAMES)} is found")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    driver = sync_playwright().start()
    loop = asyncio.get_running_loop()
    browser = driver.chromium.launch(executable_path=path, args=arguments)
    asyncio._set_running_loop(None)
    yield browser, loop
    asyncio._set_running_loop(loop)
    browser.close()
    driver.stop()
    asyncio._set_running_loop(None)


@pytest.fixture
def browser(running_browser: tuple[Browser, asyncio.AbstractEventLoop]) -> Iterator[Browser]:
    """The browser, for one test.

    Between two calls, playwright marks its event loop as the running one of the thread. The mark
    is removed after each test, as others would find themselves inside of a loop.
    """
    found, loop = running_browser
    asyncio._set_running_loop(loop)
    yield found
    asyncio._set_running_loop(None)
