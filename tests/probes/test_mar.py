"""Groups of diffused tokens against Gaussian conditioning and the closed form of DDIM."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from reference.diffusion import ddim_variance
from reference.traces import traces_of

from capcheck import check
from capcheck.core.budget import Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness
from capcheck.core.unavailable import Unavailable
from capcheck.laws.gaussian import GaussianLaw
from capcheck.laws.gaussian_orders import MixtureLaw
from capcheck.networks.signatures import OwnDenoiser, Wrapper
from capcheck.probes.length_outer.mar import MAR
from capcheck.procedures.density_cost import affordable
from capcheck.procedures.orders import commit_schedule
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe
from capcheck.targets import ProductMixture, from_spec

Array = NDArray[np.float64]
N, RHO = 4, 0.8
COVARIANCE: Array = RHO ** np.abs(np.subtract.outer(np.arange(N), np.arange(N)))
TARGET = from_spec(f"gaussian:ar1,tokens={N},rho={RHO}")


def replayed(
    k: int, length: int = N, given: Sequence[int] = (), **options: str
) -> GaussianLaw | MixtureLaw:
    procedure = Procedure.of(build_probe("mar", options), TARGET, given=given)
    law = procedure.exact_law(Budget(length=length, steps=k))
    assert isinstance(law, (GaussianLaw, MixtureLaw)), law
    return law


def covariance(law: GaussianLaw | MixtureLaw) -> Array:
    laws = law.laws if isinstance(law, MixtureLaw) else (law,)
    weights = law.weights.tolist() if isinstance(law, MixtureLaw) else [1.0]
    total: Array = sum(w * one.covariance.numpy() for w, one in zip(weights, laws, strict=True))
    return total


def of_order(order: tuple[int, ...], cuts: list[int], k: float, path: str, first: int = 0) -> Array:
    """Covariance if the blocks of an order are drawn as x_i = m_i(known) + f(v_i) e.

    f(v) is the product of the DDIM factors of N(0, v), which tends to sqrt(v). The first tokens of
    the order may be given: drawn from the target, all together.
    """
    loadings = np.zeros((N, N))  # x = loadings @ e
    if first:
        at = list(order[:first])
        loadings[np.ix_(at, at)] = np.linalg.cholesky(COVARIANCE[np.ix_(at, at)])
    for before, after in itertools.pairwise(cuts):
        known = list(order[:before])
        inside = COVARIANCE[np.ix_(known, known)]
        for i in order[before:after]:
            weights = np.linalg.solve(inside, COVARIANCE[known, i]) if known else np.zeros(0)
            v = float(COVARIANCE[i, i] - weights @ COVARIANCE[known, i])
            loadings[i] = weights @ loadings[known] if known else 0
            loadings[i, i] = math.sqrt(ddim_variance(v, int(k), path) if k < np.inf else v)
    found: Array = loadings @ loadings.T
    return found


def over_orders(cuts: list[int], k: float, path: str) -> Array:
    each = [of_order(order, cuts, k, path) for order in itertools.permutations(range(N))]
    mean: Array = np.mean(each, axis=0)
    return mean


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize(("per_round", "k"), [(1, 1), (1, 3), (2, 3), (3, 5), (4, 2)])
def test_every_token_comes_out_of_its_own_ddim(path: str, per_round: int, k: int) -> None:
    cuts = commit_schedule(N, rounds=1, per_round=per_round)
    found = covariance(replayed(k, tokens_per_round=str(per_round), path=path))
    assert np.abs(found - over_orders(cuts, k, path)).max() < 1e-9
    assert np.abs(found - over_orders(cuts, k + 1, path)).max() > 1e-3


def test_a_cut_group_is_completed_from_exact_marginals() -> None:
    # Two tokens of three by DDIM, the other two from their marginals given them.
    weights = np.zeros((N, N))
    for order in itertools.permutations(range(N)):
        loadings = np.linalg.cholesky(
            of_order(order, [0, 2], 3, "cosine")[np.ix_(order[:2], order[:2])]
        )
        known, rest = list(order[:2]), list(order[2:])
        M = np.zeros((N, N))
        M[known, :2] = loadings
        regression = np.linalg.solve(COVARIANCE[np.ix_(known, known)], COVARIANCE[known]).T
        M[rest, :2] = regression[rest] @ loadings
        for place, i in enumerate(rest, start=2):
            M[i, place] = math.sqrt(COVARIANCE[i, i] - regression[i] @ COVARIANCE[known, i])
        weights += M @ M.T / math.factorial(N)
    found = covariance(replayed(3, length=2, tokens_per_round="3"))
    assert np.abs(found - weights).max() < 1e-9


def test_what_many_steps_leave_is_the_total_correlation_of_the_groups() -> None:
    # Given the order, KL(p, q) tends to sum over groups of E[TC(group | known)], here by
    # determinants: 1/2 (sum of ln conditional variances - ln conditional determinant).
    cuts, k = [0, 2, 4], 4000
    for order in [(0, 1, 2, 3), (0, 2, 1, 3), (3, 0, 2, 1)]:
        expected = 0.0
        for known, group in [([], order[:2]), (list(order[:2]), order[2:])]:
            g = list(group)
            S = COVARIANCE[np.ix_(g, g)]
            if known:
                cross = COVARIANCE[np.ix_(known, g)]
                S = S - cross.T @ np.linalg.solve(COVARIANCE[np.ix_(known, known)], cross)
            expected += 0.5 * (np.log(np.diag(S)).sum() - np.linalg.slogdet(S)[1])
        Q = of_order(order, cuts, k, "cosine")
        ratio = np.linalg.solve(Q, COVARIANCE)
        kl = 0.5 * (np.trace(ratio) - N - np.linalg.slogdet(ratio)[1])
        assert kl == pytest.approx(expected, abs=1e-3)
        assert expected > 0.05
    # The law of `run` tends to that mixture over orders, at the order 1 of DDIM.
    exact = over_orders(cuts, np.inf, "cosine")
    errors = [
        np.abs(covariance(replayed(k, tokens_per_round="2")) - exact).max() for k in (6, 12, 24)
    ]
    slope = -np.polyfit(np.log([6, 12, 24]), np.log(errors), 1)[0]
    assert slope == pytest.approx(1, abs=0.2)


def test_a_token_comes_out_with_the_squared_factor_for_a_variance() -> None:
    # Not with f^2 v: with two tokens of correlation 0.8 in turn, v is 1 and then 0.36.
    law = Procedure.of(MAR(order="fixed", tokens_per_round=1), TARGET).exact_law(
        Budget(length=2, steps=3)
    )
    assert isinstance(law, GaussianLaw)
    C = law.covariance.numpy()
    assert C[0, 0] == pytest.approx(ddim_variance(1.0, 3, "cosine"), abs=1e-10)
    own = C[1, 1] - C[0, 1] ** 2 / C[0, 0]
    f_squared = ddim_variance(1 - RHO**2, 3, "cosine")
    assert own == pytest.approx(f_squared, abs=1e-10)
    assert abs(own - f_squared * (1 - RHO**2)) > 0.05


@pytest.mark.parametrize(("per_round", "k"), [(1, 3), (2, 2)])
def test_a_fixed_order_is_that_of_the_sequence(per_round: int, k: int) -> None:
    cuts = commit_schedule(N, rounds=1, per_round=per_round)
    law = replayed(k, tokens_per_round=str(per_round), order="fixed")
    assert isinstance(law, GaussianLaw)
    expected = of_order((0, 1, 2, 3), cuts, k, "cosine")
    assert np.abs(covariance(law) - expected).max() < 1e-9
    assert np.abs(covariance(law) - over_orders(cuts, k, "cosine")).max() > 1e-3


@pytest.mark.parametrize("given", [(0,), (2,), (0, 3)])
def test_given_tokens_are_known_and_the_order_is_that_of_the_others(given: tuple[int, ...]) -> None:
    free = [i for i in range(N) if i not in given]
    cuts = [len(given) + m for m in commit_schedule(len(free), rounds=1, per_round=1)]
    each = [
        of_order((*given, *order), cuts, 3, "cosine", first=len(given))
        for order in itertools.permutations(free)
    ]
    found = covariance(replayed(3, len(free), given, tokens_per_round="1"))
    assert np.abs(found - np.mean(each, axis=0)).max() < 1e-9
    apart = [len(given), N]  # the twin: all in one group
    other = of_order((*given, *free), apart, 3, "cosine", first=len(given))
    assert np.abs(found - other).max() > 1e-3


def test_any_network_sees_given_tokens_as_known() -> None:
    def network(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return ((t == 0)[..., None] * x_t).sum(1, keepdim=True).expand_as(x_t)

    procedure = Procedure.of(MAR(rounds=1), TARGET, given=(1, 2)).with_network(network)
    x = procedure.sample(Budget(length=2, steps=2), 5, CounterRandomness(0))
    assert (x[:, [0, 3]] - x[:, [1, 2]].sum(1)[:, None]).abs().max() < 1e-12


def test_a_replay_runs_all_orders_at_once() -> None:
    # 24 orders of 4 groups in 5 steps: one run to find the draws out, and one for all rows.
    calls = 0

    class Counted(Wrapper):
        def call(self, network: Any, *shown: torch.Tensor) -> Any:
            nonlocal calls
            calls += 1
            return network(*shown)

    procedure = Procedure.of(MAR(tokens_per_round=1), TARGET).wrapped(Counted())
    law = procedure.exact_law(Budget(length=N, steps=5))
    assert isinstance(law, MixtureLaw)
    assert calls == 2 * 4 * 5


def test_tokens_finish_one_group_after_the_other() -> None:
    procedure = Procedure.of(MAR(), TARGET)

    def trace(k: int) -> str:
        states = list(procedure.run(Budget(length=N, steps=k), 50, CounterRandomness(0)))
        assert len(states) == 1 + k * (len(commit_schedule(N, rounds=4)) - 1)
        return traces_of(states).highest

    assert trace(4) == "finish_first"
    assert trace(1) == "in_turn"


@pytest.mark.parametrize("given", [(), (1,)])
def test_kl_of_one_token_per_round_falls_with_the_square_of_the_steps(
    three: ProductMixture, given: tuple[int, ...]
) -> None:
    procedure = Procedure.of(MAR(tokens_per_round=1), three, given=given)
    x = three.sample(500, CounterRandomness(3))
    found = []
    for k in (12, 24, 48):
        budget = Budget(length=3 - len(given), steps=k)
        density = procedure.log_density(budget, x, CounterRandomness(0))
        assert isinstance(density, LogDensity)
        assert not density.bound
        found.append(float((three.log_prob(x) - density.values).mean()))
    slope = -np.polyfit(np.log([12, 24, 48]), np.log(found), 1)[0]
    assert slope == pytest.approx(2, abs=0.4), found


@pytest.mark.parametrize("given", [(), (1,)])
@pytest.mark.parametrize("per_round", [None, 1, 2])
def test_in_fixed_order_the_density_is_that_of_the_exact_law(
    given: tuple[int, ...], per_round: int | None
) -> None:
    target = from_spec("gaussian:ar1,tokens=4,rho=0.8")
    procedure = Procedure.of(MAR(order="fixed", tokens_per_round=per_round), target, given=given)
    x = target.sample(100, CounterRandomness(3))
    for budget in (Budget(length=4 - len(given), steps=3), Budget(length=2, steps=5)):
        law, density = (
            procedure.exact_law(budget),
            procedure.log_density(budget, x, CounterRandomness(0)),
        )
        assert isinstance(law, GaussianLaw)
        assert isinstance(density, LogDensity)
        assert not density.bound
        torch.testing.assert_close(density.values, law.log_prob(x), atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("given", [(), (1,)])
@pytest.mark.parametrize("per_round", [None, 1, 2])
def test_in_random_order_of_few_tokens_the_density_is_that_of_the_mixture(
    given: tuple[int, ...], per_round: int | None
) -> None:
    target = from_spec("gaussian:ar1,tokens=4,rho=0.8")
    procedure = Procedure.of(MAR(tokens_per_round=per_round), target, given=given)
    x = target.sample(50, CounterRandomness(3))
    for budget in (Budget(length=4 - len(given), steps=3), Budget(length=1, steps=2)):
        law = procedure.exact_law(budget)
        density = procedure.log_density(budget, x, CounterRandomness(0))
        assert isinstance(law, (GaussianLaw, MixtureLaw))
        assert isinstance(density, LogDensity)
        assert not density.bound
        torch.testing.assert_close(density.values, law.log_prob(x), atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("per_round", [None, 1])
@pytest.mark.parametrize("spec", ["gaussian:ar1,tokens=4,rho=0.8", "modes:tokens=4,modes=2,gap=3"])
@pytest.mark.parametrize("length", [2, 4])
def test_the_sum_over_sets_is_the_mean_over_all_orders(
    spec: str, per_round: int | None, length: int
) -> None:
    target, budget = from_spec(spec), Budget(length=length, steps=3)
    procedure = Procedure.of(MAR(tokens_per_round=per_round), target)
    x = target.sample(20, CounterRandomness(3))
    density = procedure.log_density(budget, x, CounterRandomness(0))
    assert isinstance(density, LogDensity)
    assert not density.bound
    probe, inside = procedure.probe, procedure.coordinates
    network = procedure.network
    assert isinstance(probe, MAR)
    assert isinstance(network, OwnDenoiser)
    along = [
        probe._log_density_along(
            torch.tensor(order).expand(20, -1), network, procedure.completion,
            procedure.spec, budget, inside.coordinates(x),
        )
        for order in itertools.permutations(range(4))
    ]  # fmt: skip
    mean = np.logaddexp.reduce([np.asarray(one) for one in along]) - math.log(24)
    expected = inside.density_of_tokens(LogDensity(values=torch.from_numpy(mean), method=""))
    assert isinstance(expected, LogDensity)
    torch.testing.assert_close(density.values, expected.values, atol=1e-9, rtol=1e-9)


def test_more_orders_than_can_be_summed_give_a_bound() -> None:
    target = from_spec("gaussian:ar1,tokens=10,rho=0.8")
    procedure = Procedure.of(MAR(tokens_per_round=1), target)
    x = target.sample(4, CounterRandomness(3))
    density = procedure.log_density(Budget(length=10, steps=3), x, CounterRandomness(0))
    assert isinstance(density, LogDensity)
    assert density.bound


def test_a_sum_that_takes_too_long_gives_way_to_a_bound() -> None:
    budget = Budget(length=5, steps=3)
    procedure = Procedure.of(MAR(), from_spec("gaussian:ar1,tokens=5,rho=0.8"))
    exact = affordable(procedure, budget, 200, 10.0)
    assert not isinstance(exact, Unavailable)
    assert exact[0] is procedure
    loose = affordable(procedure, budget, 200, 0.01)
    assert not isinstance(loose, Unavailable)
    x = procedure.target.sample(2000, CounterRandomness(3))
    values = []
    for one in (exact[0], loose[0]):
        density = one.log_density(budget, x, CounterRandomness(0))
        assert isinstance(density, LogDensity)
        assert density.bound == (one is loose[0])
        values.append(density.values.mean())
    assert values[1] < values[0]
    assert isinstance(affordable(procedure, budget, 200, 1e-5), Unavailable)
    assert Procedure.of(MAR(order="fixed"), procedure.target).with_cheaper_density() is None


def test_the_density_of_a_mixture_integrates_to_one_over_an_order() -> None:
    target = from_spec("modes:tokens=2,modes=2,gap=3")
    procedure = Procedure.of(MAR(order="fixed", tokens_per_round=1), target)
    x = torch.linspace(-8.5, 8.5, 201, dtype=torch.float64)
    grid = torch.cartesian_prod(x, x)[..., None]
    density = procedure.log_density(Budget(length=2, steps=4), grid, CounterRandomness(0))
    assert isinstance(density, LogDensity)
    q = density.values.exp().reshape(201, 201)
    total = torch.trapezoid(torch.trapezoid(q, x), x)
    assert float(total) == pytest.approx(1, abs=1e-6)


def test_the_cure_is_one_token_per_round() -> None:
    (suspect,) = MAR().suspects()
    assert suspect.probe == MAR(tokens_per_round=1)
    assert suspect.probe.suspects() == ()


def test_the_reverse_kl_of_few_tokens_is_estimated_from_the_exact_density() -> None:
    found = check(
        "mar", from_spec("modes:tokens=3,modes=2,gap=3"), divergences=["reverse_kl"],
        samples=400, lengths=[3], steps=[4],
    )  # fmt: skip
    assert found.cells[0].estimates["reverse_kl"].kind == "estimate"
