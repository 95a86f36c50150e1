"""A head turns the numbers h that a module computes for a token into the law of the token.

A continuous token has the law sum_c w_c N(m + s mu_c, s^2 exp(l_c)), with the token's mean m and
deviation s, coordinate by coordinate. A categorical token has the law softmax(h), or, if the rank r
of the logits is bounded, softmax(h W^T) with one W (V, r) for all tokens and contexts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from capcheck.core.sequences import SequenceSpec
from capcheck.laws import Categorical, MixtureOfGaussians

__all__ = ["NARROWEST", "SPREAD", "MixtureHead", "SoftmaxHead", "TokenHead", "positive"]

NARROWEST = -14.0  # smallest log-variance of a component, in units of the token's variance
SPREAD = 1.5  # largest initial distance of a component from the mean, in the token's deviations


class MixtureHead(nn.Module):
    """A mixture of m Gaussians with diagonal covariances for each token.

    Args:
        dim: Dimension d of a token.
        components: Number m of Gaussians.
    """

    start: Tensor

    def __init__(self, dim: int, components: int) -> None:
        super().__init__()
        self.dim, self.components = dim, components
        self.numbers = components * (1 + 2 * dim)
        reach = SPREAD if components > 1 else 0.0
        self.register_buffer("start", torch.linspace(-reach, reach, components)[:, None])

    def forward(self, h: Tensor, mean: Tensor, variance: Tensor) -> MixtureOfGaussians:
        """The (n, N) laws of the tokens.

        Args:
            h: Parameters of the mixtures, (n, N, m (1 + 2 d)).
            mean: Reference mean of each token, (n|1, N, d).
            variance: Reference variance of each token, (n|1, N, d).
        """
        m, d = self.components, self.dim
        log_w, mu, log_v = h.split([m, m * d, m * d], -1)
        mu = self.start + mu.unflatten(-1, (m, d))  # (n, N, m, d)
        log_v = log_v.unflatten(-1, (m, d)).clamp(NARROWEST, -NARROWEST)
        means = mean[:, :, None] + variance.sqrt()[:, :, None] * mu
        return MixtureOfGaussians(log_w, means, variance[:, :, None] * log_v.exp())


class SoftmaxHead(nn.Module):
    """A softmax over V values, whose logits have a bounded rank if one is given.

    Args:
        vocabulary: Number V of values.
        rank: Bound r on the rank of the logits over all contexts, or None for no bound.
    """

    def __init__(self, vocabulary: int, rank: int | None = None) -> None:
        super().__init__()
        bounded = rank is not None and rank < vocabulary
        self.numbers = rank if bounded and rank is not None else vocabulary
        self.W = nn.Linear(self.numbers, vocabulary, bias=False) if bounded else nn.Identity()

    def forward(self, h: Tensor) -> Categorical:
        """The (n, N) laws of the tokens for h (n, N, r|V)."""
        return Categorical(self.W(h))


class TokenHead(nn.Module):
    """The head for a sequence's kind of token: a mixture of Gaussians or a softmax.

    Args:
        spec: Spec of the sequences.
        components: Number of Gaussians for a continuous token.
        rank: Bound on the rank of a categorical token's logits, or None.
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
        """The (n, N) laws of the tokens for h (n, N, numbers)."""
        law: MixtureOfGaussians | Categorical
        law = self.inner(h, self.mean, self.variance) if self.of_numbers else self.inner(h)
        return law


def positive(variance: Tensor) -> Tensor:
    """Variances in float32, with 1 in place of 0."""
    narrow = variance.float()
    return torch.where(narrow > 0, narrow, 1.0)
