"""One call of a generator: what a bound on its slope costs, by closed forms and least squares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import optimize
from scipy.special import ndtr

from capcheck import Outcome, check
from capcheck.core.budget import Budget
from capcheck.core.errors import InputError
from capcheck.core.randomness import CounterRandomness
from capcheck.core.unavailable import Unavailable
from capcheck.networks.oracles import bounded_slope as module
from capcheck.networks.oracles.bounded_slope import BoundedSlope, bounded_slope
from capcheck.networks.oracles.rosenblatt import Rosenblatt
from capcheck.networks.signatures import TokenPredictorSignature
from capcheck.probes.neither.gan import GAN
from capcheck.targets import ProductMixture, Target, from_spec, from_table

Z = np.linspace(-9, 9, 200_001)
PHI = np.exp(-0.5 * Z**2) / np.sqrt(2 * np.pi) * (Z[1] - Z[0])


def pair(m: float, s: float, weight: float = 0.5) -> Target:
    """weight N(-m, s^2) + (1 - weight) N(m, s^2)."""
    return ProductMixture(
        torch.tensor([[[-m]], [[m]]], dtype=torch.float64),
        torch.tensor([[s]], dtype=torch.float64),
        torch.tensor([weight, 1 - weight], dtype=torch.float64),
    )


def values(g: BoundedSlope | Rosenblatt) -> np.ndarray:
    found: np.ndarray = g(torch.tensor(Z)[:, None, None])[:, 0, 0].numpy()
    return found


@pytest.mark.parametrize(("m", "s"), [(1.0, 1.0), (2.0, 1.0), (1.0, 0.5)])
def test_two_modes_need_the_slope_of_the_closed_form(m: float, s: float) -> None:
    needed = s * np.exp(m**2 / (2 * s**2))
    assert isinstance(bounded_slope(pair(m, s), needed * 1.001), Rosenblatt)
    assert isinstance(bounded_slope(pair(m, s), needed * 0.99), BoundedSlope)


@pytest.mark.parametrize("L", [0.5, 1.0, 3.0])
def test_between_two_atoms_it_is_the_centred_clip(L: float) -> None:
    m, s = 1.0, 1e-4
    g = values(bounded_slope(pair(m, s), L))
    assert np.abs(g - np.clip(L * Z, -m, m)).max() < 3e-3 + 10 * s
    assert np.diff(g).max() <= L * (Z[1] - Z[0]) * (1 + 1e-6)
    T = m * np.sign(Z)
    w1 = m * (2 * ndtr(m / L) - 1) - 2 * L * (1 - np.exp(-0.5 * (m / L) ** 2)) / np.sqrt(2 * np.pi)
    assert float(PHI @ np.abs(g - T)) == pytest.approx(w1, abs=2e-3)
    # A ramp on one side has the least total variation, Phi(2m/L) - 1/2, and is further away.
    ramp = np.clip(L * Z - m, -m, m)
    assert float(PHI @ (ramp - T) ** 2) > float(PHI @ (g - T) ** 2) + 1e-3
    between = float(PHI[np.abs(g) < m - 10 * s].sum())
    assert between > ndtr(2 * m / L) - 0.5
    assert float(PHI[np.abs(ramp) < m].sum()) == pytest.approx(ndtr(2 * m / L) - 0.5, abs=1e-3)


def test_no_map_of_bounded_slope_is_nearer(monkeypatch: pytest.MonkeyPatch) -> None:
    # Least squares over increments in [0, L h], on the same 121 knots.
    monkeypatch.setattr(module, "KNOTS", 121)
    monkeypatch.setattr(module, "REACH", 4.0)
    target, L = pair(1.5, 0.4, weight=0.3), 1.2
    found = bounded_slope(target, L)
    assert isinstance(found, BoundedSlope)
    z = found.z.numpy()
    T = Rosenblatt(target=target)(found.z[:, None, None])[:, 0, 0].numpy()
    root = np.exp(-0.25 * z**2)
    steps = np.tril(np.ones((len(z), len(z))))
    low, high = np.r_[-np.inf, np.zeros(120)], np.r_[np.inf, np.full(120, L * (z[1] - z[0]))]
    best = optimize.lsq_linear(root[:, None] * steps, root * T, (low, high), tol=1e-14)
    loss = np.sum(root**2 * (found.g.numpy() - T) ** 2)
    assert loss == pytest.approx(2 * best.cost, rel=1e-6)
    clipped = T[60] + np.r_[0, np.minimum(np.diff(T), L * np.diff(z))].cumsum()
    clipped -= clipped[60] - T[60]  # twin: cutting the slope from the median is further away
    assert np.sum(root**2 * (clipped - T) ** 2) > 1.05 * loss


def test_a_bound_is_the_cause_of_its_floor() -> None:
    target = pair(3.0, 0.3)
    asked = {"lengths": [0, 1], "steps": [1, 4], "samples": 600}
    found = check("gan", target, options={"lipschitz": 1.0}, **asked)  # type: ignore[arg-type]
    assert found.outcome is Outcome.NOT_REPRESENTABLE
    assert found.failure == "limited emission"
    free = check("gan", target, **asked)  # type: ignore[arg-type]
    assert free.outcome is Outcome.REPRESENTABLE
    assert {cell.model_calls for cell in free.cells} == {1}
    assert (free.axes.length, free.axes.steps, free.loop_order) == ("flat", "flat", "none")
    # W2^2 of the bounded map, by quadrature: the squared distance of monotone maps.
    T = values(bounded_slope(target, 1e9))
    w2 = float(PHI @ (values(bounded_slope(target, 1.0)) - T) ** 2)
    estimate = found.cells[0].estimates["wasserstein"]
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.low < w2 < estimate.high


def test_a_bound_is_for_one_number() -> None:
    for target in (from_spec("modes:tokens=2"), from_spec("copy:tokens=1,symbols=3")):
        with pytest.raises(InputError, match="one number"):
            GAN(lipschitz=1.0).signature.oracle(target)
    with pytest.raises(InputError, match="given"):
        check("gan", from_spec("modes:tokens=2"), options={"lipschitz": 1.0}, given=[0])


def test_token_ids_follow_the_table() -> None:
    joint = torch.tensor([[0.1, 0.2, 0.0], [0.0, 0.3, 0.05], [0.15, 0.0, 0.2]]).double()
    side = 400  # all pairs of uniforms on a grid: no number of a cell is off by more than 1/side
    u = (torch.arange(side).double() + 0.5) / side
    z = torch.special.ndtri(torch.cartesian_prod(u, u))[:, :, None]
    x = Rosenblatt(target=from_table(joint))(z)
    counts = torch.bincount(3 * x[:, 0] + x[:, 1], minlength=9).reshape(3, 3) / side**2
    assert (counts - joint).abs().max() < 2 / side
    assert (counts - joint.T).abs().max() > 0.1  # twin
    assert bool((counts[joint == 0] == 0).all())


def test_a_generator_has_no_density() -> None:
    target, probe = from_spec("modes:tokens=2"), GAN()
    oracle, completion = probe.signature.oracle(target), TokenPredictorSignature().oracle(target)
    x, rng = target.sample(3, CounterRandomness(0)), CounterRandomness(0)
    found = probe.log_density(oracle, completion, target.spec, Budget(length=2, steps=1), x, rng)
    assert isinstance(found, Unavailable)
    with pytest.raises(InputError, match="sequence for every row"):
        probe.signature.require(x[:, :1], x)
