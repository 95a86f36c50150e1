"""The report of a run: self-contained, escaped, and true to the result."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import markupsafe
import numpy as np
import pytest
import torch
import vl_convert
from pages import chart_of, charts, outside_scripts, record, rows_of, table, told
from PIL import Image

from capcheck import check, report, survey
from capcheck.data import Layout, load_target
from capcheck.judging.answer import answer
from capcheck.judging.front import front
from capcheck.laws import Categorical
from capcheck.procedures.registry import report_writer
from capcheck.results.family import Axes
from capcheck.results.survey import SurveyResult
from capcheck.targets import ProductMixture, from_spec, from_table

FEW = ("gpt", "maskgit", "diffusion")
HOSTILE = "<script>alert('x')</script>&\"'\u202e.npy"
WORDS = {"representable": "can", "not_representable": "cannot", "inconclusive": "undecided"}
LARGEST = 2_000_000  # bytes of the page of a full survey


@pytest.fixture(scope="module")
def result(digits: ProductMixture) -> SurveyResult:
    return survey(digits, FEW, samples=200, lengths=[0, 8], steps=[1, 8])


@pytest.fixture(scope="module")
def page(result: SurveyResult) -> str:
    found = report_writer()(result)
    assert isinstance(found, str)
    return found


def test_the_page_loads_nothing_and_runs_its_own_scripts_only(page: str) -> None:
    assert len(page) < LARGEST
    own = outside_scripts(page)
    assert not re.search(r"""(src|url)\s*[=(]\s*["']?(https?:)?//""", own)
    assert not re.search(r"<(link|iframe|script\s+src)\b", own)
    (policy,) = re.findall(r'Content-Security-Policy" content="(.*?)"', page)
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy
    (allowed,) = re.findall(r"script-src ([^;]*);", policy)
    scripts = re.findall(r"<script>(.*?)</script>", page, re.S)
    assert len(scripts) == 2
    digests = [base64.b64encode(hashlib.sha256(one.encode()).digest()) for one in scripts]
    assert allowed.split() == [f"'sha256-{digest.decode()}'" for digest in digests]


def test_links_lead_to_papers_or_into_the_page(page: str) -> None:
    links = set(re.findall(r'href="(.*?)"', outside_scripts(page)))
    for link in links:
        assert link.startswith(("https://arxiv.org/", "#")) or "openreview" in link
        if link.startswith("#"):
            assert f'id="{link[1:]}"' in page
    assert "https://arxiv.org/abs/2202.04200" in links  # of MaskGIT's card


def test_the_page_says_what_the_result_says(page: str, result: SurveyResult) -> None:
    own, text = outside_scripts(page), told(page)
    assert str(markupsafe.escape(answer(result))) in own
    for found in result.families:
        assert f'data-outcome="{WORDS[found.outcome.value]}" data-family="{found.title}"' in own
        assert found.reason[1:] in own  # a sentence begins with a capital
        for cell in found.cells:
            value = cell.estimates["wasserstein"].value
            assert value is None or f"{value:.3g}" in text
    assert "inversion of every pass" in own
    assert result.target.fingerprint in own


def test_the_page_holds_the_result(page: str, result: SurveyResult) -> None:
    assert record(page) == json.loads(json.dumps(result.to_dict()))


def test_every_number_leads_to_its_record(page: str, result: SurveyResult) -> None:
    links = re.findall(r'<a class="n" data-record="(.*?)" href="#record">(.*?)</a>', page, re.S)
    assert len(links) > 40
    held = record(page)
    for place, html in links:
        found: Any = held
        for part in place.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            found = found[int(key)] if isinstance(found, list) else found[key]
        shown = " ".join(re.sub(r"<.*?>", " ", html).split())
        if not isinstance(found, dict):
            assert float(shown) == pytest.approx(float(found), rel=0.05)
        elif found.get("value") is None:
            assert shown == "unavailable"
        elif "kind" in found:
            (estimate,) = {
                str(cell.estimates[name])
                for family in result.families
                for cell in family.cells
                for name in cell.estimates
                if json.loads(json.dumps(cell.estimates[name].to_json()))["value"] == found["value"]
                and cell.estimates[name].low == float(found["low"])
            }
            assert shown.replace(" ", "") == estimate.replace(" ", "")


def test_charts_show_what_was_measured(page: str, result: SurveyResult) -> None:
    for found in result.families:
        for axis in ("length", "steps"):
            rows = chart_of(page, f"{axis}-family-{found.family}")["data"]["curve"]
            for row in rows:
                cells = [c for c in found.cells if str(getattr(c.budget, axis)) == row["budget"]]
                last = max(cells, key=lambda cell: (cell.budget.length, cell.budget.steps))
                estimate = last.estimates[row["divergence"]]
                assert row["estimate"] == str(estimate)
                assert row["low"] <= row["high"]
                if estimate.kind == "two bounds":  # it may be anywhere between them
                    assert row["value"] is None
                else:
                    assert row["low"] <= row["value"] <= row["high"]
                assert row["bound"] == (estimate.kind in ("upper bound", "lower bound"))
        budgets = chart_of(page, f"heat-family-{found.family}")["data"]["budgets"]
        worst = [row for row in budgets if row["divergence"] == "worst"]
        assert [(row["length"], row["steps"], row["mark"] == "✓") for row in worst] == [
            (cell.budget.length, cell.budget.steps, cell.outcome == "representable")
            for cell in found.cells
        ]


def test_charts_are_valid_on_both_scales(page: str) -> None:
    for chart in charts(page).values():
        for spec in (chart["spec"], chart["linear"]):
            if spec is not None:
                whole = spec | {"datasets": chart["data"], "width": 300}
                assert vl_convert.vegalite_to_vega(whole)["marks"]


def test_names_of_files_are_text(tmp_path: Path) -> None:
    name = HOSTILE.replace("/", "∕")
    np.save(tmp_path / name, np.random.default_rng(0).normal(size=(50, 3)))
    target = load_target(str(tmp_path / name), Layout())
    page = report_writer()(survey(target, ["gpt"], samples=200, steps=[1]))
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "\u202e" not in page  # which would turn the text that follows around
    assert "\\u202e" in page


def test_targets_without_pictures_are_shown_as_points() -> None:
    result = survey(from_spec("modes:tokens=2"), ["diffusion"], samples=200)
    points = chart_of(report_writer()(result), "samples-family-diffusion")["data"]["points"]
    own = [(row["x"], row["y"]) for row in points if row["group"] == "target"]
    flat = np.array(result.target.examples).reshape(len(own), -1)
    np.testing.assert_allclose(np.array(own), flat - flat.mean(0), rtol=1e-3, atol=1e-3)


SCRIPT = "<script>alert('x')</script> & \"quoted\" </pre></body>\n"


def test_a_text_that_is_markup_is_shown_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "tale.txt"
    path.write_text(60 * SCRIPT)
    target = load_target(str(path), Layout(tokens=8), law="markov:2")
    result = survey(target, ["gpt", "diffusion"], samples=200, lengths=[0, 8], steps=[1])
    page = outside_scripts(report_writer()(result))
    words = target.provenance.vocabulary
    assert words is not None
    shown = page.replace("<mark>", "").replace("</mark>", "")
    for row in result.target.examples[:10]:
        string = "".join(words[token] for token in row)
        assert str(markupsafe.escape(string)) in shown
    assert "<script>alert" not in page
    assert page.count("</body>") == 1
    assert "\\n" in page  # a line end is shown, and ends no line
    assert len(re.findall("<pre[ >]", page)) == page.count("</pre>")


def test_samples_of_text_replace_the_pictures_of_samples(tmp_path: Path) -> None:
    path = tmp_path / "tale.txt"
    path.write_text("to be or not to be, that is the question; " * 20)
    target = load_target(str(path), Layout(tokens=8))
    result = survey(target, ["gpt"], samples=200, lengths=[0, 8], steps=[1])
    page = outside_scripts(report_writer()(result))
    assert 'data-chart="samples-family-gpt"' not in page
    assert "<img" not in page
    assert 'data-chart="length-family-gpt"' in page
    assert "indows of 8 characters" in page
    assert "tokens over" in page
    assert "unseen rows" in page


def test_families_that_tokens_do_not_suit_are_listed_with_the_reason() -> None:
    result = survey(from_spec("parity:4"), FEW, samples=200, steps=[1])
    page = outside_scripts(report_writer()(result))
    assert 'data-outcome="not-measured" data-family="diffusion"' in page
    assert "for numbers only" in page
    assert 'data-chart="heat-family-diffusion"' not in page
    assert "W1" in page
    assert "W2" not in page


def pictures(page: str) -> list[np.ndarray]:
    """The pictures of samples, as arrays (height, width, 3) of bytes."""
    found = re.findall(r'src="data:image/png;base64,(.*?)"', page)
    files = [io.BytesIO(base64.b64decode(one)) for one in found]
    return [np.asarray(Image.open(one).convert("RGB")) for one in files]


@pytest.mark.parametrize(
    ("spec", "height", "width"),
    [
        ("ising:rows=3,columns=2", 6 * (3 + 1) - 1, 6 * (2 + 1) - 1),  # six by six, with gaps
        ("latin:3", 6 * (3 + 1) - 1, 6 * (3 + 1) - 1),
        ("parity:5", 36, 5),  # a sequence is a line
    ],
)
def test_grids_of_tokens_are_shown_as_images(spec: str, height: int, width: int) -> None:
    result = survey(from_spec(spec), ["gpt"], samples=200, lengths=[0], steps=[1])
    canvas = pictures(report_writer()(result))[0]
    assert canvas.shape == (height, width, 3)
    rows = np.array(result.target.examples[:36])
    down, across = result.target.grid or (1, result.target.tokens)
    gap = int(down > 1)
    second = canvas[:down, across + gap : 2 * across + gap] if gap else canvas[1:2]
    for symbol in np.unique(rows):
        # Each symbol has one colour.
        assert len(np.unique(second[rows[1].reshape(down, across) == symbol], axis=0)) <= 1
    assert (canvas.reshape(-1, 3) != 255).any()


@pytest.mark.parametrize("spec", ["parity:256", "ising:rows=32,columns=4", "copy:tokens=256"])
def test_long_sequences_do_not_make_large_pages(spec: str) -> None:
    N = from_spec(spec).spec.tokens
    result = survey(from_spec(spec), ["gpt"], samples=200, lengths=[0, 1], steps=[1])
    page = report_writer()(result)
    assert len(page) < LARGEST
    assert len(result.target.examples) * N <= max(4096, 8 * N)


@pytest.mark.parametrize("spec", ["copy:tokens=3,symbols=1", "latin:1", "brackets:2"])
def test_laws_of_one_sequence_have_a_report(spec: str) -> None:
    page = report_writer()(survey(from_spec(spec), FEW, samples=200, steps=[1]))
    assert "NaN" not in outside_scripts(page)


def test_a_refused_law_of_one_sequence_has_a_report() -> None:
    target = from_table(torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.float64))

    def fair(tokens: torch.Tensor, known: torch.Tensor) -> Categorical:
        return Categorical(torch.zeros(*tokens.shape, 2, dtype=torch.float64))

    checked = check("gpt", target, network=fair, samples=200, lengths=[2], steps=[1])
    page = outside_scripts(report_writer()(checked.survey))
    assert 'data-outcome="cannot"' in page


