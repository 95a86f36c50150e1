from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from capcheck import survey
from capcheck.data import Layout, load_target
from capcheck.registry import report_writer
from capcheck.results import SurveyResult
from capcheck.targets import ProductMixture, from_spec

HOSTILE = "<script>alert('x')</script>&\"'.npy"


@pytest.fixture(scope="module")
def result(digits: ProductMixture) -> SurveyResult:
    return survey(digits, samples=400, lengths=[0, 8], steps=[1, 8])


@pytest.fixture(scope="module")
def page(result: SurveyResult) -> str:
    return report_writer()(result)


def outside_library(page: str) -> str:
    """The page without the chart library, which is the longest script."""
    return page.replace(max(re.findall(r"<script>.*?</script>", page, re.S), key=len), "")


def test_the_page_is_complete_and_of_bounded_size(page: str) -> None:
    assert len(page) < 8e6
    own = outside_library(page)
    assert len(own) < 1e6
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?(https?:)?//""", own)
    assert "default-src 'none'" in own


def test_the_page_says_what_the_result_says(page: str, result: SurveyResult) -> None:
    own = outside_library(page)
    words = {
        "representable": ">can<",
        "not_representable": ">cannot<",
        "inconclusive": ">undecided<",
    }
    for found in result.families:
        assert words[found.outcome.value] in own
        assert found.reason in own
        assert f'id="chart-{found.family}"' in own
        for cell in found.cells:
            value = cell.estimates["wasserstein"].value
            assert value is None or f"{value:.3g}" in own
    assert "deterministic map of the starting noise" in own
    assert result.target.fingerprint in own


def test_names_of_files_are_text(tmp_path: Path) -> None:
    if "/" in HOSTILE:
        name = HOSTILE.replace("/", "∕")
    np.save(tmp_path / name, np.random.default_rng(0).normal(size=(50, 3)))
    target = load_target(str(tmp_path / name), Layout())
    page = outside_library(report_writer()(survey(target, ["gpt"], samples=200, steps=[1])))
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def test_targets_without_pictures_are_shown_as_points() -> None:
    page = report_writer()(survey(from_spec("modes:tokens=2"), ["diffusion"], samples=200))
    assert "second coordinate" in page
