"""Errors of a known size: calibrated, and as costly as closed forms say."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from capcheck import InputError, check
from capcheck.core.budget import Budget
from capcheck.core.randomness import CounterRandomness
from capcheck.core.sequences import SequenceSpec
from capcheck.laws import Categorical, MixtureOfGaussians
from capcheck.networks.perturbed import PERTURBATIONS, NotPerturbed, Perturbation, perturbed
from capcheck.noise.paths import PATHS
from capcheck.procedures.registry import build_probe, families
from capcheck.targets import from_spec, from_table
from capcheck.targets.target import Target

CONTINUOUS = from_spec("modes:tokens=4,modes=3,gap=3")
CATEGORICAL = from_table(torch.linspace(1, 27, 27).reshape(3, 3, 3).double() ** 2)


def spec_of(tokens: int, dim: int) -> SequenceSpec:
    mean = torch.linspace(-1, 1, tokens * dim).reshape(tokens, dim).double()
    variance = torch.linspace(0.5, 4, tokens * dim).reshape(tokens, dim).double()
    return SequenceSpec(tokens=tokens, kind="continuous", dim=dim, mean=mean, variance=variance)


@pytest.mark.parametrize("spread", [0.0, 0.1, 3.0])
def test_noise_has_the_size_that_it_is_said_to_have(spread: float) -> None:
    spec = spec_of(4, 3)
    answer = spec.mean + spread * torch.randn(500, 4, 3, generator=torch.Generator().manual_seed(0))
    found = perturbed(lambda x: x, "noise", 0.2, spec)(answer.double())
    error = ((found - answer) / spec.variance.sqrt()).square().mean()
    assert math.sqrt(float(error)) == pytest.approx(0.2, rel=0.03)


def test_shrinkage_moves_answers_towards_the_mean() -> None:
    spec = spec_of(2, 1)
    x = torch.randn(50, 2, 1).double()
    found = perturbed(lambda x: x, "shrinkage", 0.25, spec)(x)
    np.testing.assert_allclose(found, 0.75 * x + 0.25 * spec.mean)


def test_errors_see_no_more_than_the_oracle() -> None:
    probe = build_probe("gpt")
    network = perturbed(probe.signature.oracle(CATEGORICAL), "noise", 0.3, CATEGORICAL.spec)
    tokens = CATEGORICAL.sample(20, CounterRandomness(0))
    known = torch.zeros_like(tokens, dtype=torch.bool)
    known[:, 0] = True
    other = torch.where(known, tokens, 2 - tokens)
    a, b = (network(t, known).log_probabilities for t in (tokens, other))
    torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("size", [0.1, 0.3])
def test_a_temperature_costs_what_the_tempered_table_does(size: float) -> None:
    p = np.array([0.6, 0.25, 0.1, 0.05])
    q = p ** (1 / (1 + size))
    q /= q.sum()
    expected = float((p * np.log(p / q)).sum())
    found = check("gpt", from_table(torch.tensor(p)), samples=200, sensitivity=[size], steps=[1])
    (noise, temperature) = found.sensitivities
    assert (noise.perturbation, temperature.perturbation) == ("noise", "temperature")
    (cell,) = temperature.cells
    assert cell.estimates["kl"].value == pytest.approx(expected, abs=1e-9)
    slope = temperature.slopes["kl"]
    assert slope.value == pytest.approx(expected / size, abs=1e-8)
    assert slope.low == slope.high  # both ends are exact


def test_a_shrunken_flow_costs_what_the_narrower_gaussian_does() -> None:
    size = 0.2
    found = check(
        "flow", from_spec("gaussian:tokens=3,std=2"), samples=200, sensitivity=[size], steps=[1]
    )
    (only,) = found.sensitivities  # of other errors the map would not be invertible
    scale = (1 - size) ** 2
    expected = 3 * 0.5 * (1 / scale - 1 + math.log(scale))
    assert only.perturbation == "shrinkage"
    assert only.cells[0].estimates["kl"].value == pytest.approx(expected, rel=1e-6)
    assert only.allowed is None


def test_sizes_that_are_refused_bound_what_is_allowed() -> None:
    target = from_table(torch.tensor([0.6, 0.25, 0.1, 0.05]))
    found = check("gpt", target, samples=200, sensitivity=True, steps=[1])
    temperature = found.sensitivities[1]
    outcomes = [cell.outcome.value for cell in temperature.cells]
    kls = [cell.estimates["kl"].value for cell in temperature.cells]
    assert kls == sorted(kls)  # type: ignore[type-var]
    assert outcomes == ["representable", "not_representable", "not_representable"]
    assert temperature.allowed == 0.03  # W1 is 0.029 at size 0.1, and may be 0.028


@pytest.mark.parametrize("kind", PERTURBATIONS)
@pytest.mark.parametrize("family", families())
def test_every_family_runs_with_errors_or_says_that_it_has_none(
    family: str, kind: Perturbation
) -> None:
    probe = build_probe(family)
    target: Target = CONTINUOUS if "continuous" in probe.kinds else CATEGORICAL
    if probe.basis(target.spec) is not None:
        pytest.skip("runs in coordinates, which a chart makes")
    oracle = probe.signature.oracle(target)
    budget = Budget(length=target.spec.tokens, steps=2)

    def run(network: Any) -> Tensor:
        *_, last = probe.run(network, target.spec, budget, 40, CounterRandomness(0))
        tokens: Tensor = last.tokens
        return tokens

    try:
        found = run(perturbed(oracle, kind, 0.2, target.spec))
    except NotPerturbed:
        answers = {"temperature": "continuous" in probe.kinds, "noise": family == "ebm"}
        assert answers.get(kind, True) or family in ("flow", "gan")
        return
    assert bool(found.isfinite().all())
    marginals_only = family == "multi_token"  # whose means are those that answers shrink to
    assert torch.equal(found, run(oracle)) == (marginals_only and kind == "shrinkage")


def test_moved_laws_are_the_laws_that_they_should_be() -> None:
    spec = spec_of(2, 1)
    law = MixtureOfGaussians(
        torch.tensor([[[-0.5, -0.9]]]).double().expand(3, 2, 2),
        torch.randn(3, 2, 2, 1).double(),
        torch.rand(3, 2, 2, 1).double() + 0.2,
    )
    moved = perturbed(lambda: law, "noise", 0.5, spec)()
    shift = moved.mean() - law.mean()
    written = MixtureOfGaussians(law.log_weights, law.means + shift[:, :, None], law.variances)
    x = torch.randn(3, 2, 1).double()
    t = torch.full((3, 2), 0.4).double()
    ways: list[Callable[[Any], Tensor]] = [
        lambda law: law.log_prob(x),
        lambda law: law.variance(),
        lambda law: law.cdf(x),
        lambda law: law.icdf(torch.full((3, 2), 0.3).double()),
        lambda law: law.denoise(x, t, PATHS["cosine"]),
        lambda law: law.select([1]).mean(),
        lambda law: law.rows(torch.tensor([0, 2])).mean(),
        lambda law: law.held().log_prob(x),
        lambda law: law.sample(CounterRandomness(1)),
    ]
    for of in ways:
        torch.testing.assert_close(of(moved), of(written), rtol=1e-9, atol=1e-9)


def test_an_impossible_symbol_stays_impossible() -> None:
    law = Categorical(torch.tensor([[[0.0, -math.inf, 1.0]]]).double().expand(1, 3, 3))
    for kind in ("noise", "temperature"):
        found = perturbed(lambda: law, kind, 0.3, CATEGORICAL.spec)()
        assert float(found.mean()[0, 0, 1]) == 0
        assert float(found.mean().sum()) == pytest.approx(3)


@pytest.mark.parametrize("sizes", [[0.0], [1.0], ["x"], [True]])
def test_sizes_out_of_range_are_refused(sizes: Any) -> None:
    with pytest.raises(InputError, match="sensitivity must be sizes above 0 and below 1"):
        check("gpt", CATEGORICAL, samples=200, sensitivity=sizes)
