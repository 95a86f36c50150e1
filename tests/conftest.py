"""Targets and tools that many tests share, and one headless Chromium per worker."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
import threadpoolctl
import torch

from capcheck.core.memory import keep_freed_memory
from capcheck.core.randomness import CounterRandomness, Randomness
from capcheck.data import Layout, load_target
from capcheck.targets import ProductMixture

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
keep_freed_memory()
os.environ["CAPCHECK_WORKERS"] = "1"  # commands that measure in this process start no others
os.environ.pop("COLUMNS", None)  # which readline sets where pytest starts workers
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers are as many as the cores
    threadpoolctl.threadpool_limits(1)  # idle threads of numpy and scikit-learn would spin
    os.environ["OMP_NUM_THREADS"] = "1"  # and so are the commands that tests start


class UnitDraws(Randomness):
    """Replays chosen normal draws: all zero, or one of them 1; row r replays draw r - 1."""

    def __init__(self) -> None:
        self.offset = 0

    def uniform(self, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.full(shape, 0.5, dtype=torch.float64)

    def normal(self, shape: tuple[int, ...]) -> torch.Tensor:
        draws = torch.zeros(shape, dtype=torch.float64)
        flat = draws.reshape(shape[0], -1)
        for row in range(1, shape[0]):
            place = row - 1 - self.offset
            if 0 <= place < flat.shape[1]:
                flat[row, place] = 1
        self.offset += flat.shape[1]
        return draws

    def stream(self, name: str) -> UnitDraws:
        return UnitDraws()


@pytest.fixture(scope="session")
def digits() -> ProductMixture:
    target = load_target("digits", Layout())
    assert isinstance(target, ProductMixture)
    return target


@pytest.fixture(scope="session")
def three() -> ProductMixture:
    """Three well-mixed components over three tokens."""
    return ProductMixture(
        torch.tensor(
            [[[-1.0], [0.5], [2.0]], [[0.3], [-0.7], [0.1]], [[1.2], [1.0], [-1.5]]],
            dtype=torch.float64,
        ),
        torch.tensor([[0.6], [0.8], [0.5]], dtype=torch.float64),
        torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64),
    )


@pytest.fixture
def rng() -> CounterRandomness:
    return CounterRandomness(7)


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(60, 4))


@pytest.fixture(scope="session")
def running_browser() -> Iterator[tuple[Browser, asyncio.AbstractEventLoop]]:
    """The browser, and the event loop that its calls run on."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser is installed: none of {', '.join(BROWSERS)} is found")
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