def scaling_table(page: str) -> list[list[str]]:
    """Rows of the table of the first screen."""
    start = page.index('<table id="families">')
    return rows_of(page[start : page.index("</table>", start)])


def test_the_papers_table_stands_beside_what_was_measured(result: SurveyResult) -> None:
    gpt, maskgit, diffusion = result.families
    contrary = gpt.model_copy(
        update={"axes": Axes(length="flat", steps="flat"), "loop_order": "none"}
    )
    open_question = diffusion.model_copy(update={"axes": Axes(length="flat", steps="undecided")})
    beyond = maskgit.model_copy(update={"in_paper": False})
    families = (contrary, beyond, open_question)
    page = outside_scripts(report_writer()(result.model_copy(update={"families": families})))
    head, length, first, second, steps, third = scaling_table(page)
    assert (length, steps) == (["length"], ["steps"])
    assert [first[0], second[0], third[0]] == ["gpt", "maskgit +", "diffusion"]
    assert len(head) == len(first) == len(third)
    assert first[-3:] == ["flat", "flat", "≠ none"]
    assert second[-3:-1] == ["used", "flat"]
    assert third[-2] == "undecided"
    text = told(page)
    sentence = "the paper puts it under length, and measured is length flat, steps flat"
    assert f"gpt differs: {sentence}" in text
    assert "diffusion is open: the paper puts it under steps" in text
    assert "maskgit differs" not in text


