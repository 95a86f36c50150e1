"""The parts of charts: places, names that never overlap, components, pictures and sparklines."""

from __future__ import annotations

import io
import itertools
import re
from base64 import b64decode
from typing import Any

import numpy as np
import pytest
import torch
import vl_convert
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.decomposition import PCA

from capcheck.core.budget import Budget
from capcheck.judging.profile import ProfilePoint
from capcheck.reports.charts.front import apart
from capcheck.reports.charts.points import leading_components
from capcheck.reports.charts.scale import TOP, drawn, place, top_of, vertical
from capcheck.reports.samples import mosaic
from capcheck.reports.sparkline import HEIGHT, sparkline
from capcheck.results.measurement import Outcome
from capcheck.results.settings import TargetSummary
from capcheck.runs.excerpts import summary_of
from capcheck.targets import from_spec


def marks(scene: Any) -> list[Any]:
    """All items of symbols in a scene graph of Vega."""
    if isinstance(scene, list):
        return [item for one in scene for item in marks(one)]
    if not isinstance(scene, dict):
        return []
    own = scene["items"] if scene.get("marktype") == "symbol" else []
    return own + [item for one in scene.get("items", []) for item in marks(one)]


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("multiple", [-0.5, 0.0, 0.3, 1.0, 3.7, 42.0, 9e4, 1e7])
def test_places_are_those_of_vega(multiple: float, linear: bool) -> None:
    axis = vertical(TOP, linear=linear)
    spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "height": 200,
        "data": {"values": [{"multiple": drawn(multiple)}]},
        "mark": "point",
        "encoding": {"y": {"field": "multiple", **axis}},
    }
    scene = vl_convert.vegalite_to_scenegraph(spec)["scenegraph"]
    (point,) = marks(scene)
    assert place(multiple, TOP, 200, linear=linear) == pytest.approx(point["y"], abs=0.01)


def test_the_upper_end_is_a_power_of_ten() -> None:
    assert top_of([]) == top_of([0.2, float("nan")]) == top_of([9.9]) == 10
    assert top_of([11]) == 100
    assert top_of([1e3]) == 1e3
    assert top_of([2e4]) == top_of([float("inf")]) == TOP


@given(st.lists(st.floats(0, 300), max_size=20), st.floats(1, 13))
def test_names_keep_their_distance_and_their_order(places: list[float], least: float) -> None:
    moved = apart(sorted(places), least, 300)
    assert len(moved) == len(places)
    assert all(after - before >= least - 1e-9 for before, after in itertools.pairwise(moved))
    assert all(at <= 300 for at in moved)
    free = all(b - a >= least for a, b in itertools.pairwise(sorted(places)))
    if free:  # nothing moves without need
        assert moved == pytest.approx(sorted(places), abs=1e-9)


def test_samples_lie_in_the_plane_of_principal_components() -> None:
    samples = np.random.default_rng(0).normal(size=(40, 3, 2)) * np.arange(1, 4)[:, None]
    others = np.random.default_rng(1).normal(size=(5, 3, 2))
    peer = PCA(2).fit(samples.reshape(40, -1))
    found = leading_components(samples)(others)
    np.testing.assert_allclose(np.abs(found), np.abs(peer.transform(others.reshape(5, -1))))


def decoded(uri: str) -> np.ndarray:
    with Image.open(io.BytesIO(b64decode(uri.partition(",")[2]))) as picture:
        return np.asarray(picture.convert("RGB"))


def summary(spec: str) -> TargetSummary:
    return summary_of(from_spec(spec), 0)


def test_a_mosaic_shows_every_token_of_every_sample() -> None:
    target = summary("ising:rows=2,columns=3")
    rows = torch.randint(0, 2, (7, 6), generator=torch.Generator().manual_seed(0)).tolist()
    found = mosaic("some", rows, target)
    picture = decoded(found.uri)
    assert picture.shape == (2 * 3 - 1, 6 * 4 - 1, 3)  # six across, two down, a gap after each
    assert found.count == 7
    dark = picture[0:2, 0:3].mean(-1) < 110
    assert dark.reshape(-1).tolist() == [bool(token) for token in rows[0]]
    seventh = picture[3:5, 0:3].mean(-1) < 110
    assert seventh.reshape(-1).tolist() == [bool(token) for token in rows[6]]


def point(multiple: float, calls: int, outcome: Outcome) -> ProfilePoint:
    return ProfilePoint(
        calls=calls,
        budget=Budget(length=0, steps=calls),
        multiple=multiple,
        low=multiple,
        high=multiple,
        kind="exact",
        outcome=outcome,
    )


def test_a_sparkline_puts_full_marks_below_the_dashed_line() -> None:
    points = [
        point(float("inf"), 1, Outcome.NOT_REPRESENTABLE),
        point(7.0, 2, Outcome.INCONCLUSIVE),
        point(0.2, 4, Outcome.REPRESENTABLE),
    ]
    drawing = str(sparkline(points))
    (line,) = re.findall(r'class="tolerance".*?y1="([\d.]+)"', drawing)
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)"', drawing)]
    assert heights == sorted(heights)  # down the page
    assert heights[1] < float(line) < heights[2] <= HEIGHT
    classes = re.findall(r'circle class="(\w+)"', drawing)
    assert classes == ["cannot", "undecided", "can"]
    assert "infinite at 1 call; 7 at 2 calls; 0.2 at 4 calls" in drawing
    assert not sparkline([])
