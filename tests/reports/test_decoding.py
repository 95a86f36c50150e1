"""The page of a decoding plan: self-contained, escaped, and true to the plan."""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from capcheck import DecodingPlan, decoding_plan, report, survey
from capcheck.procedures.registry import report_writer
from capcheck.targets import MarkovChain, Target, from_spec

HOSTILE = "<script>alert('x')</script>&\"'.npy"


def order_2(tokens: int) -> MarkovChain:
    """Bits that repeat the one before the last with probability 0.9."""
    stays = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64)
    fair = torch.full((2, 2), 0.5, dtype=torch.float64)
    return MarkovChain([fair[0], fair, stays[:, None].expand(2, 2, 2)], tokens=tokens)


PLANS: dict[str, tuple[Target, dict[str, Any]]] = {
    "exact": (from_spec("shuffle:6"), {}),
    "measured": (order_2(16), {"samples": 32}),
    "measured at some sizes": (from_spec("gaussian:tokens=80"), {"samples": 16}),
    "one token": (from_spec("copy:tokens=1"), {}),
    "nothing to lose": (from_spec("ising:rows=4,columns=1,coupling=0"), {}),
    "one price": (from_spec("parity:6"), {"calls": [3]}),
}


@pytest.fixture(scope="module", params=PLANS)
def plan(request: pytest.FixtureRequest) -> DecodingPlan:
    target, how = PLANS[request.param]
    return decoding_plan(target, **how)


@pytest.fixture(scope="module")
def page(plan: DecodingPlan) -> str:
    return report_writer("decoding")(plan)


def outside_library(page: str) -> str:
    """The page without the chart library, which is the longest script."""
    return page.replace(max(re.findall(r"<script>.*?</script>", page, re.S), key=len), "")


def figures(page: str) -> dict[str, Any]:
    """The data of the charts, as a browser reads them."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found is not None
    data: dict[str, Any] = json.loads(found.group(1))["figures"]
    return data


def cells(page: str) -> list[list[str]]:
    """Texts of the cells of the table of prices, row by row."""
    lines = re.findall(r"<tr.*?</tr>", page, re.S)
    texts = [re.findall(r"<t[dh].*?>(.*?)</t[dh]>", line, re.S) for line in lines]
    return [[" ".join(re.sub(r"<.*?>", " ", text).split()) for text in line] for line in texts]


def test_the_page_loads_nothing(page: str) -> None:
    assert len(page) < 8e6
    own = outside_library(page)
    assert len(own) < 1e6
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?(https?:)?//""", own)
    assert not re.search(r"<(link|img|iframe|script\s+src)\b", own)
    assert own.count("Content-Security-Policy") == 1
    assert "default-src 'none'" in own
    assert "NaN" not in own
    assert own.count("</body>") == own.count("</html>") == 1


def test_the_page_says_what_the_plan_says(page: str, plan: DecodingPlan) -> None:
    own = outside_library(page)
    assert f"<h1>How many tokens per step? {plan.target}</h1>" in own
    assert f"with <strong>{plan.cheapest.calls}</strong> model call" in own
    assert f"{plan.total_correlation} nats per sequence" in own
    assert f"{plan.dual_total_correlation} nats per sequence" in own
    assert ("priced by the other" in own) == (not plan.exact)
    assert ("<dt>seed</dt>" in own) == (not plan.exact)
    head, *rows, last = cells(own)
    assert head[:4] == ["calls", "uniform", "cosine", "best"]
    by_calls = [list(prices) for _, prices in itertools.groupby(plan.prices, lambda one: one.calls)]
    for row, prices in zip(rows, by_calls, strict=True):
        shown = [str(one.kl) for one in prices]
        assert row == [str(prices[0].calls), *shown, prices[-1].steps_text]
    cheapest = plan.cheapest
    of_rules = [
        str(cheapest.kl) * (rule == cheapest.rule) for rule in ("uniform", "cosine", "best")
    ]
    assert last == [str(cheapest.calls), *of_rules, cheapest.steps_text]


def test_the_charts_show_the_plan(page: str, plan: DecodingPlan) -> None:
    charts = figures(page)
    assert list(charts) == ["curve", "prices"]
    assert all(f'<div id="{name}"></div>' in page for name in charts)
    traces = charts["curve"]["data"]
    (curve,) = (trace for trace in traces if trace["name"] == "h(m)")
    assert curve["x"] == list(plan.sizes)
    assert curve["y"] == [one.value for one in plan.curve]
    stairs = [trace for trace in traces if trace["line"].get("shape") == "hv"]
    assert len(stairs) == 2
    for stair in stairs:
        assert (stair["x"][0], stair["x"][-1]) == (0, plan.tokens)
        assert stair["y"][0] == plan.curve[0].value
    assert stairs[-1]["x"] == [0, *itertools.accumulate(plan.cheapest.placed)]
    bands = [trace for trace in traces if trace.get("fill") == "toself"]
    assert len(bands) == (0 if plan.exact else 1)
    for band in bands:
        ends = [one.high for one in plan.curve] + [one.low for one in reversed(plan.curve)]
        assert band["y"] == ends
    for trace in charts["prices"]["data"]:
        asked = [one for one in plan.prices if one.rule == trace["name"] and one.kl.value > 0]
        assert trace["x"] == [one.calls for one in asked]
        assert trace["y"] == [one.kl.value for one in asked]
    (line,) = charts["prices"]["layout"]["shapes"]
    assert line["y0"] == line["y1"] == plan.tolerance


def test_the_area_between_staircase_and_curve_is_what_is_lost() -> None:
    # shuffle:6 in one step: 6 ln 6 - ln 720 nats, drawn as 6 h(0) less the sum of h.
    plan = decoding_plan(from_spec("shuffle:6"), calls=[1], tolerance=1.0)
    traces = figures(report_writer("decoding")(plan))["curve"]["data"]
    stair, curve = traces[0], traces[-1]
    width = [after - before for before, after in itertools.pairwise(stair["x"])]
    area = sum(w * y for w, y in zip(width, stair["y"], strict=False)) - sum(curve["y"])
    assert area == pytest.approx(6 * math.log(6) - math.log(720))


@pytest.mark.parametrize("field", ["source", "description"])
def test_a_name_that_is_markup_is_shown_and_not_run(field: str) -> None:
    target = from_spec("parity:4").with_provenance(**{field: HOSTILE})
    page = outside_library(report_writer("decoding")(decoding_plan(target)))
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert page.count("</title>") == 1


def test_a_plan_has_a_page_of_its_own_kind(tmp_path: Path) -> None:
    plan = decoding_plan(from_spec("parity:4"))
    path = report(plan, tmp_path / "plan.html")
    assert path.read_text() == report_writer("decoding")(plan)


def test_the_report_of_a_survey_shows_the_plan() -> None:
    how: dict[str, Any] = {"samples": 200, "steps": [1], "network": "none"}
    result = survey(from_spec("parity:4"), families=["gpt"], lengths=[4], **how)
    assert result.decoding is not None
    shown = report_writer()(result)
    assert "<h2>How many tokens per step?</h2>" in shown
    assert '<div id="curve"></div>' in shown
    assert result.decoding.cheapest.steps_text in shown
    numbers = survey(from_spec("gaussian:tokens=2"), families=["gpt"], lengths=[2], **how)
    assert "How many tokens per step?" not in report_writer()(numbers)
