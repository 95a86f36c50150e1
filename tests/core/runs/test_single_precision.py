"""What runs on an accelerator, float32, finds the same with the same draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from capcheck import SurveyResult, survey
from capcheck.runs import engine
from capcheck.targets import ProductMixture


def require_the_same_findings(single: SurveyResult, double: SurveyResult) -> None:
    assert single.settings.dtype == "float32"
    for a, b in zip(single.families, double.families, strict=True):
        assert (a.error, a.supported) == (b.error, b.supported)
        assert a.error is None or not a.supported
        assert (a.outcome, a.axes, a.loop_order) == (b.outcome, b.axes, b.loop_order)
        for one, other in zip(a.cells, b.cells, strict=True):
            assert one.model_calls == other.model_calls
            for name, estimate in one.estimates.items():
                expected = other.estimates[name]
                if expected.value is None or expected.low is None or expected.high is None:
                    assert estimate.value is None
                    continue
                # A draw near a threshold may fall on its other side and move whole samples.
                width = expected.high - expected.low
                assert estimate.value == pytest.approx(expected.value, abs=1e-3 + 0.05 * width)


def test_float32_gives_the_same_findings(
    digits: ProductMixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    how: dict[str, Any] = {"network": "none", "samples": 200, "lengths": [5], "steps": [1, 4]}
    how["seconds_per_cell"] = 0.2
    some = ProductMixture(digits.means[::10, :5], digits.scales[:5])
    double = survey(some, **how)
    monkeypatch.setattr(engine, "placement", lambda _: (torch.device("cpu"), torch.float32))
    require_the_same_findings(survey(some, **how), double)
