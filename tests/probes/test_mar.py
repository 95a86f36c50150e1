"""Groups of diffused tokens against Gaussian conditioning and the closed form of DDIM."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from reference.diffusion import ddim_variance
from scipy import stats

from capcheck.core.budget import Budget
from capcheck.core.randomness import CounterRandomness
from capcheck.core.unavailable import Unavailable
from capcheck.exact.replay import exact_law
from capcheck.laws.gaussian import GaussianLaw, MixtureLaw
from capcheck.networks.signatures import TokenPredictorSignature
from capcheck.probes.length_outer.mar import MAR
from capcheck.procedures.orders import commit_schedule
from capcheck.procedures.registry import build_probe
from capcheck.procedures.trace import Recorder
from capcheck.targets import ProductMixture, from_spec

Array = NDArray[np.float64]
N, RHO = 4, 0.8
COVARIANCE: Array = RHO ** np.abs(np.subtract.outer(np.arange(N), np.arange(N)))
TARGET = from_spec(f"gaussian:ar1,tokens={N},rho={RHO}")


def replayed(k: int, length: int = N, **options: str) -> GaussianLaw | MixtureLaw:
    probe = build_probe("mar", options)
    law = exact_law(
        probe,
        probe.signature.oracle(TARGET),
        completion=TokenPredictorSignature().oracle(TARGET),
        spec=TARGET.spec,
        budget=Budget(length=length, steps=k),
    )
    assert not isinstance(law, Unavailable)
    return law


def covariance(law: GaussianLaw | MixtureLaw) -> Array:
    laws = law.laws if isinstance(law, MixtureLaw) else (law,)
    weights = law.weights.tolist() if isinstance(law, MixtureLaw) else [1.0]
    total: Array = sum(w * one.covariance.numpy() for w, one in zip(weights, laws, strict=True))
    return total


def of_order(order: tuple[int, ...], cuts: list[int], k: float, path: str) -> Array:
    """Covariance if the blocks of an order are drawn as x_i = m_i(known) + f sqrt(v_i) e."""
    loadings = np.zeros((N, N))  # x = loadings @ e
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


def test_tokens_finish_one_group_after_the_other() -> None:
    probe = build_probe("mar")
    network = probe.signature.oracle(TARGET)

    def trace(k: int) -> str:
        recorder, budget = Recorder("mar"), Budget(length=N, steps=k)
        states = list(probe.run(network, TARGET.spec, budget, 50, CounterRandomness(0)))
        for state in states:
            recorder.record(state)
        assert len(states) == 1 + k * (len(commit_schedule(N, rounds=4)) - 1)
        return recorder.traces(len(states) - 1).highest

    assert trace(4) == "finish_first"
    assert trace(1) == "in_turn"


def test_one_token_per_round_tends_to_draws_of_the_target(three: ProductMixture) -> None:
    probe = MAR(tokens_per_round=1)
    oracle, n = probe.signature.oracle(three), 600
    limit = probe.limit(oracle, three.spec, n, CounterRandomness(0))
    assert limit is not None
    u = three.marginals(limit, torch.zeros(n, 3), causal=True).cdf(limit)
    for i in range(3):
        assert stats.kstest(u[:, i].numpy(), "uniform").pvalue > 1e-3
    distances = []
    for k in (25, 50, 100):
        budget = Budget(length=3, steps=k)
        *_, last = probe.run(oracle, three.spec, budget, n, CounterRandomness(0))
        distances.append(float((last.tokens - limit).square().mean().sqrt()))
    slope = -np.polyfit(np.log([25, 50, 100]), np.log(distances), 1)[0]
    assert slope == pytest.approx(1, abs=0.2)
    assert distances[-1] < 0.1
    # Other noise is no coupling, and groups of two tend to something else.
    *_, other = probe.run(oracle, three.spec, budget, n, CounterRandomness(1))
    assert float((other.tokens - limit).square().mean().sqrt()) > 0.5
    assert MAR(tokens_per_round=2).limit(oracle, three.spec, n, CounterRandomness(0)) is None


def test_the_cure_is_one_token_per_round() -> None:
    (suspect,) = MAR().suspects()
    assert suspect.probe == MAR(tokens_per_round=1)
    assert suspect.probe.suspects() == ()
