"""Laws of tokens one after another, against the conditionals that every target has."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from capcheck.core.randomness import CounterRandomness
from capcheck.targets import from_spec
from capcheck.targets.continuous.gaussian_mixture import GaussianMixture
from capcheck.targets.continuous.product_mixture import ProductMixture
from capcheck.targets.target import Target

LAWS = [
    "brackets:8",
    "parity:9",
    "ising:3,3",
    "chain-parity:4",
    "shuffle:4",
    "copy:tokens=5,symbols=3",
    "gaussian:ar1,tokens=6",
    "modes:tokens=4",
]


def filled(target: Target, x: Tensor, *, by: type[Target] | None = None) -> list[Tensor]:
    """Mean and log-probability of each token's law; x is shown up to the token before it only."""
    shown = torch.zeros_like(x)
    found = []
    laws = target.one_by_one(shown) if by is None else by.one_by_one(target, shown)
    for i, law in enumerate(laws):
        found += [law.mean()[:, 0], law.log_prob(x[:, [i]])[:, 0]]
        shown[:, i] = x[:, i]
    return found


def correlated() -> GaussianMixture:
    draws = CounterRandomness(3)
    root = draws.normal((3, 8, 8))
    covariances = root @ root.mT + torch.eye(8)
    return GaussianMixture(draws.normal((3, 4, 2)), covariances, torch.tensor([0.5, 0.2, 0.3]))


def rows() -> ProductMixture:
    scales = torch.tensor([0.5, 0.2]).expand(4, 2)
    return ProductMixture(CounterRandomness(3).normal((300, 4, 2)), scales)


@pytest.mark.parametrize("law", [*LAWS, correlated, rows])
def test_they_are_the_conditionals_and_multiply_to_the_joint_law(
    law: str | Callable[[], Target],
) -> None:
    target = from_spec(law) if isinstance(law, str) else law()
    x = target.sample(40, CounterRandomness(1))
    quick, plain = filled(target, x), filled(target, x, by=Target)
    for one, other in zip(quick, plain, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)
    joint = torch.stack(quick[1::2]).sum(0)
    torch.testing.assert_close(joint, target.log_prob(x), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("spec", ["brackets:8", "shuffle:4", "copy:tokens=5,symbols=3"])
def test_after_what_cannot_be_the_marginal_laws_are_taken(spec: str) -> None:
    target = from_spec(spec)
    x = torch.ones(3, target.spec.tokens, dtype=torch.int64)
    x[:, 1] = 2 if target.spec.dim > 2 else 1  # no law above allows 1, 2, 1 or a first bracket of 1
    for one, other in zip(filled(target, x), filled(target, x, by=Target), strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)