def test_floors_stand_with_their_causes(page: str, result: SurveyResult) -> None:
    rows = table(outside_scripts(page), "Causes of the floors")[1:]
    refused = [found for found in result.families if found.cells[-1].outcome == "not_representable"]
    assert (
        {row[1] for row in rows} == {found.family for found in refused} == {"maskgit", "diffusion"}
    )
    (found,) = (found for found in refused if found.family == "maskgit")
    (row,) = (row for row in rows if row[1] == "maskgit")
    assert row[0] == found.failure == "wrong factorisation"
    assert row[2] == found.causes[0].sentence
    bare = tuple(found.model_copy(update={"causes": ()}) for found in result.families)
    without = outside_scripts(report_writer()(result.model_copy(update={"families": bare})))
    assert table(without, "Causes of the floors")[1][0] == "not found"


def test_the_front_shows_every_cell_once_and_a_line_for_each_family(
    page: str, result: SurveyResult
) -> None:
    found = front(result)
    chart = chart_of(page, "front")
    drawn = sorted((point["calls"], point["multiple"]) for point in chart["data"]["points"])
    there = sorted((p.calls, min(p.multiple, 1e5)) for p in found.points)
    np.testing.assert_allclose(drawn, there, rtol=1e-5)
    most = max(point.calls for point in found.points)
    for name in FEW:
        line = [stop for stop in chart["data"]["lines"] if stop["family"] == name]
        assert line[-1]["calls"] == most
        assert [stop["calls"] for stop in line] == sorted(stop["calls"] for stop in line)
        heights = [stop["multiple"] for stop in line]
        assert heights == sorted(heights, reverse=True)
        own = [p.multiple for p in found.points if p.family == name]
        assert line[-1]["multiple"] == pytest.approx(min(1e5, *own), rel=1e-5)


