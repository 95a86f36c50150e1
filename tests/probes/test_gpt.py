"""KL of a truncated or short-sighted autoregressive model, by routes that share no code with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference.mixtures import Mixture

from capcheck import check
from capcheck.budget import Budget
from capcheck.randomness import CounterRandomness
from capcheck.registry import build_probe
from capcheck.signatures import TokenPredictorSignature
from capcheck.targets import ProductMixture


def log_marginal(reference: Mixture, rows: np.ndarray, tokens: list[int]) -> np.ndarray:
    """log p(x_tokens) of every row, by explicit component densities."""
    ones, zeros = np.ones(rows.shape[1]), np.zeros(rows.shape[1])
    values = [reference.evidence(x, ones, zeros, tokens).sum() for x in rows]
    log_values: np.ndarray = np.log(np.array(values))
    return log_values


def conditional_total_correlation(reference: Mixture, rows: np.ndarray, placed: int) -> float:
    """E[log p(x_>l | x_<=l) - sum_{i>l} log p(x_i | x_<=l)] over the rows."""
    N = rows.shape[1]
    known = list(range(placed))
    context = log_marginal(reference, rows, known)
    joint = log_marginal(reference, rows, list(range(N))) - context
    apart = sum(log_marginal(reference, rows, [*known, i]) - context for i in range(placed, N))
    return float((joint - apart).mean())


def test_kl_is_the_conditional_total_correlation_of_what_was_not_placed(
    digits: ProductMixture,
) -> None:
    result = check(
        "gpt", digits, lengths=[0, 2, 4, 6, 8], steps=[1, 3], samples=400, divergences=["kl"]
    )
    rows = digits.sample(400, CounterRandomness(0, name="target"))[..., 0].numpy()
    K = len(digits.means)
    reference = Mixture(digits.means[..., 0].numpy(), digits.scales[:, 0].numpy(), np.ones(K))
    for length in (0, 2, 4, 6, 8):
        found = result.cell(Budget(length=length, steps=3)).estimates["kl"].value
        expected = conditional_total_correlation(reference, rows, length)
        assert found == pytest.approx(expected, abs=1e-9), length
    values = [cell.estimates["kl"].value or 0 for cell in result.cells if cell.budget.steps == 1]
    assert values == sorted(values, reverse=True)
    assert values[-1] == 0
    assert (result.axes.length, result.axes.steps, result.loop_order) == ("used", "flat", "length")


def test_a_window_costs_what_it_hides(three: ProductMixture) -> None:
    # With a window of 1, q(x) = p(x_1) p(x_2 | x_1) p(x_3 | x_2).
    probe = build_probe("gpt", {"window": "1"})
    oracle = TokenPredictorSignature().oracle(three)
    x = three.sample(50, CounterRandomness(0))
    rows = x[..., 0].numpy()
    reference = Mixture(
        three.means[..., 0].numpy(), three.scales[:, 0].numpy(), np.array([0.2, 0.5, 0.3])
    )
    p = {s: log_marginal(reference, rows, list(s)) for s in [(0,), (0, 1), (1,), (1, 2)]}
    expected = p[(0, 1)] + p[(1, 2)] - p[(1,)]
    density = probe.log_density(
        oracle, oracle, three.spec, Budget(length=3, steps=1), x, CounterRandomness(0)
    )
    assert density.values.tolist() == pytest.approx(expected.tolist(), abs=1e-9)  # type: ignore[union-attr]


def test_samples_at_full_length_follow_the_target(three: ProductMixture) -> None:
    from scipy import stats

    probe, n = build_probe("gpt"), 4000
    oracle = probe.signature.oracle(three)
    *_, last = probe.run(oracle, three.spec, Budget(length=3, steps=1), n, CounterRandomness(3))
    u = three.marginals(last.tokens, torch.zeros(n, 3), causal=True).cdf(last.tokens)
    for i in range(3):
        assert stats.kstest(u[:, i].numpy(), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(u.T.numpy())[np.triu_indices(3, 1)]).max() < 5 / np.sqrt(n)
