"""Gaussian components in the basis of their eigenvectors, Sigma_c = U_c diag(lambda_c) U_c^T.

If all tokens of a row have the same noise level, C_c = alpha^2 Sigma_c + sigma^2 is diagonal there,
V_c = alpha^2 lambda_c + sigma^2, and with z_c = V_c^-1/2 U_c^T (x - alpha mu_c)

    E[x_0 | x] = sum_c r_c (mu_c + U_c (alpha lambda_c V_c^-1/2) z_c),

r_c the softmax of log w_c - log |V_c| / 2 - |z_c|^2 / 2: two matrix products per level instead of a
factorisation. Eigenvectors lose what is small beside what is large; `well_scaled` says where not.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from capcheck.core.tiles import tile_size
from capcheck.noise.paths import NoisePath

__all__ = ["TILE", "Eigenbasis"]

TILE = 1 << 18  # most numbers of an intermediate result


class Eigenbasis:
    """K Gaussian components, each in the basis of its own eigenvectors.

    Args:
        means: Means, (K, N, d).
        covariances: Covariances, (K, N d, N d).
        weights: Positive normalised weights, (K,).
    """

    def __init__(self, means: Tensor, covariances: Tensor, weights: Tensor) -> None:
        self._flat, self._weights = means.flatten(1), weights  # (K, D), (K,)
        self._values, vectors = torch.linalg.eigh(covariances)  # (K, D), (K, D, D)
        self._rotated = torch.einsum("kde,kd->ke", vectors, self._flat)
        # All eigenvectors side by side, (D, K D).
        self._basis = vectors.permute(1, 0, 2).reshape(vectors.shape[1], -1).contiguous()

    @property
    def well_scaled(self) -> bool:
        """Whether the eigenbasis keeps at least half of the digits of every variance."""
        least = math.sqrt(torch.finfo(self._values.dtype).eps)
        return bool((self._values.amin(1) > least * self._values.amax(1)).all())

    @property
    def principal(self) -> tuple[Tensor, Tensor]:
        """Variances (D,) and eigenvectors, the columns of (D, D), of a single component."""
        return self._values[0], self._basis

    def denoise(self, x: Tensor, levels: Tensor, path: NoisePath) -> Tensor:
        """The posterior mean E[x_0 | x] if all tokens of a row have the same level, below 1.

        Args:
            x: (n, N, d).
            levels: (n,) in [0, 1).
            path: The noise path that the levels refer to.

        Returns:
            (n, N, d).
        """
        answer = torch.empty_like(x, dtype=self._flat.dtype)
        flat = x.to(self._flat).flatten(1)
        size = max(1, tile_size(TILE, self._flat.device) // self._values.numel())
        for level in levels.unique():
            rows = (levels == level).nonzero()[:, 0]
            t = level.to(self._flat)
            alpha, sigma2 = float(path.alpha(t)), float(path.sigma(t).square())
            standard = self._standardiser(alpha, sigma2)
            V = alpha**2 * self._values + sigma2
            back = self._basis * (alpha * self._values / V.sqrt()).flatten()  # (D, K D)
            for tile in rows.split(size):
                log_weights, z = standard(flat[tile])
                share = log_weights.softmax(1)  # (r, K)
                pulled = z.mul_(share[..., None]).flatten(1) @ back.T
                clean = pulled.addmm_(share, self._flat)
                answer[tile] = clean.reshape(-1, *x.shape[1:])
        return answer

    def _standardiser(
        self, alpha: float, sigma2: float
    ) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """A function from rows (r, D) to log-weights (r, K) and V^-1/2 U^T (x - alpha mu) of each.

        V = alpha^2 Lambda + sigma^2 in the eigenbasis U of each component; the last is (r, K, D).
        """
        V = alpha**2 * self._values + sigma2  # (K, D)
        root = V.rsqrt()
        onto, shift = self._basis * root.flatten(), alpha * self._rotated * root
        constant = self._weights.log() - 0.5 * V.log().sum(1)

        def standard(x: Tensor) -> tuple[Tensor, Tensor]:
            z = (x @ onto).reshape(len(x), *V.shape).sub_(shift)
            return constant - 0.5 * torch.linalg.vector_norm(z, dim=2).square_(), z

        return standard
