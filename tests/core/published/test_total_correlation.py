"""Total correlations of the published laws, beside the library `dit`."""

from __future__ import annotations

import itertools
import math

import dit
import numpy as np
import pytest
import torch

from capcheck import decoding_plan
from capcheck.published.inference_schedules import reed_solomon
from capcheck.published.speculative_decoding import shifted
from capcheck.targets import CategoricalTarget, MarkovChain, Target, from_spec, uniform_over

CHAIN = MarkovChain(
    [
        torch.tensor([0.5, 0.5], dtype=torch.float64),
        torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64),
    ],
    tokens=6,
)
LAWS: dict[str, Target] = {
    **{
        spec: from_spec(spec)
        for spec in ("shuffle:4", "replacement:8", "copy:tokens=5,symbols=4", "parity:8", "latin:3")
    },
    "code": reed_solomon(5, 2),
    "hands": uniform_over([[0, 1], [2, 3]], vocabulary=4, description="two hands"),
    "chain": CHAIN,
    "shifted": shifted(5, 3, 3),
}


def in_dit(target: Target) -> dit.Distribution:
    """The target as a distribution of `dit`, by the probability of every sequence."""
    assert isinstance(target, CategoricalTarget)
    V, N = target.spec.dim, target.spec.tokens
    if V**N > 20_000:
        listed = target.support()
        assert listed is not None
        x = listed[0]
    else:
        x = torch.tensor(list(itertools.product(range(V), repeat=N)))
    p = target.log_prob(x).double().exp().numpy()
    outcomes = [tuple(row) for row in x[torch.from_numpy(p > 0)].tolist()]
    return dit.Distribution(outcomes, (p[p > 0] / p.sum()).tolist())


@pytest.mark.parametrize("name", LAWS)
def test_correlations_agree_with_dit(name: str) -> None:
    plan, law = decoding_plan(LAWS[name], calls=[1]), in_dit(LAWS[name])
    assert plan.exact
    total = dit.multivariate.total_correlation(law) * math.log(2)
    assert plan.total_correlation.value == pytest.approx(total, abs=1e-9)
    dual = dit.multivariate.dual_total_correlation(law) * math.log(2)
    assert plan.dual_total_correlation.value == pytest.approx(dual, abs=1e-9)
    one = plan.price(1, "uniform")
    assert one is not None
    assert one.kl.value * plan.tokens == pytest.approx(total, abs=1e-9)


def test_another_law_is_noticed() -> None:
    totals = [dit.multivariate.total_correlation(in_dit(target)) for target in LAWS.values()]
    gaps = np.diff(np.sort(totals))
    assert gaps.max() > 0.1
    plan = decoding_plan(from_spec("shuffle:4"), calls=[1])
    other = dit.multivariate.total_correlation(in_dit(from_spec("replacement:8"))) * math.log(2)
    assert plan.total_correlation.value != pytest.approx(other, abs=1e-9)
