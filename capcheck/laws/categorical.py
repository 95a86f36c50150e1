"""Categorical token laws: p(x = v) = softmax(logits)_v on 0..V-1, stored or computed on demand."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from capcheck.core.randomness import Randomness, inverse_cdf
from capcheck.laws.token_law import TokenLaw

__all__ = ["Categorical", "DeferredCategorical", "certain"]


class Categorical(TokenLaw):
    """The laws p(x = v) = softmax(logits)_v on 0..V-1.

    Args:
        logits: Unnormalised log-probabilities (nats), (n, N, V); -inf is probability 0.
    """

    def __init__(self, logits: Tensor) -> None:
        self.log_probabilities = logits.log_softmax(-1)  # (n, N, V)
        self._p = self.log_probabilities.exp()

    def sample(self, rng: Randomness) -> Tensor:
        """One draw per row and token, (n, N) integers."""
        return rng.categorical(self._p, (*self._p.shape[:2], 1)).squeeze(-1)

    def sample_where(self, rng: Randomness, chosen: Tensor) -> Tensor:
        """As `sample` where `chosen`, (n, N) bool, with the same random numbers; else 0."""
        return rng.categorical_where(self._p[chosen], chosen)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-probability (nats) of the integers x (n, N)."""
        return self.log_probabilities.gather(-1, x[..., None]).squeeze(-1)

    def mean(self) -> Tensor:
        """Mean of the one-hot vector: the probabilities (n, N, V)."""
        return self._p

    def variance(self) -> Tensor:
        """Variance of each entry of the one-hot vector, (n, N, V)."""
        return self._p * (1 - self._p)

    def cdf(self, x: Tensor) -> Tensor:
        """P(token <= x) for integers x (n, N)."""
        return self._p.cumsum(-1).gather(-1, x[..., None]).squeeze(-1)

    def icdf(self, u: Tensor) -> Tensor:
        """Smallest integer whose cumulative probability reaches u (n, N)."""
        return inverse_cdf(self._p, u[..., None]).squeeze(-1)

    def select(self, tokens: Sequence[int]) -> Categorical:
        """The laws of the tokens with these indices."""
        return Categorical(self.log_probabilities[:, list(tokens)])


class DeferredCategorical(TokenLaw):
    """Categorical laws that are computed at their first use, and for the selected tokens only.

    Args:
        make: Function that computes the laws of the tokens with given indices.
        tokens: Indices of the tokens.
    """

    def __init__(self, make: Callable[[list[int]], Categorical], tokens: Sequence[int]) -> None:
        self.make = make
        self._tokens = list(tokens)

    @functools.cached_property
    def _law(self) -> Categorical:
        return self.make(self._tokens)

    @property
    def log_probabilities(self) -> Tensor:
        """Log-probabilities (nats) of all values, (n, N, V)."""
        return self._law.log_probabilities

    def sample(self, rng: Randomness) -> Tensor:
        """One draw per row and token, (n, N) integers."""
        return self._law.sample(rng)

    def _of(self, columns: list[int]) -> Categorical:
        """The laws of some of the tokens, given by their places; of many, all are computed."""
        if "_law" in self.__dict__ or not 0 < 2 * len(columns) <= len(self._tokens):
            return self._law.select(columns)
        return self.make([self._tokens[i] for i in columns])

    def sample_where(self, rng: Randomness, chosen: Tensor) -> Tensor:
        """As `sample` where `chosen`, (n, N) bool, with the same random numbers; see `TokenLaw`."""
        columns = chosen.any(0).nonzero()[:, 0].tolist()
        if not columns or "_law" in self.__dict__:
            return self._law.sample_where(rng, chosen)
        p = self._of(columns).mean()
        return rng.categorical_where(p[chosen[:, columns]], chosen)

    def probabilities_where(self, chosen: Tensor) -> Tensor:
        """Probabilities (m, V) of the m tokens that are `chosen`, (n, N) bool."""
        columns = chosen.any(0).nonzero()[:, 0].tolist()
        return self._of(columns).mean()[chosen[:, columns]]

    def log_prob_where(self, x: Tensor, chosen: Tensor) -> Tensor:
        """As `log_prob` where `chosen`, (n, N) bool, and 0 elsewhere."""
        columns = chosen.any(0).nonzero()[:, 0].tolist()
        some = self._of(columns).log_prob(x[:, columns])
        found = some.new_zeros(x.shape)
        found[:, columns] = torch.where(chosen[:, columns], some, 0)
        return found

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-probability (nats) of the integers x (n, N)."""
        return self._law.log_prob(x)

    def mean(self) -> Tensor:
        """Mean of the one-hot vector: the probabilities (n, N, V)."""
        return self._law.mean()

    def variance(self) -> Tensor:
        """Variance of each entry of the one-hot vector, (n, N, V)."""
        return self._law.variance()

    def cdf(self, x: Tensor) -> Tensor:
        """P(token <= x) for integers x (n, N)."""
        return self._law.cdf(x)

    def icdf(self, u: Tensor) -> Tensor:
        """Smallest integer whose cumulative probability reaches u (n, N)."""
        return self._law.icdf(u)

    def select(self, tokens: Sequence[int]) -> DeferredCategorical:
        """The laws of the tokens with these indices."""
        return DeferredCategorical(self.make, [self._tokens[i] for i in tokens])


class _Certain(DeferredCategorical):
    """Point masses at token ids; a table of all values is made only where it is asked for.

    Args:
        x: The token ids, (n, N).
        vocabulary: Number V of values.
        dtype: Precision of the probabilities.
    """

    def __init__(self, x: Tensor, vocabulary: int, dtype: torch.dtype) -> None:
        super().__init__(self._table, range(x.shape[1]))
        self._x, self._vocabulary, self._dtype = x, vocabulary, dtype

    def _table(self, tokens: list[int]) -> Categorical:
        x = self._x[:, tokens]
        logits = torch.full(
            (*x.shape, self._vocabulary), -torch.inf, dtype=self._dtype, device=x.device
        )
        return Categorical(logits.scatter(-1, x[..., None], 0.0))

    def sample(self, rng: Randomness) -> Tensor:
        """The token ids, (n, N), which take no random numbers."""
        return self._x.clone()

    def sample_where(self, rng: Randomness, chosen: Tensor) -> Tensor:
        """As `sample` where `chosen`, (n, N) bool; else 0."""
        return torch.where(chosen, self._x, 0)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-probability (nats) of the integers x (n, N): 0 or -inf."""
        return torch.zeros_like(x, dtype=self._dtype).masked_fill(x != self._x, -torch.inf)

    def log_prob_where(self, x: Tensor, chosen: Tensor) -> Tensor:
        """As `log_prob` where `chosen`, (n, N) bool, and 0 elsewhere."""
        return torch.where(chosen, self.log_prob(x), 0)

    def cdf(self, x: Tensor) -> Tensor:
        """P(token <= x) for integers x (n, N): 0 or 1."""
        return (x >= self._x).to(self._dtype)

    def icdf(self, u: Tensor) -> Tensor:
        """The token ids, whatever u (n, N)."""
        return self._x.clone()

    def select(self, tokens: Sequence[int]) -> _Certain:
        """The laws of the tokens with these indices."""
        return _Certain(self._x[:, list(tokens)], self._vocabulary, self._dtype)


def certain(x: Tensor, vocabulary: int, dtype: torch.dtype) -> DeferredCategorical:
    """The point masses at token ids x (n, N), as laws over `vocabulary` values."""
    return _Certain(x, vocabulary, dtype)
