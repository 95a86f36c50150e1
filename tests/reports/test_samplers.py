"""The page of samplers: self-contained, escaped, and true to its results."""

from __future__ import annotations

import html
import itertools
import math
import re
from typing import Any, get_args

import pytest

from capcheck import check_sampler
from capcheck.reports.reproduction import command, script
from capcheck.reports.sampler_chart import BOX, panels
from capcheck.reports.sampler_grid import enough, error_of, number
from capcheck.reports.samplers import KINDS, render, render_samplers
from capcheck.samplers.findings import Cell, Finding, FindingKind, Interval, SamplerResult
from capcheck.samplers.survey import SamplerSurvey

HOSTILE = "<script>alert('x')</script>&\"'\u202e\u2066\ud800"
STEPS = (1, 2, 5, 10, 20, 50, 100)
TARGETS = ("off-centre", "wide", "narrow", "correlated", "modes")


def cells(first: int = 10, exact: bool = True) -> tuple[Cell, ...]:
    """Errors of 50 / steps tolerances, which suffice from a number of steps."""
    return tuple(
        Cell(
            target=target,
            steps=k,
            calls=k,
            outcome="representable" if k >= first else "not_representable",
            reason="a reason",
            divergences={"kl": (50 / k, 40 / k, 60 / k), "mmd": (None, None, None)},
            exact=exact,
        )
        for target in TARGETS
        for k in STEPS
    )


def result(name: str, *findings: Finding, of: tuple[Cell, ...] = (), **facts: Any) -> SamplerResult:
    facts = {
        "config": {},
        "versions": {"capcheck": "0.1.0", "torch": "2.6", "diffusers": "0.42.1"},
        "seed": 0,
        **facts,
    }
    return SamplerResult(name=name, findings=findings, cells=of, **facts)


def finding(kind: FindingKind, **facts: Any) -> Finding:
    facts = {"sentence": f"{kind} was seen", "steps": (2, 5), **facts}
    return Finding(kind=kind, **facts)


NOISE = finding("leftover_noise", evidence={"deviation": [0.125, 0.25], "rows": 256})
BIASED = finding(
    "biased_rule",
    steps=(50, 100),
    target="wide",
    evidence={"steps": list(STEPS), "error": [50 / k for k in STEPS]},
)
SURVEY = SamplerSurvey(
    samplers=(
        result("diffusers:SilentScheduler", of=cells()),
        result("diffusers:DDIMScheduler", NOISE, BIASED, of=cells(first=1000, exact=False)),
        result("diffusers:PNDMScheduler", finding("raises")),
    ),
    refused={"diffusers:LCMScheduler": "it runs a consistency function"},
)


@pytest.fixture(scope="module")
def page() -> str:
    return render(SURVEY)


def rows(page: str, table: str) -> list[list[str]]:
    """Texts of the cells of each table of a class, row by row."""
    tables = re.findall(rf'<table class="{table}">.*?</table>', page, re.S)
    lines = [line for one in tables for line in re.findall(r"<tr.*?</tr>", one, re.S)]
    texts = [re.findall(r"<t[dh].*?>(.*?)</t[dh]>", line, re.S) for line in lines]
    return [[html.unescape(re.sub(r"<.*?>", "", text)) for text in line] for line in texts]


def test_every_kind_has_a_meaning() -> None:
    assert set(KINDS) == set(get_args(FindingKind))


def test_the_page_loads_nothing_and_has_no_script(page: str) -> None:
    assert len(page) < 60_000
    assert not re.search(r"(src|url)\s*[=(]|https?:|//", page)
    assert not re.search(r"<(script|link|img|iframe|object)\b|\son\w+=", page)
    assert all(link.startswith("#") for link in re.findall(r'href="(.*?)"', page))
    assert page.count("Content-Security-Policy") == page.count("</html>") == 1
    assert "default-src 'none'; script-src 'none'; style-src 'unsafe-inline'" in page
    places = re.findall(r' id="(.*?)"', page)
    assert len(places) == len(set(places))
    assert {link[1:] for link in re.findall(r'href="(.*?)"', page)} <= set(places)
    assert page.count("<details") == page.count("</details>")


