"""A law as a mixture of products: p(x) = sum_c w_c prod_i p_c(x_i), its components one by one.

A decoder whose latent names the component draws from such a law exactly, and the posterior of the
component given a sequence is its encoder. Weights may differ from row to row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from capcheck.laws import TokenLaw

__all__ = ["PAIRS", "Products", "gaussian_log_likelihood"]

PAIRS = 1 << 22  # log-likelihoods held at once, 32 MiB


@dataclass(frozen=True, kw_only=True, eq=False)
class Products:
    """The components of a mixture of products.

    Attributes:
        log_weights: (1, K), or (n, K) where rows have weights of their own; normalised.
        law: Components c (n,) -> the law of every token of a sequence of that component, (n, N).
        log_likelihood: Some tokens x (n, S, ...) and their S indices -> log p_c(x), nats, (n, K).
    """

    log_weights: Tensor
    law: Callable[[Tensor], TokenLaw]
    log_likelihood: Callable[[Tensor, list[int]], Tensor]

    def log_posterior(self, x: Tensor) -> Tensor:
        """Log P(c | x) for whole sequences x (n, N, ...), few enough for a tile: (n, K)."""
        joint = self.log_weights + self.log_likelihood(x, list(range(x.shape[1])))
        return joint.log_softmax(-1)

    def rows_at_once(self) -> int:
        """Rows whose posteriors fit a tile."""
        return max(1, PAIRS // self.log_weights.shape[1])


def gaussian_log_likelihood(x: Tensor, means: Tensor, variances: Tensor) -> Tensor:
    """Log-density of x (n, N, d) under K products of Gaussians, nats: (n, K).

    Args:
        x: (n, N, d).
        means: (K, N, d).
        variances: (K|1, N, d).
    """
    residual = x[:, None] - means  # (n, K, N, d)
    log_scale = (2 * torch.pi * variances).log().sum((1, 2))  # (K|1,)
    square: Tensor = (residual.square() / variances).sum((2, 3))
    return -0.5 * (square + log_scale)
