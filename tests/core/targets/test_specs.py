from __future__ import annotations

import pytest
import torch
from scipy import stats

from capcheck.errors import InputError
from capcheck.targets import from_spec


def test_built_in_targets_are_the_laws_they_name() -> None:
    x = torch.tensor([[[0.5], [-1.0]]], dtype=torch.float64)
    expected = stats.norm.logpdf([0.5, -1.0], scale=2).sum()
    assert float(from_spec("gaussian:tokens=2,std=2").log_prob(x)) == pytest.approx(expected)
    modes = from_spec("modes:tokens=3,modes=2,gap=6")
    assert modes.means[:, :, 0].tolist() == [[-3] * 3, [3] * 3]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gausian", "did you mean 'gaussian'"),
        ("gaussian:token=3", "did you mean 'tokens'"),
        ("gaussian:tokens=0", "positive whole number of at most 65536, got '0'"),
        ("gaussian:tokens=x", "positive whole number, got 'x'"),
        ("gaussian:tokens=99999999", "at most 65536"),
        ("gaussian:tokens=2,tokens=3", "gives tokens twice|given tokens twice"),
        ("gaussian:std=inf", r"positive number of at most 1e\+100, got 'inf'"),
    ],
)
def test_bad_specs_are_refused(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_spec(spec)
