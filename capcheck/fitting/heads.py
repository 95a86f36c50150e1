"""Heads: numbers that a module makes for a token -> the law of the token.

A continuous token gets sum_c w_c N(m + s mu_c, s^2 exp(l_c)) with the token's own mean m and
deviation s, coordinate by coordinate; a categorical one softmax(h W^T), where W (V, r) is shared by
all tokens and contexts if its rank is bounded.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from capcheck.core.sequences import SequenceSpec
from capcheck.laws import Categorical, MixtureOfGaussians

__all__ = ["NARROWEST", "SPREAD", "MixtureHead", "SoftmaxHead", "TokenHead", "positive"]

NARROWEST = -14.0  # log-variance of a component, in units of the token's variance
SPREAD = 1.5  # deviations of the token within which components start


class MixtureHead(nn.Module):
    """A mixture of m Gaussians with diagonal covariances for each token.

    Args:
        dim: d of a token.
        components: m.
    """

    start: Tensor

    def __init__(self, dim: int, components: int) -> None:
        super().__init__()
        self.dim, self.components = dim, components
        self.numbers = components * (1 + 2 * dim)
        reach = SPREAD if components > 1 else 0.0
        self.register_buffer("start", torch.linspace(-reach, reach, components)[:, None])

    def forward(self, h: Tensor, mean: Tensor, variance: Tensor) -> MixtureOfGaussians:
        """The laws.

        Args:
            h: (n, N, m (1 + 2 d)).
            mean: (n|1, N, d), that components are placed around.
            variance: (n|1, N, d), that they are scaled by.
        """
        m, d = self.components, self.dim
        log_w, mu, log_v = h.split([m, m * d, m * d], -1)
        mu = self.start + mu.unflatten(-1, (m, d))  # (n, N, m, d)
        log_v = log_v.unflatten(-1, (m, d)).clamp(NARROWEST, -NARROWEST)
        means = mean[:, :, None] + variance.sqrt()[:, :, None] * mu
        return MixtureOfGaussians(log_w, means, variance[:, :, None] * log_v.exp())


class SoftmaxHead(nn.Module):
    """Logits of V values, of all contexts within a space of rank r if it is given.

    Args:
        vocabulary: V.
        rank: r, or None for no bound.
    """

    def __init__(self, vocabulary: int, rank: int | None = None) -> None:
        super().__init__()
        bounded = rank is not None and rank < vocabulary
        self.numbers = rank if bounded and rank is not None else vocabulary
        self.W = nn.Linear(self.numbers, vocabulary, bias=False) if bounded else nn.Identity()

    def forward(self, h: Tensor) -> Categorical:
        """The laws of h (n, N, r|V)."""
        return Categorical(self.W(h))


class TokenHead(nn.Module):
    """The head that fits a sequence's kind of token.

    Args:
        spec: Of the sequences.
        components: Gaussians of a continuous token.
        rank: Bound on the rank of logits.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, spec: SequenceSpec, *, components: int, rank: int | None = None) -> None:
        super().__init__()
        self.of_numbers = spec.kind == "continuous"
        inner: MixtureHead | SoftmaxHead
        if self.of_numbers:
            inner = MixtureHead(spec.dim, components)
        else:
            inner = SoftmaxHead(spec.dim, rank)
        self.inner, self.numbers = inner, inner.numbers
        self.register_buffer("mean", spec.mean.float()[None])
        self.register_buffer("variance", positive(spec.variance)[None])

    def forward(self, h: Tensor) -> MixtureOfGaussians | Categorical:
        """The laws of h (n, N, numbers)."""
        law: MixtureOfGaussians | Categorical
        law = self.inner(h, self.mean, self.variance) if self.of_numbers else self.inner(h)
        return law


def positive(variance: Tensor) -> Tensor:
    """Variances in float32, with 1 for a number that never varies."""
    narrow = variance.float()
    return torch.where(narrow > 0, narrow, 1.0)
