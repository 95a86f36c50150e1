"""The laws of single categorical tokens bound W1 from below, under the Hamming distance.

W1 >= sum_i TV(p_i, q_i)
"""

from __future__ import annotations

import math

import numpy as np

from capcheck.divergences.estimate import Term

__all__ = ["hamming_marginals"]


def hamming_marginals(model: np.ndarray, probabilities: np.ndarray) -> Term:
    """Bound sum_i TV(p_i, q_i) <= W1 under the Hamming distance, p_i and q_i the laws of token i.

    The function f(x) = 1/2 sum_i s_i(x_i) with signs s_i is 1-Lipschitz, so E_Q f - E_P f is at
    most W1 for any signs, and equals the sum for the signs of q_i - p_i. One half of the draws
    chooses the signs for the other half, where E_Q f is a plain average: the estimate is not biased
    upwards.

    Args:
        model: (n, N) integers in 0..V-1 drawn from Q, n at least 4.
        probabilities: (N, V) exact marginal laws of P's tokens.
    """
    n, N = model.shape
    tokens, middle = np.arange(N), n // 2
    halves = model[:middle].astype(np.int64), model[middle:].astype(np.int64)
    value, influences = 0.0, []
    for choosing, testing in (halves, halves[::-1]):
        shares = np.zeros_like(probabilities)
        np.add.at(shares, (np.broadcast_to(tokens, choosing.shape), choosing), 1 / len(choosing))
        signs = 0.5 * np.sign(shares - probabilities)  # (N, V)
        of_rows = signs[tokens, testing].sum(1) - float((signs * probabilities).sum())
        value += 0.5 * float(of_rows.mean())
        influences.append(0.5 * of_rows)
    term = Term.from_influence("marginals", value, influences, reach=float(N))
    # Each half helped to choose the other's signs: at worst they err together.
    return term.model_copy(update={"standard_error": math.sqrt(2) * term.standard_error})
