from __future__ import annotations

import pytest
import torch
from scipy import stats

from capcheck.errors import InputError
from capcheck.targets import ProductMixture, from_spec


def test_built_in_targets_are_the_laws_they_name() -> None:
    x = torch.tensor([[[0.5], [-1.0]]], dtype=torch.float64)
    expected = stats.norm.logpdf([0.5, -1.0], scale=2).sum()
    assert float(from_spec("gaussian:tokens=2,std=2").log_prob(x)) == pytest.approx(expected)
    modes = from_spec("modes:tokens=3,modes=2,gap=6")
    assert isinstance(modes, ProductMixture)
    assert modes.means[:, :, 0].tolist() == [[-3] * 3, [3] * 3]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gausian", "did you mean 'gaussian'"),
        ("gaussian:token=3", "did you mean 'tokens'"),
        ("gaussian:tokens=0", "gaussian.tokens: .* greater than or equal to 1, got '0'"),
        ("gaussian:tokens=x", "gaussian.tokens: .* valid integer.*, got 'x'"),
        ("gaussian:tokens=99999999", "less than or equal to 65536"),
        ("gaussian:ar1,tokens=9999", "at most 2048 if they correlate, got 9999"),
        ("gaussian:tokens=2,tokens=3", "is given tokens twice"),
        ("gaussian:ar1,structure=ar1", "is given structure twice"),
        ("gaussian:std=inf", "gaussian.std: .*, got 'inf'"),
        ("gaussian:rho=1", "gaussian.rho: .* less than 1, got '1'"),
        ("gaussian:tokens=4,rho=0.9", "correlates ar1 or equicorrelated tokens, got 0.9"),
        ("gaussian:wave", "'independent', 'ar1' or 'equicorrelated', got 'wave'"),
        ("parity:6,7", "takes at most 1 values, got '7'"),
        ("sudoku:4", "takes at most 0 values, got '4'"),
        ("sudoku:size=4", "has no parameter 'size'; it has none"),
        ("brackets:5", "brackets.tokens must be even, got 5"),
        ("ising:columns=9", "at most 8, got 9"),
        ("shuffle:9", "less than or equal to 8, got '9'"),
        ("chain-permutation:window=-1", "greater than or equal to 0"),
    ],
)
def test_bad_specs_are_refused(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_spec(spec)
