"""Bounds on the log-density of a law with hidden draws, against laws in closed form."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness, Randomness
from capcheck.divergences.evidence import ModelEvidence
from capcheck.divergences.reference import Reference
from capcheck.exact import hidden_draws
from capcheck.exact.hidden_draws import between_bounds, over_hidden_draws
from capcheck.targets import from_spec


def weights(hidden: float, rest: float, at: Tensor, rng: Randomness) -> Tensor:
    """Log N(x; h, rest) for one hidden draw h ~ N(0, hidden) of each row; x is N(0, both)."""
    x = at.flatten()
    h = rng.normal((len(x),)) * math.sqrt(hidden)
    return torch.from_numpy(stats.norm(h, math.sqrt(rest)).logpdf(x))


@pytest.mark.parametrize("hidden", [0.02, 0.2, 0.5])
def test_a_gaussian_with_a_hidden_shift_lies_between(hidden: float) -> None:
    x = CounterRandomness(0).normal((20_000, 1, 1)) * math.sqrt(hidden + 1)
    found = over_hidden_draws(
        lambda x, rng: weights(hidden, 1.0, x, rng), x, CounterRandomness(1), "shifts"
    )
    assert found.bound
    assert found.above is not None
    draws = hidden_draws.DRAWS
    assert f"{draws} shifts a row" in found.method
    log_q = torch.from_numpy(stats.norm(0, math.sqrt(hidden + 1)).logpdf(x.flatten()))
    for gap in (log_q - found.values, found.above - log_q):
        error = float(gap.std()) / math.sqrt(len(x))
        assert -3 * error - 1e-12 <= float(gap.mean()) <= 4 * hidden / draws + 3 * error + 1e-12


def test_weights_that_differ_by_nats_are_drawn_once() -> None:
    calls = []

    def counted(x: Tensor, rng: Randomness) -> Tensor:
        calls.append(len(x))
        return weights(25.0, 1.0, x, rng)

    x = CounterRandomness(0).normal((500, 1, 1)) * math.sqrt(26)
    found = over_hidden_draws(counted, x, CounterRandomness(1), "shifts")
    assert (found.bound, found.above) == (True, None)
    assert calls == [500 + hidden_draws.PILOT]
    log_q = torch.from_numpy(stats.norm(0, math.sqrt(26)).logpdf(x.flatten()))
    assert float((log_q - found.values).mean()) > 1
    alike = over_hidden_draws(
        lambda x, rng: weights(0.0, 1.0, x, rng), x, CounterRandomness(1), "shifts"
    )
    assert (alike.bound, alike.above) == (True, None)
    assert torch.equal(alike.values, weights(0.0, 1.0, x, CounterRandomness(2)))
    impossible = over_hidden_draws(
        lambda x, rng: torch.full((len(x),), -torch.inf), x, CounterRandomness(1), "shifts"
    )
    assert impossible.above is None


def test_a_known_factor_moves_both_bounds() -> None:
    found = between_bounds(torch.tensor([[0.0, 1.0], [0.5, 1.0]]), "two").plus(torch.tensor(3.0))
    assert found.above is not None
    assert found.values.tolist() == pytest.approx([3 + math.log((1 + math.exp(0.5)) / 2), 4])
    assert found.above.tolist() == pytest.approx([3 + 0.25 + math.cosh(0.5) - 1, 4])


SHIFT = 0.7  # of the model's mean; KL is half its square


def shifted(hidden: float, M: int, seed: int) -> tuple[Reference, ModelEvidence]:
    """A standard Gaussian, and a model of another mean whose density is known by weights only."""
    target = from_spec("gaussian:tokens=1")
    reference = Reference(target, divergences=["kl"], samples=1000, seed=seed)
    rng = CounterRandomness(seed, name="hidden")
    moved = reference.draws - SHIFT
    log_w = torch.stack([weights(hidden, 1 - hidden, moved, rng) for _ in range(M)])
    samples = CounterRandomness(seed, name="model").normal((1000, 1, 1)) + SHIFT
    return reference, ModelEvidence(samples=samples, log_density=between_bounds(log_w, "weights"))


def test_kl_lies_between_bounds_from_weights_as_often_as_stated() -> None:
    inside = []
    for seed in range(100):
        reference, model = shifted(0.05, 16, seed)
        kl = reference.estimates(model)["kl"]
        assert kl.kind == "two bounds"
        assert kl.low is not None
        assert kl.high is not None
        assert kl.high - kl.low < 0.2
        assert "below: the same weights" in kl.method
        inside.append(kl.low <= SHIFT**2 / 2 <= kl.high)
    # 95% is stated, and the bounds lie outside of KL: fewer than 90 of 100 come about at a level
    # of 95% once in 90 times, at one of 85% nine times in ten.
    assert np.mean(inside) >= 0.9


def test_weights_that_say_little_leave_the_bound_to_the_draws() -> None:
    reference, model = shifted(0.95, 2, 0)
    assert "below: variational" in reference.estimates(model)["kl"].method
    # Bounds from above with a tail whose mean is infinite: any sample's falls short.
    reference, model = shifted(0.2, 16, 0)
    density = model.log_density
    assert isinstance(density, LogDensity)
    excess = torch.from_numpy(stats.genpareto(1.2, scale=0.01).rvs(1000, random_state=1))
    spoilt = dataclasses.replace(density, above=density.values + excess)
    found = reference.estimates(dataclasses.replace(model, log_density=spoilt))["kl"]
    assert "below: variational" in found.method
