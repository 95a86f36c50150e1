"""DDIM and Heun against the closed forms of a Gaussian coordinate."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import UnitDraws
from reference.diffusion import ddim_variance, flow_map_factor

from capcheck.budget import Budget
from capcheck.randomness import CounterRandomness
from capcheck.registry import build_probe
from capcheck.signatures import Denoiser
from capcheck.targets import ProductMixture, Target, from_spec


def final(
    target: Target, k: int, network: Denoiser | None = None, **options: str
) -> tuple[float, float]:
    """Mean and variance of the one token, exactly: the map is affine in its one normal draw."""
    probe = build_probe("diffusion", options)
    network = network or probe.signature.oracle(target)
    budget = Budget(length=1, steps=k)
    *_, last = probe.run(network, target.spec, budget, 2, UnitDraws())
    zero, one = last.tokens[:, 0, 0].tolist()
    return zero, (one - zero) ** 2


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize("v", [0.25, 1.0, 4.0])
@pytest.mark.parametrize("k", [1, 2, 3, 16, 101])
def test_ddim_variance_is_the_closed_form(path: str, v: float, k: int) -> None:
    target = from_spec(f"gaussian:tokens=1,std={v**0.5}")
    mean, variance = final(target, k, path=path)
    assert mean == pytest.approx(0, abs=1e-12)
    assert variance == pytest.approx(ddim_variance(v, k, path), abs=1e-10)
    if v == 1 and path == "cosine":
        assert variance == pytest.approx(np.cos(np.pi / (2 * k)) ** (2 * k), abs=1e-10)


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("heun", 2)])
def test_solvers_have_their_order(path: str, solver: str, order: int) -> None:
    target = from_spec("gaussian:tokens=1,std=0.5")
    steps = np.array([128, 256, 512])
    errors = [abs(final(target, int(k), solver=solver, path=path)[1] - 0.25) for k in steps]
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("path", ["linear", "cosine"])
def test_one_step_is_exact_with_the_flow_map_in_the_denoisers_place(path: str) -> None:
    v, mean = 4.0, 1.5
    target = ProductMixture(
        torch.tensor([[[mean]]], dtype=torch.float64), torch.tensor([[2.0]], dtype=torch.float64)
    )

    def flow_map(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        level = float(t[0, 0])
        a = 1 - level if path == "linear" else np.cos(np.pi * level / 2)
        return mean + flow_map_factor(v, level, 0.0, path) * x_t.sub(a * mean)

    assert final(target, 1, flow_map, path=path) == pytest.approx((mean, v), abs=1e-12)
    assert final(target, 1, path=path) == pytest.approx((mean, 0), abs=1e-12)


def test_one_step_returns_the_data_mean(digits: ProductMixture) -> None:
    probe = build_probe("diffusion")
    network = probe.signature.oracle(digits)
    *_, last = probe.run(network, digits.spec, Budget(length=8, steps=1), 50, CounterRandomness(0))
    assert (last.tokens - digits.means.mean(0)).abs().max() < 1e-12


@pytest.mark.parametrize(("solver", "calls"), [("ddim", 5), ("heun", 9)])
def test_calls_are_k_for_ddim_and_2k_minus_1_for_heun(
    three: ProductMixture, solver: str, calls: int
) -> None:
    probe = build_probe("diffusion", {"solver": solver})
    oracle, count = probe.signature.oracle(three), 0

    def network(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += 1
        answer: torch.Tensor = oracle(x_t, t)
        return answer

    states = list(
        probe.run(network, three.spec, Budget(length=3, steps=5), 4, CounterRandomness(0))
    )
    assert count == calls
    assert len(states) == 6
