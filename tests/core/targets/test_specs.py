from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.mixture import GaussianMixture as SklearnMixture

from capcheck.core.errors import InputError
from capcheck.targets import ProductMixture, from_sklearn, from_spec
from capcheck.targets.built_in import BUILT_IN
from capcheck.targets.specs import parameters


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
        ("gaussian:std=1e-200", "gaussian.std: .* greater than or equal to .*, got '1e-200'"),
        ("gaussian:rho=1", "gaussian.rho: .* less than or equal to 0.9999, got '1'"),
        ("gaussian:,,", "must be given a value in every item, got '' in 'gaussian:,,'"),
        ("gaussian:tokens=3,", "in every item, got ''"),
        ("copy:tokens=", "in every item, got 'tokens='"),
        ("gaussian:equicorrelated,tokens=5,rho=-0.25", "above -0.249975, .* for 5 .*, got -0.25"),
        ("gaussian:equicorrelated,tokens=2,rho=-1", "greater than or equal to -0.9999"),
        ("modes:gap=1e100", "modes.gap: .* less than or equal to 1000000, got '1e100'"),
        ("modes:tokens=65536,modes=10000", "at most 16777216, got 65536 x 10000"),
        ("copy:tokens=65536,symbols=2048", r"copy.tokens x symbols\^2 .*, got 65536 x 2048\^2"),
        ("parity:ones=0", "parity.ones: .* greater than or equal to 0.001"),
        ("gaussian:tokens=4,rho=0.9", "correlates ar1 or equicorrelated tokens, got 0.9"),
        ("gaussian:wave", "'independent', 'ar1' or 'equicorrelated', got 'wave'"),
        ("parity:6,0.5,7", "takes at most 2 values, got '7'"),
        ("sudoku:4", "takes at most 0 values, got '4'"),
        ("sudoku:size=4", "has no parameter 'size'; it has none"),
        ("brackets:5", "brackets.tokens: .* multiple of 2, got '5'"),
        ("ising:columns=9", "ising.columns: .* less than or equal to 8, got '9'"),
        ("shuffle:9", "less than or equal to 8, got '9'"),
        ("chain-permutation:window=2", "has no parameter .window.; known are inputs, scratch"),
    ],
)
def test_bad_specs_are_refused(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_spec(spec)


@pytest.mark.parametrize("tokens", [2, 5, 64])
def test_the_remedy_for_a_correlation_that_is_too_low_can_be_followed(tokens: int) -> None:
    with pytest.raises(InputError, match="equicorrelated tokens") as refused:
        from_spec(f"gaussian:equicorrelated,tokens={tokens},rho=-0.9999")
    least = re.search(r"above (-[\d.]+)", str(refused.value))
    assert least is not None
    assert float(least[1]) * (tokens - 1) == pytest.approx(-1, rel=2e-4)
    rho = 0.999 * float(least[1])
    target = from_spec(f"gaussian:equicorrelated,tokens={tokens},rho={rho}")
    x = np.random.default_rng(0).normal(size=(3, tokens))
    correlation = (1 - rho) * np.eye(tokens) + rho
    expected = stats.multivariate_normal(cov=correlation, allow_singular=True).logpdf(x)
    found = target.log_prob(torch.tensor(x)[..., None]).numpy()
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("std", [1e-6, 1e6])
@pytest.mark.parametrize("structure", ["independent", "ar1"])
def test_the_ends_of_a_range_are_laws(structure: str, std: float) -> None:
    rho = 0.0 if structure == "independent" else 0.9
    covariance = std**2 * np.array([[1, rho], [rho, 1]])
    x = std * np.array([[0.3, -1.2]])
    z = np.linalg.solve(covariance, x[0]) @ x[0]
    expected = -0.5 * z - np.log(2 * np.pi) - 0.5 * np.linalg.slogdet(covariance)[1]
    target = from_spec(f"gaussian:{structure},tokens=2,std={std}")
    assert float(target.log_prob(torch.tensor(x)[..., None])) == pytest.approx(expected)


def test_every_parameter_is_listed_with_its_range_and_a_default_inside_it() -> None:
    assert parameters("brackets") == {"tokens": (8, "tokens of a sequence: 2 to 256, even")}
    assert parameters("gaussian")["structure"] == (
        "independent",
        "correlation structure: independent, ar1 or equicorrelated",
    )
    assert parameters("chain-parity")["scratch"][1].endswith(": yes or no")
    for name in BUILT_IN:
        for key, (default, text) in parameters(name).items():
            assert ": " in text, f"{name}.{key} has no range"
            if default is not None:
                from_spec(f"{name}:{key}={default}")
            ends = re.search(r": (\S+) to ([^\s,]+)", text)
            if ends is not None and key not in ("tokens", "modes", "symbols", "inputs", "rows"):
                for beyond in (float(ends[1]) - 1, 2 * float(ends[2]) + 1):
                    with pytest.raises(InputError, match=f"{name}.{key}"):
                        from_spec(f"{name}:{key}={beyond:g}")


def test_fitted_models_of_scikit_learn_are_targets() -> None:
    rows = np.random.default_rng(0).normal(size=(80, 4))
    model = SklearnMixture(2, random_state=0).fit(rows)
    target = from_sklearn(model, tokens=2)
    found = target.log_prob(torch.tensor(rows[:5]).reshape(5, 2, 2)).numpy()
    assert found == pytest.approx(model.score_samples(rows[:5]))
