"""Fewer digits: rounded answers, and procedures that keep their tokens in them."""

from __future__ import annotations

import pytest
import torch

from capcheck.core.budget import Budget
from capcheck.core.errors import InputError
from capcheck.core.randomness import CounterRandomness
from capcheck.networks.rounded import PRECISIONS, Precision, chosen_precisions, network_in, spec_in
from capcheck.procedures.registry import build_probe, families
from capcheck.targets import from_spec
from capcheck.targets.target import Target

CONTINUOUS = from_spec("modes:tokens=2,modes=2,gap=3")
CATEGORICAL = from_spec("copy:tokens=3,symbols=3")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", families())
def test_every_family_runs_in_every_precision(family: str, precision: Precision) -> None:
    probe = build_probe(family)
    target: Target = CONTINUOUS if "continuous" in probe.kinds else CATEGORICAL
    if probe.basis(target.spec) is not None:
        pytest.skip("runs in coordinates, which a chart makes")
    network = network_in(probe.signature.oracle(target), precision)
    spec = spec_in(target.spec, precision)
    budget = Budget(length=spec.tokens, steps=2)
    exact = list(
        probe.run(probe.signature.oracle(target), target.spec, budget, 50, CounterRandomness(0))
    )[-1]
    *_, last = probe.run(network, spec, budget, 50, CounterRandomness(0))
    assert bool(last.tokens.isfinite().all())
    if target.spec.kind == "continuous" and precision == "float32":
        close = (last.tokens.double() - exact.tokens).abs() < 1e-3
        assert close.double().mean() > 0.9  # a draw near the edge of a component may fall elsewhere


def test_answers_carry_the_digits_of_the_precision() -> None:
    probe = build_probe("diffusion")
    exact = probe.signature.oracle(CONTINUOUS)
    x = CONTINUOUS.sample(100, CounterRandomness(0))
    t = torch.full((100, 2), 0.5).double()
    errors = {}
    for precision in PRECISIONS:
        answer = network_in(exact, precision)(x, t)
        errors[precision] = float((answer.double() - exact(x, t)).abs().max())
    assert errors["float32"] < 1e-6 < errors["float16"] < errors["bfloat16"] < errors["float8"]


def test_unknown_precisions_are_refused() -> None:
    assert chosen_precisions(["float8", "float32"]) == ("float32", "float8")
    with pytest.raises(InputError, match="bfloat16"):
        chosen_precisions(["bfloat61"])
