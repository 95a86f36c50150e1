"""KL of a truncated or short-sighted autoregressive model, by routes that share no code with it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from networks import TablePredictor, law_of, law_of_run, table
from numpy.typing import NDArray
from reference.control import mixture_moments, steadied_mean
from reference.groups import covariance_of_groups, law_of_groups
from reference.information import information, of_table
from reference.mixtures import Mixture
from scipy import optimize, special

from capcheck import check
from capcheck.core.budget import Budget
from capcheck.core.errors import InputError, UnfitError
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness
from capcheck.laws.gaussian import GaussianLaw
from capcheck.networks.signatures import TokenPredictorSignature
from capcheck.probes.length.gpt import GPT
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe
from capcheck.targets import GaussianMixture, ProductMixture, Target, from_spec, from_table

Array = NDArray[np.float64]


def log_marginal(reference: Mixture, rows: np.ndarray, tokens: list[int]) -> np.ndarray:
    """log p(x_tokens) of every row, by explicit component densities."""
    ones, zeros = np.ones(rows.shape[1]), np.zeros(rows.shape[1])
    values = [reference.evidence(x, ones, zeros, tokens).sum() for x in rows]
    log_values: np.ndarray = np.log(np.array(values))
    return log_values


def conditional_total_correlations(reference: Mixture, rows: np.ndarray, placed: int) -> np.ndarray:
    """log p(x_>l | x_<=l) - sum_{i>l} log p(x_i | x_<=l) of every row."""
    N = rows.shape[1]
    known = list(range(placed))
    context = log_marginal(reference, rows, known)
    joint = log_marginal(reference, rows, list(range(N))) - context
    apart = sum(log_marginal(reference, rows, [*known, i]) - context for i in range(placed, N))
    each: np.ndarray = joint - apart
    return each


def test_kl_is_the_conditional_total_correlation_of_what_was_not_placed(
    digits: ProductMixture,
) -> None:
    result = check(
        "gpt", digits, lengths=[0, 2, 5, 8], steps=[1, 3], samples=200, divergences=["kl"]
    )
    rows = digits.sample(200, CounterRandomness(0, name="target"))[..., 0].numpy()
    K = len(digits.means)
    reference = Mixture(digits.means[..., 0].numpy(), digits.scales[:, 0].numpy(), np.ones(K))
    moments = mixture_moments(digits.means[..., 0].numpy(), digits.scales[:, 0].numpy())
    for length in (0, 2, 5, 8):
        found = result.cell(Budget(length=length, steps=3)).estimates["kl"].value
        each = conditional_total_correlations(reference, rows, length)
        expected = steadied_mean(each, rows, moments)
        assert found == pytest.approx(expected, abs=1e-9), length
    values = [cell.estimates["kl"].value or 0 for cell in result.cells if cell.budget.steps == 1]
    assert values == sorted(values, reverse=True)
    assert values[-1] == 0
    assert (result.axes.length, result.axes.steps, result.found.loop_order) == (
        "used",
        "flat",
        "length",
    )


def test_a_window_costs_what_it_hides(three: ProductMixture) -> None:
    # With a window of 1, q(x) = p(x_1) p(x_2 | x_1) p(x_3 | x_2).
    procedure = Procedure.of(build_probe("gpt", {"window": "1"}), three)
    x = three.sample(50, CounterRandomness(0))
    rows = x[..., 0].numpy()
    reference = Mixture(
        three.means[..., 0].numpy(), three.scales[:, 0].numpy(), np.array([0.2, 0.5, 0.3])
    )
    p = {s: log_marginal(reference, rows, list(s)) for s in [(0,), (0, 1), (1,), (1, 2)]}
    expected = p[(0, 1)] + p[(1, 2)] - p[(1,)]
    density = procedure.log_density(Budget(length=3, steps=1), x, CounterRandomness(0))
    assert isinstance(density, LogDensity)
    assert density.values.tolist() == pytest.approx(expected.tolist(), abs=1e-9)


def test_samples_at_full_length_follow_the_target(three: ProductMixture) -> None:
    from scipy import stats

    procedure, n = Procedure.of(build_probe("gpt"), three), 4000
    x = procedure.sample(Budget(length=3, steps=1), n, CounterRandomness(3))
    u = three.marginals(x, torch.zeros(n, 3), causal=True).cdf(x)
    for i in range(3):
        assert stats.kstest(u[:, i].numpy(), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(u.T.numpy())[np.triu_indices(3, 1)]).max() < 5 / np.sqrt(n)


def table_of_rank_two() -> tuple[Array, Array]:
    """p(x_1, x_2) over 5 symbols whose six laws p(x_1), p(x_2 | x_1) have logits of rank 2."""
    rng = np.random.default_rng(4)
    logits = 1.5 * rng.normal(size=(6, 2)) @ rng.normal(size=(2, 5))
    laws = special.softmax(logits, axis=1)
    return laws[0][:, None] * laws[1:], laws


def least_divergence(laws: Array, weights: Array, rank: int) -> float:
    """min over H, W of sum_c w_c KL(p_c || softmax(h_c W^T)), by scipy from many starts."""
    C, V = laws.shape

    def loss(flat: Array) -> tuple[float, Array]:
        H, W = flat[: C * rank].reshape(C, rank), flat[C * rank :].reshape(V, rank)
        log_q = special.log_softmax(H @ W.T, axis=1)
        value = (weights[:, None] * (special.xlogy(laws, laws) - laws * log_q)).sum()
        slope = weights[:, None] * (np.exp(log_q) - laws)
        return value, np.concatenate([(slope @ W).ravel(), (slope.T @ H).ravel()])

    rng = np.random.default_rng(0)
    starts = rng.normal(size=(25, (C + V) * rank))
    return min(float(optimize.minimize(loss, x, jac=True, method="BFGS").fun) for x in starts)


def log_q_of_all(target: Target, rank: int) -> Array:
    """Log q(x) of every sequence, the last token fastest."""
    procedure = Procedure.of(build_probe("gpt", {"softmax_rank": rank}), target)
    N, V = target.spec.tokens, target.spec.dim
    x = torch.tensor(list(itertools.product(range(V), repeat=N)))
    found = procedure.log_density(Budget(length=N, steps=1), x, CounterRandomness(0))
    assert isinstance(found, LogDensity)
    log_q: Array = found.values.numpy()
    return log_q


def test_a_softmax_is_exact_iff_its_rank_is_that_of_the_centred_log_probabilities() -> None:
    p, laws = table_of_rank_two()
    centred = np.log(laws) - np.log(laws).mean(1, keepdims=True)
    assert np.linalg.matrix_rank(centred) == 2
    assert np.linalg.matrix_rank(np.log(laws)) == 3  # rows' means count for nothing
    kl = [(p.ravel() * (np.log(p.ravel()) - log_q_of_all(from_table(torch.tensor(p)), r))).sum()
          for r in (1, 2)]  # fmt: skip
    weights = np.array([1.0, *laws[0]])
    assert kl[0] == pytest.approx(least_divergence(laws, weights, 1), rel=0.01)
    assert kl[0] > 0.05
    assert kl[1] == pytest.approx(0, abs=1e-9)


def test_a_softmax_of_low_rank_is_the_best_of_its_rank() -> None:
    p = np.random.default_rng(1).random((4, 4, 4)) ** 3
    p /= p.sum()
    first, second = p.sum((1, 2)), p.sum(2)
    laws = np.concatenate(
        [first[None], second / first[:, None], (p / second[..., None]).reshape(16, 4)]
    )
    weights = np.concatenate([[1.0], first, second.ravel()])
    log_q = log_q_of_all(from_table(torch.tensor(p)), 2)
    assert np.exp(log_q).sum() == pytest.approx(1, abs=1e-9)
    kl = float((p.ravel() * (np.log(p.ravel()) - log_q)).sum())
    assert kl == pytest.approx(least_divergence(laws, weights, 2), rel=0.01)
    assert kl < 0.9 * least_divergence(laws, weights, 1)


def test_points_on_a_circle_tell_any_number_of_symbols_apart() -> None:
    # Copying needs the logits of V point masses: two dimensions do, one only tells two ends apart.
    target = from_spec("copy:tokens=3,symbols=5")
    copies = [symbol * (25 + 5 + 1) for symbol in range(5)]
    two, one = log_q_of_all(target, 2), log_q_of_all(target, 1)
    assert np.exp(two).sum() == pytest.approx(1, abs=1e-9)  # other prefixes have laws, too
    assert -np.log(5) - two[copies].mean() == pytest.approx(0, abs=1e-6)
    assert -np.log(5) - one[copies].mean() > 0.5


def test_the_rank_is_named_and_lifting_it_is_exact() -> None:
    p, _ = table_of_rank_two()
    target = from_table(torch.tensor(p))
    settings = {"lengths": [0, 2], "steps": [1], "samples": 200, "divergences": ["kl"]}
    low = check("gpt", target, options={"softmax_rank": "1"}, **settings)  # type: ignore[arg-type]
    (suspect,) = build_probe("gpt", {"softmax_rank": 1}).suspects()
    assert (suspect.failure, suspect.cure) == ("limited emission", "a softmax of full rank")
    assert suspect.probe == build_probe("gpt")
    full = check("gpt", target, options={"softmax_rank": 4}, **settings)  # type: ignore[arg-type]
    assert (low.cells[1].estimates["kl"].value or 0) > 0.05
    assert full.cells[1].estimates["kl"].value == pytest.approx(0, abs=1e-12)
    assert build_probe("gpt").suspects() == ()


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("modes:tokens=2", "categorical tokens, got continuous"),
        ("copy:tokens=8,symbols=400", "got at least 2801 x 400"),
    ],
)
def test_targets_that_no_softmax_is_fitted_to_are_refused(target: str, words: str) -> None:
    procedure = Procedure.of(build_probe("gpt", {"softmax_rank": 1}), from_spec(target))
    with pytest.raises(UnfitError, match=words):
        procedure.sample(Budget(length=1, steps=1), 2, CounterRandomness(0))


def test_what_a_softmax_of_low_rank_is_not_asked_for() -> None:
    with pytest.raises(InputError, match="window and softmax_rank exclude each other"):
        build_probe("gpt", {"window": 1, "softmax_rank": 1})
    with pytest.raises(InputError, match="greater than or equal to 1"):
        build_probe("gpt", {"softmax_rank": 0})
    network = build_probe("gpt", {"softmax_rank": 1}).signature.oracle(from_spec("shuffle:4"))
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    with pytest.raises(InputError, match="softmax_rank is for tokens that follow a prefix"):
        network(tokens, torch.tensor([[False, True, False, False]]))
    law = network(tokens, torch.tensor([[True, False, False, False]]))
    assert law.mean().isnan().all(2).tolist() == [[True, False, True, True]]


GIVEN = [(), (0,), (2,), (0, 2), (1, 3)]


def in_turn(given: tuple[int, ...], length: int, window: int) -> list[tuple[list[int], list[int]]]:
    """Four tokens from left to right, each shown those up to `window` places before it."""
    free = [i for i in range(4) if i not in given][:length]
    return [([i], list(range(max(0, i - window), i))) for i in free]


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("window", [None, 0, 1, 2])
def test_beside_given_tokens_a_wrong_network_makes_the_law_written_out(
    given: tuple[int, ...], window: int | None
) -> None:
    p, q = table(4, 2), table(4, 2, seed=1)
    plain = Procedure.of(GPT(window=window), from_table(torch.tensor(p)), given=given)
    procedure = plain.with_network(TablePredictor(q))
    for length in range(5 - len(given)):
        groups = in_turn(given, length, 4 if window is None else window)
        expected, budget = law_of_groups(p, q, given, groups), Budget(length=length, steps=1)
        assert np.abs(law_of(procedure, budget, "density") - expected).max() < 1e-12
        assert np.abs(law_of_run(procedure, budget, p) - expected).max() < 1e-12
    assert np.abs(expected - law_of_groups(p, p, given, groups)).max() > 1e-3


def test_a_given_token_outside_the_window_is_not_seen() -> None:
    # Each later token costs what it cannot see of the past, whether that was drawn or given.
    p = table(4, 3)
    H, target = of_table(p), from_table(torch.tensor(p))
    cost = sum(information(H, [i], range(i - 1), [i - 1]) for i in (2, 3))
    seen = information(H, [3], [1], [0, 2])  # what it would cost if every token saw the prompt
    budget = {"lengths": [3], "steps": [1], "samples": 200}
    for given in ([0], [0, 1]):
        budget["lengths"] = [4 - len(given)]
        found = check("gpt", target, options={"window": 1}, given=given, **budget)  # type: ignore[arg-type]
        assert found.cells[0].estimates["kl"].value == pytest.approx(cost, abs=1e-9)
    assert cost > seen + 0.1


def test_a_given_token_to_the_right_is_not_seen() -> None:
    p = table(3, 3)
    H, target = of_table(p), from_table(torch.tensor(p))
    found = check("gpt", target, given=[2], lengths=[2], steps=[1], samples=200)
    cost = information(H, [0, 1], [2])  # I(x_1; x_3) + I(x_2; x_3 | x_1)
    assert found.cells[0].estimates["kl"].value == pytest.approx(cost, abs=1e-9)
    assert cost > 0.1
    prompt = check("gpt", target, given=[0], lengths=[2], steps=[1], samples=200)
    assert prompt.cells[0].estimates["kl"].value == pytest.approx(0, abs=1e-12)


def correlation(seed: int) -> Array:
    """A correlation matrix of five numbers."""
    root = np.random.default_rng(seed).normal(size=(5, 5))
    C = root @ root.T + np.eye(5)
    scaled: Array = C / np.sqrt(np.outer(np.diag(C), np.diag(C)))
    return scaled


@pytest.mark.parametrize("given", [(0,), (1, 3)])
@pytest.mark.parametrize("window", [None, 1])
def test_beside_given_numbers_the_law_is_that_of_regressions(
    given: tuple[int, ...], window: int | None
) -> None:
    C, Q = correlation(0), correlation(1)
    target, other = (
        GaussianMixture(torch.zeros(1, 5, 1).double(), torch.tensor(S)[None]) for S in (C, Q)
    )
    plain = Procedure.of(GPT(window=window), target, given=given)
    procedure = plain.with_network(TokenPredictorSignature().oracle(other))
    free, reach = [i for i in range(5) if i not in given], window or 5
    groups = [([i], list(range(max(0, i - reach), i))) for i in free[:2]]
    law = procedure.exact_law(Budget(length=2, steps=1))
    assert isinstance(law, GaussianLaw)
    expected = covariance_of_groups(C, Q, given, groups)
    assert np.allclose(law.covariance, expected, rtol=0, atol=1e-9)
    assert np.abs(expected - C).max() > 1e-2


def test_a_prompt_is_no_obstacle_to_a_softmax_of_low_rank() -> None:
    p = table(3, 3)
    target, rank = from_table(torch.tensor(p)), {"softmax_rank": 1}
    settings = {"options": rank, "lengths": [2], "steps": [1], "samples": 200}
    prompt = check("gpt", target, given=[0], **settings)  # type: ignore[arg-type]
    infilling = check("gpt", target, given=[1], **settings)  # type: ignore[arg-type]
    kl = [found.cells[0].estimates["kl"].value or 0 for found in (prompt, infilling)]
    assert kl[0] > 0.01  # the rank still costs,
    unseen = information(of_table(p), [0], [1])
    assert kl[1] > max(unseen, 0.05)  # and so does a token that x_1 does not see
