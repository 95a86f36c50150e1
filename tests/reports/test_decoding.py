"""The page of a decoding plan: self-contained, escaped, and true to the plan."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pages import chart_of, charts, outside_scripts, rows_of, told

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
    found = report_writer("decoding")(plan)
    assert isinstance(found, str)
    return found


def cells(page: str) -> list[list[str]]:
    """Texts of the cells of the table of prices, row by row."""
    return rows_of(page)


def test_the_page_loads_nothing(page: str) -> None:
    assert len(page) < 2e6
    own = outside_scripts(page)
    assert not re.search(r"""(src|url)\s*[=(]\s*["']?(https?:)?//""", own)
    assert not re.search(r"<(link|img|iframe|script\s+src)\b", own)
    assert own.count("Content-Security-Policy") == 1
    assert "default-src 'none'" in own
    assert "NaN" not in own
    assert own.count("</body>") == own.count("</html>") == 1


def test_the_page_says_what_the_plan_says(page: str, plan: DecodingPlan) -> None:
    own = outside_scripts(page)
    assert f"<h1>How many tokens per step? <bdi>{plan.target}</bdi></h1>" in own
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
    loses = any(one.kl.value > 0 for one in plan.prices)
    assert list(charts(page)) == ["information", *(["prices"] if loses else [])]
    information = chart_of(page, "information")
    curve = information["data"]["curve"]
    assert [row["known"] for row in curve] == list(plan.sizes)
    assert [row["nats"] for row in curve] == [one.value for one in plan.curve]
    assert [row["high"] for row in curve] == [one.high for one in plan.curve]
    stairs: dict[str, list[dict[str, Any]]] = {}
    for row in information["data"]["stairs"]:
        stairs.setdefault(row["name"], []).append(row)
    for stair in stairs.values():
        assert stair[0]["known"] == 0
        assert stair[0]["nats"] == plan.curve[0].value
    cheapest = list(stairs.values())[-1]
    if not plan.cheapest.kl.value:  # then every step's height is known
        ends = [0, *itertools.accumulate(plan.cheapest.placed)]
        assert {row["known"] for row in cheapest} <= set(ends)
    has_band = any(layer["mark"]["type"] == "area" for layer in information["spec"]["layer"])
    assert has_band == (not plan.exact)
    if not loses:
        return
    prices = chart_of(page, "prices")["data"]["prices"]
    asked = [(one.rule, one.calls, one.kl.value) for one in plan.prices if one.kl.value > 0]
    assert [(row["rule"], row["calls"], row["nats"]) for row in prices] == asked
    lines = [
        layer["encoding"]["y"].get("datum") for layer in chart_of(page, "prices")["spec"]["layer"]
    ]
    assert plan.tolerance in lines


def test_the_area_between_staircase_and_curve_is_what_is_lost() -> None:
    # shuffle:6 in one step: 6 ln 6 - ln 720 nats, drawn as 6 h(0) less the sum of h.
    plan = decoding_plan(from_spec("shuffle:6"), calls=[1], tolerance=1.0)
    data = chart_of(report_writer("decoding")(plan), "information")["data"]
    first, last = data["stairs"][0], data["stairs"][1]
    width = last["known"] - first["known"]
    area = width * first["nats"] - sum(row["nats"] for row in data["curve"])
    assert area == pytest.approx(6 * math.log(6) - math.log(720))


@pytest.mark.parametrize("field", ["source", "description"])
def test_a_name_that_is_markup_is_shown_and_not_run(field: str) -> None:
    target = from_spec("parity:4").with_provenance(**{field: HOSTILE})
    page = outside_scripts(report_writer("decoding")(decoding_plan(target)))
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
    assert '<h2 id="decoding">How many tokens per step?</h2>' in shown
    assert 'data-chart="information"' in shown
    assert result.decoding.cheapest.steps_text in told(shown)
    numbers = survey(from_spec("gaussian:tokens=2"), families=["gpt"], lengths=[2], **how)
    assert "How many tokens per step?" not in report_writer()(numbers)
