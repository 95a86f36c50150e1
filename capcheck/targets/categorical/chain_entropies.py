"""Mean conditional entropies of a Markov chain of order 1, by the gaps between known tokens.

With m of the N tokens known, uniformly at random, h(m) is the mean over a token i that is not known
of H(X_i | X_S). Only the nearest known tokens l < i < r tell of it, and

    H(X_i | X_l, X_r) = E(l, i) + E(i, r) - E(l, r),  E(l, r) = H(X_r | X_l),

so that h(m) is a sum over pairs of tokens. Given i, its nearest known tokens are l and r with
probability C(N - 1 - (r - l), m - 2) / C(N - 1, m). If no later token is known, it is
C(l, m - 1) / C(N - 1, m), and if no earlier one is, C(N - 1 - r, m - 1) / C(N - 1, m).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["MIXED", "chain_entropies", "entropies", "entropies_after"]

MIXED = 1e-15  # largest change of a law from one power of the transition to the next


def entropies(p: Tensor) -> Tensor:
    """Entropies (nats) of laws p (..., V): (...)."""
    found: Tensor = -torch.special.xlogy(p, p).sum(-1)
    return found


def entropies_after(marginals: Tensor, step: Tensor | Callable[[int], Tensor]) -> Tensor:
    """E(l, r) = H(X_r | X_l) for l < r, (N, N) in nats; other entries are 0.

    Args:
        marginals: Laws of the tokens, (N, V).
        step: Transition of all tokens, (V, V), or a function from i to that of token i to i + 1.
    """
    N, V = marginals.shape
    found = marginals.new_zeros(N, N)
    if isinstance(step, Tensor):
        power = torch.eye(V).to(marginals)
        for gap in range(1, N):
            before, power = power, power @ step
            found.diagonal(gap).copy_(marginals[: N - gap] @ entropies(power))
            if bool(((power - before).abs() <= MIXED).all()):
                for further in range(gap + 1, N):
                    found.diagonal(further).copy_(marginals[: N - further] @ entropies(power))
                break
        return found
    for first in range(N - 1):
        power = step(first)
        for r in range(first + 1, N):
            found[first, r] = marginals[first] @ entropies(power)
            power = power @ step(r) if r + 1 < N else power
    return found


def chain_entropies(marginals: Tensor, after: Tensor) -> Tensor:
    """h(m) for m = 0..N-1, (N,) in nats.

    Args:
        marginals: Laws of the tokens, (N, V).
        after: E(l, r), (N, N), as from `entropies_after`.
    """
    N = len(marginals)
    own = entropies(marginals)  # (N,)
    before = torch.triu(own[:, None] + after - own[None, :], 1)  # H(X_i | X_r) for i < r
    by_gap = _sums_between(after)
    m = torch.arange(1, N).to(marginals)  # (M,)
    both = _shares(m * (m - 1) / max((N - 1) * (N - 2), 1), N - 3, m - 2, N - 2)
    one = _shares(m / max(N - 1, 1), N - 2, m - 1, N - 1)
    total = by_gap[2:] @ both + after.sum(1)[: N - 1].flip(0) @ one + before.sum(0)[1:] @ one
    return torch.cat([own.mean()[None], total / N])


def _sums_between(after: Tensor) -> Tensor:
    """The sums over l and l < i < l + d of H(X_i | X_l, X_{l+d}), for d = 0..N-1."""
    N = len(after)
    onward = after.cumsum(1)  # over i up to a column
    backward = after.flip(0).cumsum(0).flip(0)  # over i from a row on
    sums = after.new_zeros(N)
    for d in range(2, N):
        left = torch.arange(N - d, device=after.device)
        right = left + d
        between = onward[left, right - 1] + backward[left + 1, right]
        between = between - (d - 1) * after[left, right]
        sums[d] = between.sum()
    return sums


def _shares(first: Tensor, others: int, chosen: Tensor, count: int) -> Tensor:
    """The ratios C(A, c) / C(N - 1, m) for A = others, others - 1, ..: (count, M).

    Args:
        first: The ratios for A = others, (M,).
        others: Number of other tokens that may be known.
        chosen: The number c of them that are, (M,).
        count: Number of ratios.
    """
    if count < 1:
        return first.new_zeros(0, len(first))
    A = torch.arange(others, others - count + 1, -1).to(first)[:, None]
    falling = ((A - chosen) / A.clamp(min=1)).clamp(min=0)  # C(A - 1, c) / C(A, c)
    return first * torch.cat([torch.ones(1, len(first)).to(first), falling.cumprod(0)])
