from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import markupsafe
import numpy as np
import pytest
import torch

from capcheck import check, survey
from capcheck.data import Layout, load_target
from capcheck.judging.front import front
from capcheck.laws import Categorical
from capcheck.procedures.registry import report_writer
from capcheck.results.family import Axes
from capcheck.results.survey import SurveyResult
from capcheck.targets import ProductMixture, from_spec, from_table

FEW = ("gpt", "maskgit", "diffusion")
HOSTILE = "<script>alert('x')</script>&\"'.npy"


@pytest.fixture(scope="module")
def result(digits: ProductMixture) -> SurveyResult:
    return survey(digits, FEW, samples=200, lengths=[0, 8], steps=[1, 8])


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
        "representable": "can",
        "not_representable": "cannot",
        "inconclusive": "undecided",
    }
    for found in result.families:
        assert f">{words[found.outcome.value]}<" in own
        assert found.reason in own
        assert f'id="chart-{found.family}"' in own
        for cell in found.cells:
            value = cell.estimates["wasserstein"].value
            assert value is None or f"{value:.3g}" in own
    assert "inversion of every pass" in own
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
    target = load_target(str(path), Layout(tokens=8), law="markov:2")
    result = survey(target, ["gpt", "diffusion"], samples=200, lengths=[0, 8], steps=[1])
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
    result = survey(from_spec("parity:4"), FEW, samples=200, steps=[1])
    page = outside_library(report_writer()(result))
    assert ">not measured<" in page
    assert "diffusion is defined for continuous tokens, not categorical ones." in page
    assert 'id="chart-diffusion"' not in page
    assert "W1" in page
    assert "W2" not in page


