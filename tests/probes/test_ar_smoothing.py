"""Smoothing passes against Gaussian conditioning, and exact heads against the target itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from reference import levels as reference
from reference.gaussians import Gaussians, autoregressive
from scipy import integrate, stats

from capcheck import check
from capcheck.core.budget import Budget
from capcheck.core.errors import InputError, UnfitError
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness
from capcheck.core.unavailable import Unavailable
from capcheck.laws import MixtureOfGaussians
from capcheck.laws.gaussian import GaussianLaw
from capcheck.laws.heads import emitted
from capcheck.networks.signatures import TransitionPredictorSignature, Wrapper
from capcheck.probes.steps_outer.ar_smoothing import ARSmoothing
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe
from capcheck.targets import GaussianMixture, ProductMixture, from_spec
from capcheck.targets.target import ContinuousTarget, Target

Array = NDArray[np.float64]
N, RHO = 3, 0.8
COVARIANCE: Array = 4 * RHO ** np.abs(np.subtract.outer(np.arange(N), np.arange(N)))
CORRELATED = GaussianMixture(
    torch.tensor([[[1.0], [-2.0], [0.5]]], dtype=torch.float64), torch.tensor(COVARIANCE)[None]
)


def replayed(
    target: Target, k: int, length: int | None = None, given: Sequence[int] = (), **options: Any
) -> GaussianLaw:
    procedure = Procedure.of(build_probe("ar_smoothing", options), target, given=given)
    length = len(procedure.spec.free) if length is None else length
    law = procedure.exact_law(Budget(length=length, steps=k))
    assert isinstance(law, GaussianLaw), law
    return law


def log_q(
    target: Target,
    x: torch.Tensor,
    k: int,
    length: int | None = None,
    given: Sequence[int] = (),
    **options: Any,
) -> LogDensity | Unavailable:
    procedure = Procedure.of(build_probe("ar_smoothing", options), target, given=given)
    length = len(procedure.spec.free) if length is None else length
    return procedure.log_density(Budget(length=length, steps=k), x, CounterRandomness(1))


def values(found: LogDensity | Unavailable) -> torch.Tensor:
    assert isinstance(found, LogDensity)
    return found.values


@pytest.mark.parametrize("s", [[0.0, 0.0, 0.0], [0.2, 0.1, 0.3]])
def test_a_transition_is_bayes_rule_on_the_noisy_tokens(s: list[float]) -> None:
    # Of (y_s, y_t), y_s = (1 - s) x + s e and y_t = r y_s + sqrt(t^2 - r^2 s^2) e', tokens 1 and 2
    # are seen at t, token 3 is not, and the covariance of the pair gives the law by conditioning.
    level, t = np.array(s), np.array([0.6, s[1], 1.0])
    r = (1 - t) / (1 - level)
    below = (1 - level)[:, None] * COVARIANCE * (1 - level) + np.diag(level**2)
    above = r[:, None] * below * r + np.diag(t**2 - (r * level) ** 2)
    cross = below * r
    mean = (1 - level) * np.array([1.0, -2.0, 0.5])
    seen, y_t = [0, 1], np.array([0.3, -0.8, 100.0])
    gain = np.linalg.solve(above[np.ix_(seen, seen)], cross[:, seen].T).T
    expected = mean + gain @ (y_t - r * mean)[seen]
    variance = np.diag(below - gain @ cross[:, seen].T)
    oracle = TransitionPredictorSignature().oracle(CORRELATED)
    law = oracle(
        torch.tensor(y_t)[None, :, None],
        torch.tensor(t)[None],
        torch.tensor(s, dtype=torch.float64),
    )
    assert np.abs(law.mean()[0, :, 0].numpy() - expected).max() < 1e-12
    assert np.abs(law.variance()[0, :, 0].numpy() - variance).max() < 1e-12
    other = oracle(
        torch.tensor(y_t)[None, :, None],
        torch.tensor(t)[None] * 0.9 + 0.1,
        torch.tensor(s, dtype=torch.float64),
    )
    assert np.abs(other.mean()[0, :, 0].numpy() - expected).max() > 1e-3


def test_transitions_go_down_in_noise() -> None:
    oracle = TransitionPredictorSignature().oracle(CORRELATED)
    x, t = torch.zeros(1, 3, 1).double(), torch.full((1, 3), 0.5).double()
    with pytest.raises(InputError, match=r"t must be in \[s, 1\]"):
        oracle(x, t, torch.full((3,), 0.6).double())
    with pytest.raises(InputError, match=r"s must be in \[0, 1\)"):
        oracle(x, t, torch.ones(3).double())


@pytest.mark.parametrize("k", [1, 2, 5, 16, 64])
def test_exact_heads_give_the_target_at_every_k(three: ProductMixture, k: int) -> None:
    x = three.sample(50, CounterRandomness(0))
    found = log_q(three, x, k, heads="exact")
    assert isinstance(found, LogDensity)
    assert found.bound == (k > 1)
    assert (found.values - three.log_prob(x)).abs().max() < 1e-8
    # Gaussian heads fall short, and a noisier draw of them does not hide it.
    assert (values(log_q(three, x, k)) - three.log_prob(x)).abs().max() > 0.05


@pytest.mark.parametrize("heads", ["gaussian", "exact"])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_a_gaussian_target_is_exact_with_gaussian_heads(heads: str, k: int) -> None:
    law = replayed(CORRELATED, k, heads=heads)
    assert np.abs(law.covariance.numpy() - COVARIANCE).max() < 1e-9
    assert np.abs(law.mean.numpy() - [1, -2, 0.5]).max() < 1e-9


@pytest.mark.parametrize("v", [0.25, 1.0, 9.0])
def test_the_posterior_mean_has_too_little_variance(v: float) -> None:
    target = from_spec(f"gaussian:tokens=1,std={v**0.5}")
    s = 0.3 * v**0.5
    law = replayed(target, 3, last="tweedie")
    assert float(law.covariance) == pytest.approx(v**2 / (v + s**2), abs=1e-12)
    assert float(replayed(target, 3).covariance) == pytest.approx(v, abs=1e-12)
    assert isinstance(log_q(target, torch.zeros(2, 1, 1).double(), 3, last="tweedie"), Unavailable)
    # One pass has no noisier one whose mean could be taken.
    assert float(replayed(target, 1, last="tweedie").covariance) == pytest.approx(v, abs=1e-12)


def total_correlation_given_noise(s: float) -> float:
    """TC of x given x + s e, x ~ N(0, COVARIANCE): the same at every noisy x."""
    posterior = np.linalg.inv(np.linalg.inv(COVARIANCE) + np.eye(N) / s**2)
    return float(0.5 * (np.log(np.diag(posterior)).sum() - np.linalg.slogdet(posterior)[1]))


def test_a_factorised_last_pass_leaves_the_total_correlation_given_noise() -> None:
    x = CORRELATED.sample(20_000, CounterRandomness(0))
    one = values(log_q(CORRELATED, x, 2, last="factorised", importance_samples=1))
    left = CORRELATED.log_prob(x) - one
    error = float(left.std()) / math.sqrt(len(x))
    expected = total_correlation_given_noise(0.3 * 2)
    assert abs(float(left.mean()) - expected) < 4 * error
    assert abs(float(left.mean()) - total_correlation_given_noise(0.5 * 2)) > 8 * error
    # The bound is over noisy sequences too: the law itself is nearer, and yet not the target.
    Q = replayed(CORRELATED, 2, last="factorised").covariance.numpy()
    ratio = np.linalg.solve(Q, COVARIANCE)
    kl = 0.5 * (np.trace(ratio) - N - np.linalg.slogdet(ratio)[1])
    assert 1e-4 < kl < expected
    more = values(log_q(CORRELATED, x, 2, last="factorised", importance_samples=8))
    tighter = float((CORRELATED.log_prob(x) - more).mean())
    assert kl - 4 * error < tighter < 0.5 * (kl + expected)


def test_unplaced_tokens_are_in_no_pass() -> None:
    # The first two by smoothing, the third from its marginal given them: all Gaussian, so exact.
    law = replayed(CORRELATED, 3, length=2)
    assert np.abs(law.covariance.numpy() - COVARIANCE).max() < 1e-9
    procedure = Procedure.of(ARSmoothing(), CORRELATED)
    states = list(procedure.run(Budget(length=2, steps=3), 4, CounterRandomness(0)))
    assert len(states) == 1 + 3 * 2
    assert not bool(states[-1].placed[:, 2].any())


def test_one_pass_is_the_autoregressive_model_with_its_heads(three: ProductMixture) -> None:
    # log q = sum_i log N(x_i; E[x_i | x_<i], Var[x_i | x_<i]), the moments by the information form.
    weights = np.array([0.2, 0.5, 0.3])
    reference = Gaussians.product(three.means.numpy(), three.scales.numpy(), weights)
    x = three.sample(20, CounterRandomness(0))
    expected = []
    for row in x.numpy():
        total = 0.0
        for i in range(3):
            token = reference.clean(i, row, np.ones(3), np.zeros(3), list(range(i)))
            deviation = math.sqrt(token.variance()[0])
            total += float(stats.norm.logpdf(row[i, 0], token.mean()[0], deviation))
        expected.append(total)
    assert values(log_q(three, x, 1)).tolist() == pytest.approx(expected, abs=1e-9)
    assert values(log_q(three, x, 1, heads="exact")).tolist() != pytest.approx(expected, abs=1e-2)


def test_samples_follow_the_target_with_exact_heads(three: ProductMixture) -> None:
    n = 6000

    def rosenblatt(k: int, heads: str) -> torch.Tensor:
        procedure = Procedure.of(build_probe("ar_smoothing", {"heads": heads}), three)
        x = procedure.sample(Budget(length=3, steps=k), n, CounterRandomness(3))
        return three.marginals(x, torch.zeros(n, 3), causal=True).cdf(x)

    u = rosenblatt(3, "exact")
    for i in range(3):
        assert stats.kstest(u[:, i].numpy(), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(u.T.numpy())[np.triu_indices(3, 1)]).max() < 5 / np.sqrt(n)
    u = rosenblatt(1, "gaussian")
    assert min(stats.kstest(u[:, i].numpy(), "uniform").pvalue for i in range(3)) < 1e-5


def test_smoothing_lowers_kl_and_sweeps(digits: ProductMixture) -> None:
    result = check("ar_smoothing", digits, samples=300, lengths=[0, 8], steps=[1, 3])
    kl = {(c.budget.length, c.budget.steps): c.estimates["kl"] for c in result.cells}
    assert (kl[8, 3].value or 0) < 0.6 * (kl[8, 1].value or 0)
    assert (result.axes.length, result.axes.steps) == ("used", "used")
    assert result.found.loop_order == "steps_outer"


def kl_of_head(law: MixtureOfGaussians, head: MixtureOfGaussians) -> float:
    def density(v: float) -> float:
        x = torch.tensor([[[v]]], dtype=torch.float64)
        log_p, log_q = float(law.log_prob(x)), float(head.log_prob(x))
        return math.exp(log_p) * (log_p - log_q)

    return float(integrate.quad(density, -8, 8, points=[-2, 0, 2], limit=200)[0])


def test_a_mixture_head_finds_two_components_and_a_gaussian_one_cannot() -> None:
    def one_token(
        weights: list[float], means: list[float], variances: list[float]
    ) -> MixtureOfGaussians:
        def tensor(a: list[float]) -> torch.Tensor:
            return torch.tensor(a, dtype=torch.float64)

        return MixtureOfGaussians(
            tensor(weights).log()[None, None],
            tensor(means)[None, None, :, None],
            tensor(variances)[None, None, :, None],
        )

    two = one_token([0.3, 0.7], [-2.0, 1.0], [0.25, 0.5])
    head = {name: emitted(two, name) for name in ("gaussian", "mixture", "exact")}
    assert head["exact"] is two
    assert kl_of_head(two, head["mixture"]) < 1e-4  # type: ignore[arg-type]
    # The best Gaussian in forward KL: its negentropy, 1/2 ln(2 pi e Var) - h.
    variance = float(two.variance())
    entropy = -integrate.quad(
        lambda v: (
            math.exp(float(two.log_prob(torch.tensor([[[v]]]).double())))
            * float(two.log_prob(torch.tensor([[[v]]]).double()))
        ),
        -8,
        8,
        points=[-2, 1],
        limit=200,
    )[0]
    gaussian = kl_of_head(two, head["gaussian"])  # type: ignore[arg-type]
    assert gaussian == pytest.approx(
        0.5 * math.log(2 * math.pi * math.e * variance) - entropy, abs=1e-6
    )
    assert gaussian > 0.1
    three = one_token([0.3, 0.4, 0.3], [-4.0, 0.0, 4.0], [0.25, 0.5, 0.25])
    assert kl_of_head(three, emitted(three, "mixture", components=3)) < 1e-4  # type: ignore[arg-type]
    assert kl_of_head(three, emitted(three, "mixture", components=2)) > 0.05  # type: ignore[arg-type]


def test_mixture_heads_need_tokens_of_one_dimension() -> None:
    vectors: ContinuousTarget = ProductMixture(
        torch.zeros(2, 2, 2, dtype=torch.float64), torch.ones(2, 2, dtype=torch.float64)
    )
    procedure = Procedure.of(ARSmoothing(heads="mixture"), vectors)
    run = procedure.run(Budget(length=2, steps=1), 2, CounterRandomness(0))
    next(run)
    with pytest.raises(UnfitError, match="heads=mixture needs tokens of dimension 1, got 2"):
        next(run)


@pytest.mark.parametrize("given", [(0,), (1,), (2,), (0, 2)])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_beside_given_tokens_exact_heads_give_the_target(
    three: ProductMixture, k: int, given: tuple[int, ...]
) -> None:
    law = replayed(CORRELATED, k, given=given)
    assert np.abs(law.covariance.numpy() - COVARIANCE).max() < 1e-9
    assert np.abs(law.mean.numpy() - [1, -2, 0.5]).max() < 1e-9
    x = three.sample(50, CounterRandomness(0))
    found = log_q(three, x, k, given=given, heads="exact")
    assert isinstance(found, LogDensity)
    assert found.bound == (k > 1)
    assert (found.values - three.log_prob(x)).abs().max() < 1e-8
    assert (values(log_q(three, x, k, given=given)) - three.log_prob(x)).abs().max() > 0.01


def test_given_tokens_that_had_noise_in_the_early_passes_would_leave_a_gap() -> None:
    # Two tokens of correlation 0.8, the first given, k = 2, by covariances. With a noisy given
    # token y_g the first pass draws y_2 from its regression on y_g, the last one x_2 from its
    # regression on (x_g, y_2); y_g tells nothing beside x_g. Both shown clean, the law is exact.
    S, s2 = np.array([[1, 0.8], [0.8, 1]]), 0.3**2

    def gap(noise: float) -> float:
        slope, rest = 0.8 / (1 + noise), 1 + s2 - 0.64 / (1 + noise)
        y = slope**2 * (1 + noise) + rest  # variance of y_2
        joint = np.array([[1, 0.8], [0.8, 1 + s2]])  # of (x_g, y_2) in the target
        gain = np.linalg.solve(joint, [0.8, 1])
        own = 1 - gain @ [0.8, 1]
        known = np.array([[1, slope], [slope, y]])  # of (x_g, y_2) as drawn
        C = np.array([[1, gain @ known[0]], [gain @ known[0], gain @ known @ gain + own]])
        return reference.kl(S, C)

    assert gap(0.0) == pytest.approx(0, abs=1e-12)
    assert gap(s2) > 1e-4
    law = replayed(from_spec("gaussian:ar1,tokens=2,rho=0.8"), 2, given=(0,))
    assert reference.kl(S, law.covariance.numpy()) == pytest.approx(0, abs=1e-10)


def test_the_network_is_shown_given_tokens_clean_in_every_pass() -> None:
    seen = []

    class Looking(Wrapper):
        def call(self, network: Any, *shown: torch.Tensor) -> Any:
            seen.append((shown[0][:, 1], shown[1][0], shown[2]))
            return network(*shown)

    procedure = Procedure.of(ARSmoothing(), CORRELATED, given=(1,)).wrapped(Looking())
    states = list(procedure.run(Budget(length=1, steps=3), 4, CounterRandomness(0)))
    assert len(states) == 1 + 3
    for tokens, t, s in seen:
        assert torch.equal(tokens, states[0].tokens[:, 1])
        assert float(t[1]) == float(s[1]) == 0
    # Token 0 from noise 0.6 / (1 + 0.6) and 0.3 / (1 + 0.3) down; token 2 is in no pass.
    assert [float(t[0]) for _, t, _ in seen] == pytest.approx([1, 0.6 / 1.6, 0.3 / 1.3])
    assert [float(t[2]) for _, t, _ in seen] == [1, 1, 1]
    assert not bool(states[-1].placed[:, 2].any())


@pytest.mark.parametrize("given", [(), (1,)])
def test_the_bound_of_a_factorised_pass_is_above_its_true_floor(given: tuple[int, ...]) -> None:
    # AR(1) of 4 tokens, correlation 0.9, noise 0.3: TC(x | noisy x) is 0.1041, and KL 0.0224.
    S = autoregressive(4, 0.9).covariances[0]
    free = [i for i in range(4) if i not in given]
    precision = (np.linalg.inv(S) + np.eye(4) / 0.09)[np.ix_(free, free)]
    posterior = np.linalg.inv(precision)  # of the others, given these tokens and all noisy ones
    bound = 0.5 * (np.log(np.diag(posterior)).sum() - np.linalg.slogdet(posterior)[1])
    # x = E[x | y, x_g] + independent errors, y and x_g jointly as in the target.
    mean = posterior / 0.09  # weight of y
    C = mean @ (S + 0.09 * np.eye(4))[np.ix_(free, free)] @ mean.T + np.diag(np.diag(posterior))
    law = replayed(from_spec("gaussian:ar1,tokens=4,rho=0.9"), 2, given=given, last="factorised")
    floor = reference.kl(S, law.covariance.numpy())
    if not given:
        assert law.covariance.numpy() == pytest.approx(C, abs=1e-10)
        assert bound == pytest.approx(0.1041, abs=5e-5)
        assert floor == pytest.approx(0.0224, abs=5e-5)
    assert 1e-3 < floor < 0.5 * bound


@pytest.mark.parametrize("first", [0.1, 1.0])
def test_the_first_noise_is_that_of_the_option(first: float) -> None:
    # In a deviation of the token, 3: the posterior mean has variance v^2 / (v + s^2).
    target, v = from_spec("gaussian:tokens=1,std=3"), 9.0
    law = replayed(target, 2, last="tweedie", first_noise=first)
    assert float(law.covariance) == pytest.approx(v**2 / (v + (3 * first) ** 2), abs=1e-10)
    with pytest.raises(InputError, match="greater than 0"):
        build_probe("ar_smoothing", {"first_noise": "0"})


def test_suspects_switch_off_what_they_name() -> None:
    heads, last = ARSmoothing(last="tweedie").suspects()
    assert heads.probe == ARSmoothing(heads="exact", last="tweedie")
    assert last.probe == ARSmoothing()
    assert ARSmoothing(heads="exact").suspects() == ()