def test_the_first_sentence_counts(page: str) -> None:
    told = (
        "Of 4 schedulers of diffusers 0.42.1, 3 were checked: 1 is silent, 2 have findings; 1 was"
    )
    assert f'<p class="lead">{told} refused.</p>' in page
    alone = render_samplers([SURVEY.samplers[1]])
    assert "DDIMScheduler has 2 findings: leftover noise, biased rule.<" in alone
    assert '<p class="lead">Nothing was found in m:f.</p>' in render_samplers([result("m:f")])
    both = render_samplers([result("m:f"), result("azula:DDIMSampler")])
    assert "Of 2 samplers, 2 were checked: 2 are silent, 0 have findings." in both
    none = render_samplers([], {"diffusers:A": "no", "diffusers:B": "no"})
    assert "Of 2 schedulers of diffusers, 0 were checked; 2 were refused." in none


def test_the_list_shows_every_sampler_and_kind(page: str) -> None:
    _, head, *body = rows(page, "list")
    words = [kind.replace("_", " ") for kind in KINDS]
    assert head == ["sampler", *words, *TARGETS, "at the most steps"]
    marks = {row[0]: dict(zip(words, row[1:10], strict=True)) for row in body}
    assert list(marks) == ["DDIMScheduler", "PNDMScheduler", "SilentScheduler"]
    found = {
        (name, word, mark) for name, of in marks.items() for word, mark in of.items() if mark != "·"
    }
    assert found == {
        ("DDIMScheduler", "leftover noise", "✗"),
        ("DDIMScheduler", "biased rule", "✗"),
        ("PNDMScheduler", "raises", "!"),
    }
    assert [row[10:] for row in body] == [
        [*["none"] * 5, "✗ 0.5*"], [*["–"] * 5, "–"], [*["10"] * 5, "✓ 0.5"],
    ]  # fmt: skip


def test_the_details_show_evidence_commands_and_scripts(page: str) -> None:
    assert rows(page, "evidence")[:2] == [["steps", "2", "5"], ["deviation", "0.125", "0.25"]]
    assert ["error, × tolerance", *(f"{50 / k:.3g}" for k in STEPS)] in rows(page, "evidence")
    assert "rows: 256." in page
    for one in SURVEY.samplers:
        for found in one.findings:
            text = script(one, found)
            for shown in (command(one, found), text):
                assert shown is None or f"<pre>{html.escape(shown, quote=False)}" in (
                    page.replace("&#34;", '"').replace("&#39;", "'")
                )
    assert page.count("a script without capcheck") == 3
    assert "<dd>it runs a consistency function</dd>" in page


def test_the_grid_shows_verdicts_by_marks(page: str) -> None:
    first, second = (row for row in rows(page, "errors") if row[0] == "wide")
    assert first == ["wide", *(f"✗ {number(50 / k)}*" for k in STEPS)]
    assert second[1:] == [
        f"{'✓' if k >= 10 else '✗'} {number(50 / k)}" for k in STEPS
    ]  # fmt: skip
    assert page.count("<svg") == 2 * len(TARGETS)


def test_only_a_page_of_one_sampler_is_unfolded(page: str) -> None:
    assert " open>" not in page
    assert render_samplers([SURVEY.samplers[1]]).count(" open>") == 1


def test_texts_of_others_are_shown_and_do_nothing() -> None:
    found = finding("raises", sentence=HOSTILE, target=HOSTILE, evidence={HOSTILE: HOSTILE})
    cell = cells()[0].model_copy(update={"target": HOSTILE, "reason": HOSTILE, "divergences": {}})
    one = result(HOSTILE, found, of=(cell,), config={HOSTILE: HOSTILE}, versions={HOSTILE: HOSTILE})
    for page in (
        render_samplers([one]),
        render_samplers([one, result("m:f")], {HOSTILE: HOSTILE}),
        render_samplers([one.model_copy(update={"name": f"diffusers:{HOSTILE}"})]),
    ):
        assert "<script" not in page
        assert "&lt;script&gt;alert" in page
        assert all(c.isprintable() or c == "\n" for c in page)
        assert "\\u202e\\u2066\\ud800" in page
        assert page.count("</title>") == page.count("</html>") == 1
        page.encode()


