"""What mixtures of Gaussians have in common, whatever the form of their covariances."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from capcheck.core.sequences import SequenceSpec
from capcheck.laws import LOG_2PI
from capcheck.targets.target import EXPONENTIAL, ContinuousTarget, solution_cost
from capcheck.targets.tokens import require_tokens

__all__ = ["GaussianComponents", "derivative_of_mixture"]


class GaussianComponents(ContinuousTarget):
    """A mixture of Gaussians with means of its own for every component."""

    _means: Tensor
    _weights: Tensor

    def _hold(
        self,
        means: Tensor,
        weights: Tensor,
        variances: Tensor,
        *,
        narrowest: float,
        grid: tuple[int, int] | None,
    ) -> None:
        """Set the components, and the spec that follows from them.

        Args:
            means: (K, N, d) means.
            weights: (K,) positive, of sum 1.
            variances: (K, N, d) variances of the coordinates within each component.
            narrowest: Smallest standard deviation of a component in any direction.
            grid: (rows, columns) of the tokens, if they have any.
        """
        self._means, self._weights = means, weights
        mean = torch.einsum("k,knd->nd", weights, means)
        self._spec = SequenceSpec(
            tokens=means.shape[1],
            kind="continuous",
            dim=means.shape[2],
            mean=mean,
            variance=torch.einsum("k,knd->nd", weights, variances + (means - mean).square()),
            grid=grid,
            narrowest=narrowest,
        )

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of every computation."""
        return self._means.dtype

    @property
    def device(self) -> torch.device:
        """Where every computation runs."""
        return self._means.device

    @property
    def means(self) -> Tensor:
        """(K, N, d) means of the components of positive weight."""
        return self._means

    @property
    def weights(self) -> Tensor:
        """(K,) normalised weights."""
        return self._weights

    @property
    def derivative_cost(self) -> float:
        """For each component a share, and some matrices of all coordinates."""
        numbers = self._means[0].numel()
        of_components = len(self._means) * (4.0 * numbers**2 + EXPONENTIAL)
        return of_components + solution_cost(numbers)

    def log_prob(self, x: Tensor) -> Tensor:
        """Joint log-density of x (n, N, d), in nats: (n,)."""
        require_tokens(self.spec, x)
        return self._log_smoothed(x, 0.0) - 0.5 * x[0].numel() * LOG_2PI

    def kernel_mean(self, x: Tensor, bandwidth: float) -> Tensor:
        """`E exp(-|x - Y|^2 / (2 bandwidth^2))` over the target's Y: (n,)."""
        # A Gaussian kernel is a Gaussian density times (2 pi h^2)^(D/2).
        log_scale = x[0].numel() * math.log(bandwidth)
        return (self._log_smoothed(x, bandwidth**2) + log_scale).exp()

    @abstractmethod
    def _log_smoothed(self, x: Tensor, h2: float) -> Tensor:
        """Log-density of x (n, N, d) plus N(0, h2) noise, but for (2 pi)^(-N d / 2): (n,)."""


def derivative_of_mixture(
    log_weights: Tensor, means: Tensor, slopes: Tensor, pulls: Tensor
) -> tuple[Tensor, Tensor]:
    """Posterior mean of E coordinates, and its derivative in their noisy values.

    With posterior weights w_c, component means m_c(x), their derivatives A_c and the gradients g_c
    of the components' log-evidence, the derivative is sum_c w_c [A_c + (m_c - m) g_c^T].

    Args:
        log_weights: (r, K, 1), or (r, K, E) if the coordinates have posteriors of their own.
        means: Component means m_c, (r, K, E).
        slopes: Their derivatives A_c, (1|r, K, E, E).
        pulls: Gradients g_c, (r, K, E), or (r, K, E, E) if the coordinates' posteriors differ.

    Returns:
        The means (r, E) and their derivatives (r, E, E).
    """
    share = log_weights.softmax(1)  # (r, K, 1|E)
    mean = (share * means).sum(1)
    spread = share * (means - mean[:, None])  # (r, K, E)
    between = (
        spread.mT @ pulls if pulls.dim() == 3 else torch.einsum("rka,rkab->rab", spread, pulls)
    )
    of_slopes = share.expand_as(means)[..., None] * slopes
    return mean, between + of_slopes.sum(1)
