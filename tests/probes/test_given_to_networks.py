"""Given tokens and networks that are no oracles: each is shown them clean, within its limits.

Every network here answers with the sum of the tokens that it is shown at level 0. With one pass for
a token that sum is the token.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from capcheck.core.budget import Budget
from capcheck.core.randomness import CounterRandomness
from capcheck.laws import MixtureOfGaussians
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe
from capcheck.targets import from_spec

TARGET = from_spec("gaussian:ar1,tokens=4,rho=0.8")


def total(x: Tensor, t: Tensor) -> Tensor:
    """Sum of the clean tokens in the place of every token: (n, N, d)."""
    return ((t == 0)[..., None] * x).sum(1, keepdim=True).expand_as(x)


def sharp(x: Tensor, t: Tensor, s: Tensor) -> MixtureOfGaussians:
    """A law of next to no width at that sum."""
    mean = total(x, t)[:, :, None]
    return MixtureOfGaussians(mean.new_zeros(1, 1, 1), mean, torch.full_like(mean, 1e-24))


@pytest.mark.parametrize(
    ("family", "options", "given", "weights"),
    [
        # Token by token: the given ones and what was drawn before.
        ("ar_diffusion", {"schedule": "sequential"}, (1,), [[1], [1], [2], [4]]),
        ("diffusion_forcing", {"schedule": "autoregressive"}, (1,), [[1], [1], [2], [4]]),
        ("ar_smoothing", {"heads": "exact"}, (1,), [[1], [1], [2], [4]]),
        # All at once: the given ones alone.
        ("diffusion_forcing", {}, (0, 2), [[1, 0], [1, 1], [0, 1], [1, 1]]),
        # The clean context holds one place, or two: token 0 is forgotten, or not.
        (
            "rolling_diffusion",
            {"window": 1, "n_clean": 1},
            (0, 1),
            [[1, 0], [0, 1], [0, 1], [0, 1]],
        ),
        (
            "rolling_diffusion",
            {"window": 1, "n_clean": 2},
            (0, 1),
            [[1, 0], [0, 1], [1, 1], [1, 2]],
        ),
        # Token 3 is beyond the window until it ends there, which it never does.
        (
            "rolling_diffusion",
            {"window": 1, "n_clean": 3},
            (0, 3),
            [[1, 0], [1, 0], [2, 0], [0, 1]],
        ),
    ],
)
def test_one_pass_draws_the_sum_of_what_is_shown_clean(
    family: str, options: dict[str, Any], given: tuple[int, ...], weights: list[list[int]]
) -> None:
    network: Any = sharp if family == "ar_smoothing" else total
    procedure = Procedure.of(build_probe(family, options), TARGET, given=given)
    budget = Budget(length=4 - len(given), steps=1)
    x = procedure.with_network(network).sample(budget, 6, CounterRandomness(0))
    expected = torch.tensor(weights, dtype=torch.float64) @ x[:, list(given)]  # (n, N, d)
    assert (x - expected).abs().max() < 1e-9
    exact = procedure.sample(budget, 6, CounterRandomness(0))
    assert torch.equal(exact[:, list(given)], x[:, list(given)])
    assert (x - exact).abs().max() > 0.1
