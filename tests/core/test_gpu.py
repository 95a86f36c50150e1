"""What runs on a GPU: float32 there against float64 on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from capcheck import Outcome, check, fit, survey
from capcheck.core.budget import Budget
from capcheck.divergences.estimate import Estimate
from capcheck.fitting import build
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe
from capcheck.targets import ProductMixture, from_spec

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")

HOW: dict[str, Any] = {"samples": 1000, "lengths": [8], "steps": [4]}


def overlap(a: Estimate, b: Estimate) -> bool:
    """Whether two intervals meet, or nothing is known on both sides."""
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return a.value is None and b.value is None
    slack = 1e-3 * max(1.0, abs(a.high), abs(b.high))
    return a.low <= b.high + slack and b.low <= a.high + slack


@pytest.mark.parametrize("family", ["diffusion", "gpt", "gan", "flow", "vae", "ebm", "flow_map"])
def test_a_fit_on_a_gpu_comes_as_near_as_one_on_the_cpu(
    digits: ProductMixture, family: str
) -> None:
    if family == "flow":
        pytest.importorskip("zuko")
    probe = build_probe(family)
    on_gpu = digits.to(device=torch.device("cuda"), dtype=torch.float32)
    module = build(probe.signature, Procedure.of(probe, digits).spec, "mlp:width=32,depth=2")
    budgets = [Budget(length=8, steps=4)]
    there = fit(probe, on_gpu, module, budgets=budgets, steps=300)
    here = fit(probe, digits, module, budgets=budgets, steps=300)
    assert not there.diverged
    assert there.start == pytest.approx(here.start, rel=0.05, abs=1e-3)
    assert there.validation == pytest.approx(here.validation, rel=0.15, abs=5e-3)


def test_a_survey_with_near_oracles_agrees_with_the_cpu(digits: ProductMixture) -> None:
    names = ["consistency", "vae", "gan", "flow", "gpt", "diffusion", "maskgit"]
    there = survey(digits, names, device="cuda", fit_steps=100, **HOW)
    here = survey(digits, names, device="cpu", network="none", **HOW)
    oracles = [found for found in there.families if found.network == "oracle"]
    assert there.settings.dtype == "float32"
    for a, b in zip(oracles, here.families, strict=True):
        assert a.error == b.error
        assert a.outcome is b.outcome
        for one, other in zip(a.cells, b.cells, strict=True):
            assert one.model_calls == other.model_calls
            for name, estimate in one.estimates.items():
                assert overlap(estimate, other.estimates[name]), (a.family, name)
    for found in there.families:
        if found.network != "oracle":
            assert found.facts is not None
            assert found.facts.fit is not None
            assert not found.facts.fit.diverged
            assert found.facts.fit.validation < found.facts.fit.start


def test_digits_and_errors_are_measured_there_too() -> None:
    found = check(
        "gpt", from_spec("modes:tokens=3,modes=2,gap=3"), device="cuda", samples=400, lengths=[3],
        steps=[1], precision=["bfloat16", "float16"], sensitivity=True,
    )  # fmt: skip
    assert found.outcome is Outcome.REPRESENTABLE
    assert {p.holding for p in found.found.precisions} == {"holds"}
    assert {s.perturbation for s in found.found.sensitivities} == {"noise", "shrinkage"}
