from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import markupsafe
import numpy as np
import pytest
import torch

from capcheck import check, survey
from capcheck.data import Layout, load_target
from capcheck.laws import Categorical
from capcheck.registry import report_writer
from capcheck.results import SurveyResult
from capcheck.targets import ProductMixture, from_spec, from_table

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


SCRIPT = "<script>alert('x')</script> & \"quoted\" </pre></body>\n"


def test_a_text_that_is_markup_is_shown_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "tale.txt"
    path.write_text(60 * SCRIPT)
    target = load_target(str(path), Layout(tokens=16), law="markov:2")
    result = survey(target, ["gpt", "diffusion"], samples=200, lengths=[0, 16], steps=[1])
    page = outside_library(report_writer()(result))
    words = target.provenance.vocabulary
    assert words is not None
    for row in result.target.examples[:10]:
        string = "".join(words[token] for token in row)
        assert str(markupsafe.escape(string)) in page
    assert "<script>alert" not in page
    assert page.count("</body>") == 1
    assert "\\n" in page  # a line end is shown, and ends no line
    assert page.count("<pre>") == page.count("</pre>") == 3  # the target and two budgets


def test_samples_of_text_replace_the_pictures_of_samples(tmp_path: Path) -> None:
    path = tmp_path / "tale.txt"
    path.write_text("to be or not to be, that is the question; " * 20)
    target = load_target(str(path), Layout(tokens=8))
    result = survey(target, ["gpt"], samples=200, lengths=[0, 8], steps=[1])
    page = outside_library(report_writer()(result))
    assert 'id="samples-gpt"' not in page
    assert 'id="chart-gpt"' in page
    assert "windows of 8 characters" in page
    assert "tokens over" in page
    assert "Held-out log-likelihood" in page


def test_families_that_tokens_do_not_suit_are_listed_with_the_reason() -> None:
    result = survey(from_spec("parity:4"), samples=200, steps=[1])
    page = outside_library(report_writer()(result))
    assert "was not measured" in page
    assert "diffusion is defined for continuous tokens, not categorical ones." in page
    assert 'id="chart-diffusion"' not in page
    assert "W1" in page
    assert "W2" not in page


def figures(page: str) -> dict[str, Any]:
    """The data of the charts, as a browser reads them."""
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.S)
    assert found is not None
    data: dict[str, Any] = json.loads(found.group(1))
    return data


@pytest.mark.parametrize(
    ("spec", "height", "width"),
    [
        ("ising:rows=3,columns=2", 6 * (3 + 1), 6 * (2 + 1)),  # six by six, a gap after each
        ("latin:3", 6 * (3 + 1), 6 * (3 + 1)),
        ("parity:5", 36, 5),  # a sequence is a line
    ],
)
def test_grids_of_tokens_are_shown_as_images(spec: str, height: int, width: int) -> None:
    result = survey(from_spec(spec), ["gpt"], samples=200, lengths=[0], steps=[1])
    data = figures(report_writer()(result))
    first = data["samples-gpt"]["data"][0]
    canvas = np.array(first["z"], dtype=float)
    assert canvas.shape == (height, width)
    N, dim = result.target.tokens, result.target.dim
    rows = np.array(result.target.examples[:36])
    if result.target.grid is None:
        assert canvas.tolist() == rows.tolist()
    else:
        across, down = result.target.grid[::-1]
        second = canvas[:down, across + 1 : 2 * across + 1]
        assert second.tolist() == rows[1].reshape(down, across).tolist()
        assert np.isnan(canvas[down]).all()
    assert first["zmin"] < 0  # symbol 0 stands out from the page
    assert first["zmax"] == dim - 1
    assert rows.shape[1] == N


@pytest.mark.parametrize("spec", ["parity:512", "ising:rows=64,columns=4", "copy:tokens=256"])
def test_long_sequences_do_not_make_large_pages(spec: str) -> None:
    N = from_spec(spec).spec.tokens
    result = survey(from_spec(spec), ["gpt"], samples=200, lengths=[0, 1], steps=[1])
    page = report_writer()(result)
    assert len(page) < 8e6
    assert len(outside_library(page)) < 1e6
    assert len(result.target.examples) * N <= max(4096, 8 * N)


@pytest.mark.parametrize("spec", ["copy:tokens=3,symbols=1", "latin:1", "brackets:2"])
def test_laws_of_one_sequence_have_a_report(spec: str) -> None:
    page = report_writer()(survey(from_spec(spec), samples=200, steps=[1]))
    assert "NaN" not in outside_library(page)


def test_a_refused_law_of_one_sequence_has_a_report() -> None:
    target = from_table(torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.float64))

    def fair(tokens: torch.Tensor, known: torch.Tensor) -> Categorical:
        return Categorical(torch.zeros(*tokens.shape, 2, dtype=torch.float64))

    checked = check("gpt", target, network=fair, samples=200, lengths=[2], steps=[1])
    page = outside_library(report_writer()(checked.survey()))
    assert ">cannot<" in page
