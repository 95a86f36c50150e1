"""Laws of tokens given the first tokens of each row, of Gaussian components.

With the Cholesky factor W of the covariance and the innovations z of the known tokens, the mean of
token i is mu_i + W_i z, and its covariance Sigma_ii - W_i W_i^T, where W_i and z end before token i
and with the known tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Factorised", "GivenFirst", "Laws", "LawsGiven"]

Laws = tuple[Tensor, Tensor, Tensor]
"""Log-weights (n, 1|N, K), means (n, N, K, d) and covariances (n, N, K, d, d) of every token."""


class LawsGiven(Protocol):
    """The laws of all tokens given the known ones, of which a part is computed when it is read."""

    def of(self, rows: slice, tokens: Sequence[int]) -> Laws:
        """The laws of some rows and tokens.

        Args:
            rows: The rows.
            tokens: Indices of the tokens.
        """


@dataclass(frozen=True, eq=False)
class Factorised:
    """K Gaussian components, factorised.

    Attributes:
        means: Means, (K, N, d).
        log_weights: Log-weights of the components, (K,).
        root: Cholesky factors of the covariances, (K, D, D) with D = N d.
        left: Covariances of token i given the first m tokens, (K, m, i, d, d) for m = 0..N.
    """

    means: Tensor
    log_weights: Tensor
    root: Tensor
    left: Tensor


class GivenFirst:
    """The laws given the first tokens of each row; see `LawsGiven`.

    Args:
        components: The components.
        x: Tokens, (n, N, d).
        count: Number of tokens that each row knows, (n,).
        z: Innovations of the known tokens, and 0 elsewhere, (K, the most known numbers, n).
        causal: Whether a token is given the known tokens before it only.
    """

    def __init__(
        self, components: Factorised, *, x: Tensor, count: Tensor, z: Tensor, causal: bool
    ) -> None:
        self._of, self._causal = components, causal
        self._x, self._count, self._z = x, count, z

    def of(self, rows: slice, tokens: Sequence[int]) -> Laws:
        """The laws of some rows and tokens; see `LawsGiven`."""
        means, root = self._of.means, self._of.root
        d, told = means.shape[2], self._z.shape[1]
        token = torch.tensor(tokens, device=means.device)
        number = torch.arange(d, device=means.device)
        own = (token[:, None] * d + number).flatten()  # numbers of these tokens
        before = torch.arange(told, device=means.device) < token.repeat_interleave(d)[:, None] * d
        z, count = self._z[..., rows], self._count[rows]
        told_by = ((root[:, own, :told] * before) @ z).permute(2, 0, 1)  # (r, K, m d)
        mean = (means.flatten(1)[:, own] + told_by).unflatten(2, (len(token), d)).transpose(1, 2)
        first = torch.minimum(count[:, None], token)  # known tokens before each, (r, m)
        covariance = self._of.left[:, first, token].permute(1, 2, 0, 3, 4)  # (r, m, K, d, d)
        if not self._causal:
            known = (token < count[:, None])[:, :, None, None]
            mean = torch.where(known, self._x[rows][:, token, None], mean)
            covariance = covariance * ~known[..., None]
        return self._log_weights(rows, token), mean, covariance

    def _log_weights(self, rows: slice, token: Tensor) -> Tensor:
        """Log-weights of the components, (r, 1, K), or (r, m, K) if they are causal."""
        own, z = self._of.log_weights, self._z[..., rows].permute(2, 0, 1)  # (r, K, told)
        K, d, told = len(own), self._of.means.shape[2], z.shape[2]
        if K == 1 or told == 0:
            return own.expand(len(z), len(token) if self._causal else 1, K)
        scale = self._of.root.diagonal(dim1=1, dim2=2).log()[:, :told]  # (K, told)
        seen = torch.arange(told, device=z.device) < (self._count[rows] * d)[:, None, None]
        each: Tensor = ((-0.5 * z.square() - scale) * seen).unflatten(2, (told // d, d)).sum(3).mT
        if not self._causal:
            return each.sum(1, keepdim=True) + own
        so_far = torch.cat([torch.zeros_like(each[:, :1]), each.cumsum(1)], 1)  # (r, told + 1, K)
        return own + so_far[:, token.clamp(max=told // d)]