def test_few_draws_are_told(page: str, result: SurveyResult) -> None:
    few = "draws per cell are few"
    assert f"{result.settings.samples} {few}" in outside_scripts(page)
    many = result.settings.model_copy(update={"samples": 2000})
    assert few not in outside_scripts(report_writer()(result.model_copy(update={"settings": many})))


def test_twenty_families_are_still_a_small_page(result: SurveyResult) -> None:
    families = tuple(
        found.model_copy(
            update={"plan": found.plan.model_copy(update={"family": f"{found.family}{copy}"})}
        )
        for copy in range(7)
        for found in result.families
    )
    page = report_writer()(result.model_copy(update={"families": families}))
    assert len(page) < LARGEST
    own = outside_scripts(page)
    assert len(set(re.findall(r'<details class="family" id="(.*?)"', own))) == 21
    for name in re.findall(r'href="#(.*?)"', own):
        assert f'id="{name}"' in own


def test_divergences_of_choice_have_colours() -> None:
    asked = ["reverse_kl", "total_variation"]
    steps = [1, 2]
    how: dict[str, Any] = {"divergences": asked, "samples": 200, "steps": steps}
    page = report_writer()(survey(from_spec("parity:3"), ["gpt"], **how))
    chart = chart_of(page, "steps-family-gpt")
    assert {"reverse KL", "total variation"} <= {row["label"] for row in chart["data"]["curve"]}
    assert "var(--purple)" in json.dumps(chart["spec"])


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_charts_leave_the_page_as_files(tmp_path: Path, result: SurveyResult, kind: str) -> None:
    folder = report(result, tmp_path / "charts", kind=kind)
    files = {path.name for path in folder.iterdir()}
    assert {f"front.{kind}", f"steps-diffusion.{kind}", f"heat-gpt.{kind}"} <= files
    for path in folder.iterdir():
        if kind == "svg":
            text = path.read_text()
            assert text.startswith("<svg")
            assert "var(--" not in text  # colours of the page mean nothing outside of it
        else:
            with Image.open(path) as picture:
                assert picture.width > 700


def test_infinite_divergences_are_drawn_at_the_top(digits: ProductMixture) -> None:
    result = survey(digits, ["diffusion"], samples=200, lengths=[8], steps=[1, 2])
    infinite = [c for c in result.families[0].cells if math.isinf(c.estimates["kl"].value or 0)]
    assert infinite
    rows = chart_of(report_writer()(result), "steps-family-diffusion")["data"]["curve"]
    tops = [r["value"] for r in rows if r["divergence"] == "kl" and r["estimate"] == "infinite"]
    assert tops == [1e5] * len(infinite)
