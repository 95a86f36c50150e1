"""Access to the components of a mixture of products, p(x) = sum_c w_c prod_i p_c(x_i).

A decoder whose latent is the component samples such a law exactly, and the posterior of the
component given a sequence is the matching encoder. Weights may differ from row to row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from capcheck.laws import TokenLaw

__all__ = ["PAIRS", "Products", "gaussian_log_likelihood"]

PAIRS = 1 << 22  # most log-likelihoods (row x component) held at once: 32 MiB


@dataclass(frozen=True, kw_only=True, eq=False)
class Products:
    """The components of a mixture of products.

    Attributes:
        log_weights: Normalised log-weights, (1, K), or (n, K) if rows have weights of their own.
        law: Function of components c (n,) that returns the (n, N) law of the tokens of a sequence
            of each component.
        log_likelihood: Function of S tokens x (n, S, ...) and their indices that returns
            log p_c(x), (n, K), in nats.
    """

    log_weights: Tensor
    law: Callable[[Tensor], TokenLaw]
    log_likelihood: Callable[[Tensor, list[int]], Tensor]

    def log_posterior(self, x: Tensor) -> Tensor:
        """Log-posterior log P(c | x) of whole sequences x (n, N, ...), (n, K), nats.

        At most `rows_at_once` rows keep the memory within bounds.
        """
        joint = self.log_weights + self.log_likelihood(x, list(range(x.shape[1])))
        return joint.log_softmax(-1)

    def rows_at_once(self) -> int:
        """Largest number of rows for which at most `PAIRS` log-likelihoods are held."""
        return max(1, PAIRS // self.log_weights.shape[1])


def gaussian_log_likelihood(x: Tensor, means: Tensor, variances: Tensor) -> Tensor:
    """Log-density of sequences under K products of Gaussians, (n, K), in nats.

    Args:
        x: Sequences, (n, N, d).
        means: Means of the components, (K, N, d).
        variances: Variances, (K, N, d), or (1, N, d) if all components share them.
    """
    residual = x[:, None] - means  # (n, K, N, d)
    log_scale = (2 * torch.pi * variances).log().sum((1, 2))  # (K|1,)
    square: Tensor = (residual.square() / variances).sum((2, 3))
    return -0.5 * (square + log_scale)
