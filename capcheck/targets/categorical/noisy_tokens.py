"""The laws of clean tokens given tokens with uniform noise, from laws that leave out a token's own.

Token i of value x_i and keep-probability alpha_i is evidence for its clean value in proportion to
f_i + (1 - f_i) [v = x_i], with the floor f_i of `capcheck.noise.uniform`. With L_i(v) the law of
the clean token given all other noisy tokens,

    p(v | x) is proportional to L_i(v) (f_i + (1 - f_i) [v = x_i]).

In a mixture of products with components p_ci, token i has the evidence
E_ci = f_i + (1 - f_i) p_ci(x_i) about the component, and

    L_i(v) is proportional to sum_c P(c | x) p_ci(v) / E_ci.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.sequences import SequenceSpec
from capcheck.laws import Categorical, DeferredCategorical
from capcheck.noise.uniform import evidence_floor
from capcheck.targets.categorical.categorical_components import (
    DenseProducts,
    ProductComponents,
    SmoothedRows,
)
from capcheck.targets.tokens import require_tokens

__all__ = ["add_noisy_evidence", "noisy_laws", "with_floor", "without_own"]


def with_floor(spec: SequenceSpec, x: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens with symbol 0 where nothing is known, and the floor f of each, (n, N) both.

    Args:
        spec: Spec of the sequences.
        x: Noisy tokens, (n, N) integers.
        keep: Keep-probabilities, (n, N) in [0, 1].

    Raises:
        InputError: Tokens or keep-probabilities of another shape, type or range.
    """
    if keep.shape != x.shape or not bool(((keep >= 0) & (keep <= 1)).all()):
        raise InputError(
            f"keep must be probabilities of shape {tuple(x.shape)}, one for each token, got "
            f"{tuple(keep.shape)} between {float(keep.min()):g} and {float(keep.max()):g}."
        )
    require_tokens(spec, x, (keep == 0).to(spec.mean))
    return torch.where(keep > 0, x, 0).long(), evidence_floor(keep.to(spec.mean), spec.dim)


def noisy_laws(
    others: Callable[[list[int]], Tensor], x: Tensor, floor: Tensor
) -> DeferredCategorical:
    """The laws of the clean tokens given all noisy tokens, at their first use.

    Args:
        others: Function that computes L_i, up to a factor per row and token, for tokens with given
            indices: a new tensor (n, S, V).
        x: Noisy tokens, (n, N) integers.
        floor: Floor f of each token, (n, N) in [0, 1]; a token of floor 0 is clean.
    """

    def make(tokens: list[int]) -> Categorical:
        L, f, at = others(tokens), floor[:, tokens, None], x[:, tokens, None]
        own = torch.where(f == 0, 1, L.gather(-1, at))
        return Categorical(L.mul_(f).scatter_(-1, at, own).log_())

    return DeferredCategorical(make, range(x.shape[1]))


def add_noisy_evidence(
    components: ProductComponents, logits: Tensor, x: Tensor, floor: Tensor
) -> None:
    """Add the log-evidence log E_ci of all tokens i to logits (r, K) in place.

    Args:
        components: The K components.
        logits: (r, K), contiguous.
        x: Noisy tokens, (r, N).
        floor: Floor f of each token, (r, N).
    """
    if isinstance(components, SmoothedRows) and components.is_sparse:
        components.add_evidence(logits, x, torch.ones_like(x, dtype=torch.bool), floor)
        return
    for i in range(x.shape[1]):
        logits += _evidence(components, x[:, i], floor[:, i], i).log()


def without_own(
    components: ProductComponents, share: Tensor, x: Tensor, floor: Tensor, tokens: list[int]
) -> Tensor:
    """The laws L_i of some tokens up to factors, from shares P(c | x) (r, K): (r, S, V)."""
    if isinstance(components, SmoothedRows):
        return _without_own_row(components, share, x, floor, tokens)
    laws = []
    for i in tokens:
        E = _evidence(components, x[:, i], floor[:, i], i)
        laws.append(_over(share, E) @ components.of_token(i).T)
    return torch.stack(laws, 1)


def _without_own_row(
    rows: SmoothedRows, share: Tensor, x: Tensor, floor: Tensor, tokens: list[int]
) -> Tensor:
    """The same for rows of data, whose evidence has two values for each token.

    With m_i the token's marginal law and lambda its share, E is E_1 for the rows that have the
    symbol x_i and E_0 for all others.
    """
    m, lam = rows.marginals[tokens], rows.smoothing  # (S, V)
    at, f = x[:, tokens, None], floor[:, tokens, None]
    E_0 = f + (1 - f) * lam * m.expand(len(x), -1, -1).gather(-1, at)  # (r, S, 1)
    E_1 = E_0 + (1 - f) * (1 - lam)
    H = rows.with_smoothing(0.0).average(share, tokens)  # shares of the rows with each symbol
    own = H.gather(-1, at)
    total = _over((1 - own).clamp(min=0), E_0) + own / E_1  # sum_c P(c | x) / E_ci
    return (1 - lam) * _over(H, E_0).scatter(-1, at, own / E_1) + lam * m * total


def _evidence(components: ProductComponents, x: Tensor, floor: Tensor, i: int) -> Tensor:
    """The evidence E_ci of token i, of values x (r,) and floors (r,), about components: (r, K)."""
    f = floor[:, None]
    if isinstance(components, SmoothedRows):
        m, lam = components.marginals[i][x][:, None], components.smoothing
        own = (components.parameters[0][:, i] == x[:, None]).to(m)
        return f + (1 - f) * (lam * m + (1 - lam) * own)
    assert isinstance(components, DenseProducts)
    return f + (1 - f) * components.of_token(i)[x]


def _over(a: Tensor, b: Tensor) -> Tensor:
    """The quotient a / b, and 0 where b is 0: a token with such evidence is clean."""
    return torch.where(b > 0, a / torch.where(b > 0, b, 1), 0)
