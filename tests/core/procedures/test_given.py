"""Given tokens: procedures run on what is left, against enumeration and closed forms."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from capcheck import check, survey
from capcheck.core.errors import InputError
from capcheck.core.randomness import CounterRandomness
from capcheck.targets import from_spec, from_table
from capcheck.targets.conditional import conditional, log_prob_of
from capcheck.targets.continuous.product_mixture import ProductMixture
from capcheck.targets.target import ContinuousTarget

JOINT = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(0)).double()
JOINT = JOINT / JOINT.sum()
AR1 = from_spec("gaussian:ar1,tokens=4,rho=0.9")


def law_of_product_of_marginals(given: tuple[int, ...]) -> float:
    """KL of completing in one shot: sum p log p(rest | given) / prod p(x_i | given), by hand."""
    total = 0.0
    for x in itertools.product(*(range(size) for size in JOINT.shape)):
        index = [x[i] if i in given else slice(None) for i in range(4)]
        slab = JOINT[tuple(index)] / JOINT[tuple(index)].sum()
        rest = [i for i in range(4) if i not in given]
        p = slab[tuple(x[i] for i in rest)]
        q = 1.0
        for axis, i in enumerate(rest):
            others = [a for a in range(len(rest)) if a != axis]
            q *= float(slab.sum(others)[x[i]])
        total += float(JOINT[x]) * math.log(float(p) / q)
    return total


@pytest.mark.parametrize("given", [(0,), (1, 3), (2,)])
@pytest.mark.parametrize("family", ["gpt", "maskgit"])
def test_kl_with_nothing_placed_is_the_conditional_total_correlation(
    family: str, given: tuple[int, ...]
) -> None:
    padded = torch.zeros(3, 3, 3, 3, dtype=torch.float64)
    padded[:2, :, :2, :2] = JOINT
    found = check(family, from_table(padded), given=given, lengths=[0], steps=[1], samples=200)
    kl = found.cells[0].estimates["kl"]
    assert kl.kind == "exact"
    assert kl.value == pytest.approx(law_of_product_of_marginals(given), abs=1e-10)


def test_two_ends_make_the_middle_of_a_markov_chain_independent() -> None:
    found = check("gpt", AR1, given=[0, 2], lengths=[0], steps=[1], samples=200)
    assert found.cells[0].estimates["kl"].value == 0  # x1 and x3 do not know each other
    unlike = check("gpt", AR1, given=[0], lengths=[0], steps=[1], samples=200)
    # TC(x1, x2, x3 | x0) of a chain: two links of the conditional Gaussian, by determinants.
    C = 0.9 ** (torch.arange(4)[:, None] - torch.arange(4)).abs().double()
    S = C[1:, 1:] - C[1:, :1] @ C[:1, 1:]
    expected = 0.5 * float(S.diagonal().log().sum() - torch.logdet(S))
    assert unlike.cells[0].estimates["kl"].value == pytest.approx(expected, rel=1e-9)


def test_infilling_by_diffusion_is_the_replayed_law_of_the_conditional_denoiser() -> None:
    found = check("diffusion", AR1, given=[0], lengths=[0], steps=[4, 64], samples=200)
    few, many = (cell.estimates["kl"] for cell in found.cells)
    assert few.kind == many.kind == "exact"
    assert few.value is not None
    assert many.value is not None
    assert many.value < few.value / 20  # DDIM is of order 1, and KL goes with its square


def test_conditional_answers_are_those_of_the_joint_law() -> None:
    assert isinstance(AR1, ContinuousTarget)
    x = AR1.sample(6, CounterRandomness(0))
    law = conditional(AR1, [1, 3], x[:, [1, 3]])
    assert isinstance(law, ContinuousTarget)
    C = 0.9 ** (torch.arange(4)[:, None] - torch.arange(4)).abs().double()
    r, g = [0, 2], [1, 3]
    gain = C[r][:, g] @ torch.linalg.inv(C[g][:, g])
    S = C[r][:, r] - gain @ C[g][:, r]
    mean = x[:, g, 0] @ gain.T
    exact = torch.distributions.MultivariateNormal(mean, S).log_prob(x[:, r, 0])
    assert (law.log_prob(x[:, r]) - exact).abs().max() < 1e-9
    prior = torch.distributions.MultivariateNormal(torch.zeros(2).double(), C[g][:, g])
    assert (log_prob_of(AR1, g, x[:, g]) - prior.log_prob(x[:, g, 0])).abs().max() < 1e-9
    pull = -torch.linalg.solve(S, (x[:, r, 0] - mean).T).T
    assert (law.score(x[:, r])[..., 0] - pull).abs().max() < 1e-7
    draws = law.sample(6, CounterRandomness(1))
    assert draws.shape == (6, 2, 1)


def test_components_are_weighted_by_what_the_given_tokens_say() -> None:
    target = ProductMixture(
        torch.tensor([[[-4.0], [-4.0]], [[4.0], [4.0]]]).double(), torch.ones(2, 1).double()
    )
    values = torch.tensor([[[-4.0]], [[4.0]]]).double()
    products = conditional(target, [0], values).products()
    assert products is not None
    assert products.log_weights.exp().round().tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("given", "words"),
    [([4], "0 to 3"), ([-1], "0 to 3"), ([True], "0 to 3"), ([0, 1, 2, 3], "leave a token")],
)
def test_what_cannot_be_given_is_refused(given: list[int], words: str) -> None:
    with pytest.raises(InputError, match=words):
        survey(AR1, ["gpt"], given=given, samples=200)
