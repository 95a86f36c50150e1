"""The report of each kind of run passes the checks of `checks.py` in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import threadpoolctl
import torch
from playwright.sync_api import Browser

from capcheck.targets import ProductMixture

from . import checks
from .reports import HOSTILE_FAMILY, HOSTILE_FILE, RUNS, Report, written
from .visits import open_details, opened

pytestmark = pytest.mark.browser
EVERY = ("continuous", "text", "hostile", "unfinished", "many")
SMALL = ("continuous", "text", "hostile", "unfinished")
PROMISED = 2.0  # seconds within which a page of 5,000 cells opens on a machine of its own
SHARED = 3.0  # how much longer it may take beside other tests
CONTROLS = {
    "selections": checks.selections_redraw,
    "filters": checks.filters_hide_rows,
    "sort": checks.tables_sort,
    "open all": checks.details_open_at_once,
    "keyboard": checks.keyboard_reaches_everything,
}

Reports = Callable[[str], Report]


@pytest.fixture(scope="session")
def reports(three: ProductMixture, tmp_path_factory: pytest.TempPathFactory) -> Reports:
    """Makes the report of a kind of run when it is first asked for."""

    @cache
    def made(kind: str) -> Report:
        folder = tmp_path_factory.mktemp(kind)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # small runs are slower on many, where other tests run
        try:
            with threadpoolctl.threadpool_limits(1):
                run = RUNS[kind](three, folder)
        finally:
            torch.set_num_threads(threads)
        return written(run, folder / "report.html")

    return made


@pytest.mark.parametrize("kind", EVERY)
def test_it_loads_without_a_message_or_a_request(
    browser: Browser, reports: Reports, kind: str
) -> None:
    checks.loads_quietly(browser, reports(kind).path)


@pytest.mark.parametrize("kind", EVERY)
def test_it_can_be_read_without_scripts(browser: Browser, reports: Reports, kind: str) -> None:
    checks.readable_without_scripts(browser, reports(kind).path)


@pytest.mark.parametrize("kind", ["continuous", "text", "unfinished"])
def test_no_violation_of_accessibility_is_grave(
    browser: Browser, reports: Reports, kind: str
) -> None:
    checks.accessible(browser, reports(kind).path)


@pytest.mark.parametrize("width", checks.WIDTHS)
@pytest.mark.parametrize("kind", SMALL)
def test_nothing_overlaps(browser: Browser, reports: Reports, kind: str, width: int) -> None:
    checks.nothing_overlaps(browser, reports(kind).path, width=width)


@pytest.mark.parametrize("kind", ["continuous", "text"])
def test_the_first_screen_has_the_answer(browser: Browser, reports: Reports, kind: str) -> None:
    checks.first_screen_answers(browser, reports(kind).path)


@pytest.mark.parametrize("kind", EVERY)
def test_every_number_equals_its_record(browser: Browser, reports: Reports, kind: str) -> None:
    checks.numbers_equal_records(browser, reports(kind).path, reports(kind).result)


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("kind", ["continuous", "text"])
def test_controls_do_their_work(
    browser: Browser, reports: Reports, kind: str, control: str
) -> None:
    CONTROLS[control](browser, reports(kind).path)


@pytest.mark.parametrize("control", ["selections", "filters", "sort"])
def test_controls_do_their_work_with_many_cells(
    browser: Browser, reports: Reports, control: str
) -> None:
    CONTROLS[control](browser, reports("many").path)


@pytest.mark.parametrize("kind", SMALL)
def test_a_number_opens_its_record(browser: Browser, reports: Reports, kind: str) -> None:
    checks.records_open(browser, reports(kind).path, reports(kind).result)


@pytest.mark.parametrize("kind", EVERY)
def test_downloads_are_the_result(browser: Browser, reports: Reports, kind: str) -> None:
    checks.downloads_are_the_result(browser, reports(kind).path, reports(kind).result)


@pytest.mark.parametrize("kind", ["continuous", "text"])
def test_dark_colours_can_be_read(browser: Browser, reports: Reports, kind: str) -> None:
    checks.dark_is_readable(browser, reports(kind).path)


@pytest.mark.parametrize("kind", ["continuous", "text"])
def test_it_prints(browser: Browser, reports: Reports, kind: str) -> None:
    checks.prints(browser, reports(kind).path)


def test_hostile_names_and_texts_are_inert(browser: Browser, reports: Reports) -> None:
    scripts = checks.scripts_of(browser, reports("text").path)
    shown = [HOSTILE_FAMILY, HOSTILE_FILE]
    checks.inert(browser, reports("hostile").path, scripts=scripts, shown=shown)


def test_an_unfinished_run_says_what_is_missing(browser: Browser, reports: Reports) -> None:
    report = reports("unfinished")
    lacks = [found.error for found in report.run.families if found.error is not None]
    assert len(lacks) == 2  # of three families one is whole
    with opened(browser, report.path) as visit:
        open_details(visit)
        text = visit.page.locator("main").inner_text()
    for sentence in lacks:
        assert sentence[1:] in text  # it begins with a capital


def test_many_cells_open_at_once_and_weigh_little(browser: Browser, reports: Reports) -> None:
    report = reports("many")
    assert sum(len(found.cells) for found in report.run.families) == 5000
    assert report.path.stat().st_size < 4e6
    checks.opened_within(browser, report.path, seconds=SHARED * PROMISED)


@pytest.mark.parametrize("kind", SMALL)
def test_a_page_is_small(reports: Reports, kind: str) -> None:
    assert reports(kind).path.stat().st_size < 2e6