@pytest.mark.parametrize(
    ("multiple", "text"),
    [
        (0.0, "<0.01"), (-1e-9, "<0.01"), (-0.5, "-0.5"), (0.25, "0.25"), (99.4, "99"),
        (100.4, "100"), (9999.0, "9999"), (123_456.0, "1e5"), (math.inf, "infinite"),
        (math.nan, "broken"),
    ],
)  # fmt: skip
def test_numbers_are_short(multiple: float, text: str) -> None:
    assert number(multiple) == text


def cell(**divergences: Interval) -> Cell:
    return cells()[0].model_copy(update={"divergences": divergences})


def test_the_error_is_the_largest_divergence_and_never_hides_a_broken_one() -> None:
    assert error_of(cell(kl=(1.0, 0.5, 2.0), mmd=(3.0, 2.0, 4.0))) == (3.0, 2.0, 4.0)
    assert error_of(cell(kl=(None, None, None), mmd=(0.0, None, None)))[0] == 0.0
    assert error_of(cell(kl=(None, None, None))) == error_of(cell()) == (None, None, None)
    value, _, _ = error_of(cell(kl=(math.nan, None, None), mmd=(3.0, 2.0, 4.0)))
    assert value is not None
    assert math.isnan(value)


@pytest.mark.parametrize("value", [0.0, -5.0, 1e-9, 1.0, 1e9, math.inf, math.nan, None])
def test_points_stay_inside_of_their_panel(value: float | None) -> None:
    raising = Cell(target="wide", steps=3, calls=None, outcome="raises", reason="it raised")
    of = [
        one.model_copy(update={"divergences": {"kl": (value, value, value)}, "exact": False})
        for one in cells()
    ]
    left, top, right, bottom = BOX
    for panel in panels([*of, raising]):
        paths = [*panel.marks.values(), *([panel.bars] if panel.bars else [])]
        starts = [tuple(map(float, at)) for d in paths for at in re.findall(r"M(\S+) ([\d.-]+)", d)]
        ends = [tuple(map(float, at.split(","))) for line in panel.lines for at in line.split()]
        for x, y in [*starts, *ends, *panel.raised]:
            assert left < x < right
            assert top < y < bottom
        if value is not None and not math.isnan(value):
            assert len(starts) == 2 * len(STEPS)
        for labels, least in ((panel.steps, 22), (panel.errors, 12)):
            at = sorted(position for position, _ in labels)
            assert all(b - a >= least for a, b in itertools.pairwise(at))
    assert panels([]) == []


def test_a_panel_of_one_number_of_steps_is_a_point() -> None:
    (panel,) = panels(cells()[:1])
    assert panel.lines == ()
    assert panel.marks.keys() == {"cannot"}


def test_a_survey_of_all_schedulers_stays_small() -> None:
    many = [
        result(f"diffusers:Long{i}MultistepScheduler", NOISE, BIASED, of=cells(exact=False))
        for i in range(21)
    ]
    refused = {f"diffusers:Refused{i}Scheduler": "it runs no denoiser" for i in range(28)}
    assert len(render_samplers(many, refused)) < 300_000


def test_the_page_of_a_real_sampler_says_what_its_result_says() -> None:
    def shrinks(network: Any, noise: Any, steps: int, generator: Any) -> Any:
        return 0.5 * network(noise, 1.0)

    found = check_sampler(shrinks, steps=[1, 4], lint_only=True)
    page = render_samplers([found])
    assert found.findings
    for one in found.findings:
        assert html.escape(one.sentence, quote=False) in page
    assert "No command line can name this sampler" in page


@pytest.mark.parametrize(
    ("outcomes", "told"),
    [
        (("not_representable", "representable"), "2"),
        (("not_representable", "inconclusive"), "?"),
        (("not_representable", "raises"), "none"),
        ((), "–"),
    ],
)
def test_what_is_undecided_does_not_look_like_none(outcomes: tuple[str, ...], told: str) -> None:
    cells = [
        Cell(target="wide", steps=k, calls=k, outcome=outcome, reason="")
        for k, outcome in enumerate(outcomes, 1)
    ]
    assert enough(cells, "wide") == told
