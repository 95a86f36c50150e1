"""Fewer digits: rounded answers, and procedures that keep their tokens in them."""

from __future__ import annotations

import pytest
import torch

from capcheck.core.budget import Budget
from capcheck.core.errors import InputError, UnfitError
from capcheck.core.randomness import CounterRandomness
from capcheck.networks.rounded import PRECISIONS, Precision, chosen_precisions
from capcheck.procedures.procedure import Procedure
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
    budget, n = Budget(length=target.spec.tokens, steps=2), 50
    exact = Procedure.of(probe, target)
    if (family, precision) == ("ebm", "float8"):
        with pytest.raises(UnfitError, match="gradient of an energy"):
            exact.rounded(precision)
        return
    *_, wide = exact.run(budget, n, CounterRandomness(0))
    *_, last = exact.rounded(precision).run(budget, n, CounterRandomness(0))
    assert bool(last.tokens.isfinite().all())
    if target.spec.kind == "continuous":
        assert last.tokens.dtype == (
            torch.float32 if precision == "float8" else getattr(torch, precision)
        )
    if target.spec.kind == "continuous" and precision == "float32":
        close = (last.tokens.double() - wide.tokens).abs() < 1e-3
        assert close.double().mean() > 0.9  # a draw near the edge of a component may fall elsewhere


@pytest.mark.parametrize(
    "family",
    [
        "diffusion",
        "consistency",
        "flow_map",
        "ebm",
        "ar_diffusion",
        "rolling_diffusion",
        "mar",
        "diffusion_forcing",
        "ar_smoothing",
    ],
)
def test_given_tokens_keep_their_values_in_fewer_digits(family: str) -> None:
    procedure = Procedure.of(build_probe(family), CONTINUOUS, given=(0,)).rounded("bfloat16")
    budget = Budget(length=1, steps=2)
    first, *later = procedure.run(budget, 20, CounterRandomness(0))
    for state in later:
        assert torch.equal(state.tokens[:, 0], first.tokens[:, 0])
        assert bool(state.tokens.isfinite().all())
    assert bool(later[-1].placed.all())


def test_answers_carry_the_digits_of_the_precision() -> None:
    procedure = Procedure.of(build_probe("diffusion"), CONTINUOUS)
    x = CONTINUOUS.sample(100, CounterRandomness(0))
    t = torch.full((100, 2), 0.5).double()
    exact, errors = procedure.network(x, t), {}
    for precision in PRECISIONS:
        answer = procedure.rounded(precision).network(x, t)
        errors[precision] = float((answer.double() - exact).abs().max())
    assert errors["float32"] < 1e-6 < errors["float16"] < errors["bfloat16"] < errors["float8"]


def test_unknown_precisions_are_refused() -> None:
    assert chosen_precisions(["float8", "float32"]) == ("float32", "float8")
    with pytest.raises(InputError, match="bfloat16"):
        chosen_precisions(["bfloat61"])