def figures(page: str) -> dict[str, Any]:
    """The data of the charts, as a browser reads them."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found is not None
    data: dict[str, Any] = json.loads(found.group(1))["figures"]
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


@pytest.mark.parametrize("spec", ["parity:256", "ising:rows=32,columns=4", "copy:tokens=256"])
def test_long_sequences_do_not_make_large_pages(spec: str) -> None:
    N = from_spec(spec).spec.tokens
    result = survey(from_spec(spec), ["gpt"], samples=200, lengths=[0, 1], steps=[1])
    page = report_writer()(result)
    assert len(page) < 8e6
    assert len(outside_library(page)) < 1e6
    assert len(result.target.examples) * N <= max(4096, 8 * N)


@pytest.mark.parametrize("spec", ["copy:tokens=3,symbols=1", "latin:1", "brackets:2"])
def test_laws_of_one_sequence_have_a_report(spec: str) -> None:
    page = report_writer()(survey(from_spec(spec), FEW, samples=200, steps=[1]))
    assert "NaN" not in outside_library(page)


def test_a_refused_law_of_one_sequence_has_a_report() -> None:
    target = from_table(torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.float64))

    def fair(tokens: torch.Tensor, known: torch.Tensor) -> Categorical:
        return Categorical(torch.zeros(*tokens.shape, 2, dtype=torch.float64))

    checked = check("gpt", target, network=fair, samples=200, lengths=[2], steps=[1])
    page = outside_library(report_writer()(checked.survey))
    assert ">cannot<" in page


def table(page: str, heading: str) -> list[list[str]]:
    """Texts of the cells of the first table below a heading, row by row."""
    section = page[page.index(f"<h2>{heading}</h2>") :]
    rows = re.findall(r"<tr.*?</tr>", section[: section.index("</table>")], re.S)
    cells = [re.findall(r"<t[dh].*?>(.*?)</t[dh]>", row, re.S) for row in rows]
    return [[" ".join(re.sub(r"<.*?>", " ", cell).split()) for cell in row] for row in cells]


def test_the_papers_table_stands_beside_what_was_measured(result: SurveyResult) -> None:
    gpt, maskgit, diffusion = result.families
    contrary = gpt.model_copy(
        update={"axes": Axes(length="flat", steps="flat"), "loop_order": "none"}
    )
    open_question = diffusion.model_copy(update={"axes": Axes(length="flat", steps="undecided")})
    beyond = maskgit.model_copy(update={"in_paper": False})
    families = (contrary, beyond, open_question)
    page = outside_library(report_writer()(result.model_copy(update={"families": families})))
    head, length, first, second, steps, third = table(page, "The paper's table, measured")
    assert (length, steps) == (["length"], ["steps"])
    assert [first[0], second[0], third[0]] == ["gpt", "maskgit +", "diffusion"]
    assert len(head) == len(first) == len(third)
    assert first[-1] == "≠ neither axis"
    assert second[-1] == "= length"
    assert third[-1] == "? undecided"
    told = " ".join(re.sub(r"<.*?>", " ", page).split())
    sentence = "the paper puts it under length, and measured is length flat, steps flat"
    assert f"gpt differs: {sentence}" in told
    assert "diffusion is undecided: the paper puts it under steps" in told
    assert "maskgit differs" not in told


def test_floors_stand_with_their_causes(page: str, result: SurveyResult) -> None:
    rows = table(outside_library(page), "Causes of the floors")[1:]
    refused = [found for found in result.families if found.cells[-1].outcome == "not_representable"]
    assert (
        {row[1] for row in rows} == {found.family for found in refused} == {"maskgit", "diffusion"}
    )
    (found,) = (found for found in refused if found.family == "maskgit")
    (row,) = (row for row in rows if row[1] == "maskgit")
    assert row[0] == found.failure == "wrong factorisation"
    assert row[2] == found.causes[0].sentence
    bare = tuple(found.model_copy(update={"causes": ()}) for found in result.families)
    without = outside_library(report_writer()(result.model_copy(update={"families": bare})))
    assert table(without, "Causes of the floors")[1][0] == "not found"


def test_the_front_chart_shows_every_cell_once_and_each_front_as_a_staircase(
    page: str, result: SurveyResult
) -> None:
    found = front(result)
    traces = figures(page)["front"]["data"]
    marks = [trace for trace in traces if trace["mode"] == "markers"]
    lines = {trace["name"]: trace for trace in traces if "lines" in trace["mode"]}
    drawn = sorted((x, y) for trace in marks for x, y in zip(trace["x"], trace["y"], strict=True))
    there = [(p.calls, math.asinh(min(p.multiple, 1e5))) for p in found.points]
    np.testing.assert_allclose(drawn, sorted(there))
    assert set(lines) == {"length", "steps"}
    for trace in lines.values():
        assert trace["line"]["shape"] == "hv"
        assert trace["x"] == sorted(set(trace["x"]))  # ties share a mark
        assert trace["y"] == sorted(set(trace["y"]), reverse=True)


def test_few_draws_are_told(page: str, result: SurveyResult) -> None:
    few = "draws per cell are few"
    assert f"{result.settings.samples} {few}" in outside_library(page)
    many = result.settings.model_copy(update={"samples": 2000})
    assert few not in outside_library(report_writer()(result.model_copy(update={"settings": many})))


def test_twenty_families_are_still_a_small_page(result: SurveyResult) -> None:
    families = tuple(
        found.model_copy(
            update={"plan": found.plan.model_copy(update={"family": f"{found.family}{copy}"})}
        )
        for copy in range(7)
        for found in result.families
    )
    page = report_writer()(result.model_copy(update={"families": families}))
    assert len(page) < 8e6
    own = outside_library(page)
    assert len(own) < 1e6
    assert own.count('<script type="application/json"') == 1
    assert len(set(re.findall(r'<h2 id="family-(\w+)"', own))) == 21
    for name in re.findall(r'href="#(.*?)"', own):
        assert f'id="{name}"' in own


def test_divergences_of_choice_have_colours() -> None:
    asked = ["reverse_kl", "total_variation"]
    result = survey(from_spec("parity:3"), ["gpt"], divergences=asked, samples=200, steps=[1])
    chart = figures(report_writer()(result))["chart-gpt"]["data"]
    assert {"reverse KL", "total variation"} <= {trace.get("name") for trace in chart}
