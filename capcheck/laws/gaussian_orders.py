"""Finite mixtures of Gaussian laws of whole sequences, and their divergences from a Gaussian.

Procedures sample such a law if they draw an order first and are affine in every order.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from capcheck.core.unavailable import Unavailable
from capcheck.laws.gaussian import GaussianLaw
from capcheck.laws.kernel_means import mmd_of_mixture

__all__ = ["MixtureLaw"]


@dataclass(frozen=True, kw_only=True, eq=False)
class MixtureLaw:
    """The mixture sum_o w_o N(m_o, C_o): the law of a procedure that first draws an order o.

    KL and W2 of a mixture have no closed form; the mean of `log_prob` over draws of the target
    estimates the cross-entropy in KL(target || this law).

    Attributes:
        weights: Probabilities w_o of the orders, (P,), positive, with sum 1.
        laws: P different Gaussian laws.
    """

    weights: Tensor
    laws: tuple[GaussianLaw, ...]

    @functools.cached_property
    def mean(self) -> Tensor:
        """Mean of the mixture, (D,)."""
        return self.weights @ self._means

    @functools.cached_property
    def covariance(self) -> Tensor:
        """Covariance of the mixture, (D, D): mean of the C_o plus covariance of the m_o."""
        deviation = self._means - self.mean
        return sum(
            (w * law.covariance for w, law in zip(self.weights, self.laws, strict=True)),
            (self.weights[:, None] * deviation).T @ deviation,
        )

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density (nats) at x (n, ...): (n,)."""
        total = torch.full((len(x),), -torch.inf, dtype=torch.float64)
        for w, law in zip(self.weights.log(), self.laws, strict=True):
            total = torch.logaddexp(total, w + law.log_prob(x))
        return total

    def kl_from(self, mean: Tensor, covariance: Tensor) -> float | Unavailable:
        """KL(target || this law): infinite if every order's law is singular, else unavailable."""
        self.laws[0].checked(mean, covariance)
        if all(law.rank < len(law.mean) for law in self.laws):
            return math.inf
        return self._no_closed_form("KL")

    def kl_to(self, mean: Tensor, covariance: Tensor) -> float | Unavailable:
        """KL(this law || target): infinite if some order's law is singular, else unavailable."""
        self.laws[0].checked(mean, covariance)
        if any(law.rank < len(law.mean) for law in self.laws):
            return math.inf
        return self._no_closed_form("KL")

    def w2_squared(self, mean: Tensor, covariance: Tensor) -> Unavailable:
        """Unavailable; Gelbrich's formula with this law's moments is a lower bound."""
        return self._no_closed_form("W2")

    def mmd_squared(
        self, mean: Tensor, covariance: Tensor, *, bandwidths: Sequence[float]
    ) -> Tensor:
        """Squared MMD in closed form, (B,); see `GaussianLaw.mmd_squared`."""
        mean, S = self.laws[0].checked(mean, covariance)
        covariances = torch.stack([law.covariance for law in self.laws])  # (P, D, D)
        return mmd_of_mixture(self.weights, self._means, covariances, mean, S, bandwidths)

    @functools.cached_property
    def _means(self) -> Tensor:
        return torch.stack([law.mean for law in self.laws])  # (P, D)

    def _no_closed_form(self, what: str) -> Unavailable:
        return Unavailable(
            reason=f"{what} of a mixture over {len(self.laws)} orders has no closed form"
        )
