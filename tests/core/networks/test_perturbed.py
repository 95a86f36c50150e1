"""Errors of a known size: calibrated, and as costly as closed forms say."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from capcheck import InputError, check
from capcheck.core.budget import Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness
from capcheck.core.sequences import SequenceSpec
from capcheck.laws import Categorical, MixtureOfGaussians
from capcheck.networks.perturbed import PERTURBATIONS, NotPerturbed, Perturbation, Perturbing
from capcheck.networks.signatures import TokenPredictorSignature
from capcheck.noise.paths import PATHS
from capcheck.procedures.procedure import AnyProcedure, Procedure
from capcheck.procedures.registry import build_probe, families
from capcheck.targets import from_spec, from_table
from capcheck.targets.target import Target

CONTINUOUS = from_spec("modes:tokens=4,modes=3,gap=3")
CATEGORICAL = from_table(torch.linspace(1, 27, 27).reshape(3, 3, 3).double() ** 2)


def spec_of(tokens: int, dim: int) -> SequenceSpec:
    mean = torch.linspace(-1, 1, tokens * dim).reshape(tokens, dim).double()
    variance = torch.linspace(0.5, 4, tokens * dim).reshape(tokens, dim).double()
    return SequenceSpec(tokens=tokens, kind="continuous", dim=dim, mean=mean, variance=variance)


def answered(kind: Perturbation, size: float, spec: SequenceSpec, answer: Any) -> Any:
    """An answer with errors, of a network that always gives it."""
    wrapper = Perturbing(kind, size, spec, TokenPredictorSignature())
    return wrapper.call(lambda: answer)


@pytest.mark.parametrize("spread", [0.0, 0.1, 3.0])
def test_noise_has_the_size_that_it_is_said_to_have(spread: float) -> None:
    spec = spec_of(4, 3)
    answer = spec.mean + spread * torch.randn(500, 4, 3, generator=torch.Generator().manual_seed(0))
    found = answered("noise", 0.2, spec, answer.double())
    error = ((found - answer) / spec.variance.sqrt()).square().mean()
    assert math.sqrt(float(error)) == pytest.approx(0.2, rel=0.03)


def test_shrinkage_moves_answers_towards_the_mean() -> None:
    spec = spec_of(2, 1)
    x = torch.randn(50, 2, 1).double()
    found = answered("shrinkage", 0.25, spec, x)
    np.testing.assert_allclose(found, 0.75 * x + 0.25 * spec.mean)


def test_errors_see_no_more_than_the_oracle() -> None:
    network = Procedure.of(build_probe("gpt"), CATEGORICAL).perturbed("noise", 0.3).network
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
    (noise, temperature) = found.found.sensitivities
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
    (only,) = found.found.sensitivities  # of other errors the map would not be invertible
    scale = (1 - size) ** 2
    expected = 3 * 0.5 * (1 / scale - 1 + math.log(scale))
    assert only.perturbation == "shrinkage"
    assert only.cells[0].estimates["kl"].value == pytest.approx(expected, rel=1e-6)
    assert only.allowed is None


def test_sizes_that_are_refused_bound_what_is_allowed() -> None:
    target = from_table(torch.tensor([0.6, 0.25, 0.1, 0.05]))
    found = check("gpt", target, samples=200, sensitivity=True, steps=[1])
    temperature = found.found.sensitivities[1]
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
    procedure = Procedure.of(probe, target)
    budget = Budget(length=target.spec.tokens, steps=2)

    def run(one: AnyProcedure) -> Tensor:
        return one.sample(budget, 40, CounterRandomness(0))

    try:
        found = run(procedure.perturbed(kind, 0.2))
    except NotPerturbed:
        answers = {"temperature": "continuous" in probe.kinds, "noise": family == "ebm"}
        assert answers.get(kind, True) or family in ("flow", "gan")
        return
    assert bool(found.isfinite().all())
    # Marginals have the means that answers shrink to; so have the differences of tokens that are
    # alike, of which var is asked given the coarser ones.
    unmoved = family in ("multi_token", "var") and kind == "shrinkage"
    assert torch.equal(found, run(procedure)) == unmoved


def test_moved_laws_are_the_laws_that_they_should_be() -> None:
    spec = spec_of(2, 1)
    law = MixtureOfGaussians(
        torch.tensor([[[-0.5, -0.9]]]).double().expand(3, 2, 2),
        torch.randn(3, 2, 2, 1).double(),
        torch.rand(3, 2, 2, 1).double() + 0.2,
    )
    moved = answered("noise", 0.5, spec, law)
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
        found = answered(kind, 0.3, CATEGORICAL.spec, law)
        assert float(found.mean()[0, 0, 1]) == 0
        assert float(found.mean().sum()) == pytest.approx(3)


@pytest.mark.parametrize("sizes", [[0.0], [1.0], ["x"], [True]])
def test_sizes_out_of_range_are_refused(sizes: Any) -> None:
    with pytest.raises(InputError, match="sensitivity must be sizes above 0 and below 1"):
        check("gpt", CATEGORICAL, samples=200, sensitivity=sizes)


def test_a_generator_is_no_bijection_because_it_has_a_method_of_that_name() -> None:
    class Accident:
        """A generator with something that is called log_prob."""

        def __call__(self, z: Tensor) -> Tensor:
            return 2 * z

        def log_prob(self, *anything: Any) -> Tensor:
            raise AssertionError("a generator was asked for its density")

    def plain(z: Tensor) -> Tensor:
        return 2 * z

    budget, rng = Budget(length=4, steps=1), CounterRandomness(0)
    gan = Procedure.of(build_probe("gan"), CONTINUOUS)
    for kind in ("noise", "shrinkage"):
        draws = [
            gan.with_network(network).perturbed(kind, 0.2).sample(budget, 30, CounterRandomness(1))
            for network in (Accident(), plain)
        ]
        assert torch.equal(*draws)
        assert not torch.equal(
            draws[0], gan.with_network(plain).sample(budget, 30, CounterRandomness(1))
        )
    # Twin: of a bijection only the errors that leave it one.
    flow = Procedure.of(build_probe("flow"), CONTINUOUS).with_network(Accident())
    with pytest.raises(NotPerturbed):
        flow.perturbed("noise", 0.2).sample(budget, 30, rng)
    flow.perturbed("shrinkage", 0.2).sample(budget, 30, rng)


def test_a_shrunken_flow_with_given_tokens_keeps_their_values_and_its_density() -> None:
    size, chain = 0.2, from_spec("gaussian:ar1,tokens=3,rho=0.6")
    procedure = Procedure.of(build_probe("flow"), chain, given=(1,)).perturbed("shrinkage", size)
    x = chain.sample(20, CounterRandomness(0))
    found = procedure.log_density(Budget(length=2, steps=1), x, CounterRandomness(1))
    assert isinstance(found, LogDensity)
    # Tokens 0 and 2 given the middle one are N(0.6 x_1, 0.64); shrinking scales both moments.
    given = x[:, 1, 0].numpy()
    expected = stats.norm.logpdf(given)
    for i in (0, 2):
        mean, deviation = (1 - size) * 0.6 * given, (1 - size) * 0.8
        expected = expected + stats.norm.logpdf(x[:, i, 0].numpy(), mean, deviation)
    np.testing.assert_allclose(found.values, expected, atol=1e-9)
