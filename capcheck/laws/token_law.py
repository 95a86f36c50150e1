"""A token law is an n x N array of independent laws of one token each.

Procedures sample tokens from it, evaluate densities under it, and denoise noisy tokens with it.
A law can be restricted to some of its rows, and to one token of each row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.randomness import Randomness
from capcheck.noise.paths import NoisePath

__all__ = [
    "DIFFERENCE",
    "DrawnRows",
    "TokenLaw",
    "log_table",
    "require_scalar_tokens",
]

DIFFERENCE = 1e-5  # shift of central differences, in deviations of the noise and the law


@dataclass(frozen=True)
class DrawnRows:
    """Which rows of an array of random draws belong to a law.

    Attributes:
        n: Number of rows that are drawn.
        index: Indices of the rows that belong to the law; None for all.
    """

    n: int
    index: Tensor | None

    def of(self, draws: Tensor) -> Tensor:
        """The law's part of n rows of draws."""
        return draws if self.index is None else draws[self.index]

    def __getitem__(self, rows: Tensor) -> DrawnRows:
        return DrawnRows(self.n, rows if self.index is None else self.index[rows])


class TokenLaw(ABC):
    """An (n, N) array of independent laws, one per row and token."""

    @abstractmethod
    def sample(self, rng: Randomness) -> Tensor:
        """One draw per row and token: (n, N, d), or (n, N) integers."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density (nats) of x, shaped as `sample` returns it: (n, N)."""

    def sample_where(self, rng: Randomness, chosen: Tensor) -> Tensor:
        """The draws of `sample` where `chosen`, (n, N) bool; other values mean nothing."""
        return self.sample(rng)

    def log_prob_where(self, x: Tensor, chosen: Tensor) -> Tensor:
        """The values of `log_prob` where `chosen`, (n, N) bool, and 0 elsewhere."""
        return torch.where(chosen, self.log_prob(x), 0)

    @abstractmethod
    def mean(self) -> Tensor:
        """Means, (n, N, d); of categorical tokens, means of the one-hot vectors, (n, N, V)."""

    @abstractmethod
    def variance(self) -> Tensor:
        """Variance of each coordinate, shaped as `mean`."""

    def probabilities_where(self, chosen: Tensor) -> Tensor:
        """Probabilities (m, V) of the m categorical tokens that are `chosen`, (n, N) bool."""
        return self.mean()[chosen]

    def peaks_where(
        self, chosen: Tensor, *, most: int, least: float, ordered: bool = True
    ) -> Tensor:
        """Largest probability of the chosen categorical tokens, (n, N), and 0 elsewhere.

        Those of at least `least` count, and the `most` largest of each row. Where they are
        `ordered`, the numbers that count are exact, and others may be upper bounds on smaller ones.
        Otherwise all may be bounds, which tell no more than which tokens reach `least`, and which
        are the `most` largest of a row where none does.

        Args:
            chosen: The tokens, (n, N) bool.
            most: Number of the largest ones of each row that count.
            least: Probability from which on all count.
            ordered: Whether the order of those that count is asked for.
        """
        p = self.probabilities_where(chosen)
        found = p.new_zeros(chosen.shape)
        found[chosen] = p.amax(-1)
        return found

    def moments(self) -> tuple[Tensor, Tensor]:
        """The answers of `mean` and `variance`."""
        return self.mean(), self.variance()

    @abstractmethod
    def cdf(self, x: Tensor) -> Tensor:
        """P(token <= x), (n, N); for tokens of one dimension only."""

    @abstractmethod
    def icdf(self, u: Tensor) -> Tensor:
        """Smallest x with P(token <= x) >= u, for u (n, N) in (0, 1); shaped as `sample`."""

    @abstractmethod
    def select(self, tokens: Sequence[int]) -> TokenLaw:
        """The laws of the tokens with these indices, in this order."""

    def held(self) -> TokenLaw:
        """The same law with its parameters stored, for a caller that uses it many times."""
        return self

    def rows(self, index: Tensor) -> TokenLaw:
        """The laws of the rows with indices (r,).

        `sample` returns the draws that the whole law would return for these rows: it still draws
        random numbers for all n rows.
        """
        return _SomeRows(self, index)

    def denoise(self, x_t: Tensor, t: Tensor, path: NoisePath) -> Tensor:
        """E[x_0 | x_t] of each token, given that token only, where x_0 has this law: (n, N, d).

        Args:
            x_t: Noisy tokens alpha(t) x_0 + sigma(t) e, (n, N, d).
            t: Levels in [0, 1], (n, N).
            path: Noise path of the levels.

        Raises:
            InputError: The tokens are categorical.
        """
        raise InputError("TokenLaw.denoise needs continuous tokens, got categorical ones.")

    def denoise_with_derivative(
        self, x_t: Tensor, t: Tensor, path: NoisePath
    ) -> tuple[Tensor, Tensor]:
        """The answer of `denoise`, and its derivative in each token's own value.

        This default takes central differences.

        Args:
            x_t: As for `denoise`.
            t: As for `denoise`.
            path: As for `denoise`.

        Returns:
            The means (n, N, d), and their derivatives (n, N, d, d).
        """
        deviation = self.variance().clamp(min=torch.finfo(x_t.dtype).tiny).sqrt()
        columns = []
        for j in range(x_t.shape[2]):
            shift = torch.zeros_like(x_t)
            shift[..., j] = DIFFERENCE * (path.sigma(t) + path.alpha(t) * deviation[..., j])
            ends = [self.denoise(x_t + sign * shift, t, path) for sign in (1, -1)]
            columns.append((ends[0] - ends[1]) / (2 * shift[..., j, None]))
        return self.denoise(x_t, t, path), torch.stack(columns, 3)

    def pick(self, index: Tensor) -> TokenLaw:
        """The law of one token of each row, as an (n, 1) law.

        Args:
            index: Index of the token in each row, (n,).
        """
        return _Picked(self, index)

    def coordinate(self, j: int, x: Tensor) -> TokenLaw:
        """The law of coordinate j of every token given the token's earlier coordinates.

        Args:
            j: Index of the coordinate, 0..d-1.
            x: Tokens, (n, N, d), of which only the coordinates before j are read.

        Returns:
            An (n, N) law of tokens of dimension 1.

        Raises:
            InputError: The tokens are categorical.
        """
        raise InputError("TokenLaw.coordinate needs continuous tokens, got categorical ones.")


class _SomeRows(TokenLaw):
    """Some rows of a law that can only be evaluated on all of its rows."""

    def __init__(self, law: TokenLaw, index: Tensor) -> None:
        self._law, self._index = law, index

    def _whole(self, x: Tensor) -> Tensor:
        whole = x.new_zeros(len(self._law.mean()), *x.shape[1:])
        whole[self._index] = x
        return whole

    def sample(self, rng: Randomness) -> Tensor:
        return self._law.sample(rng)[self._index]

    def log_prob(self, x: Tensor) -> Tensor:
        return self._law.log_prob(self._whole(x))[self._index]

    def mean(self) -> Tensor:
        return self._law.mean()[self._index]

    def variance(self) -> Tensor:
        return self._law.variance()[self._index]

    def cdf(self, x: Tensor) -> Tensor:
        return self._law.cdf(self._whole(x))[self._index]

    def icdf(self, u: Tensor) -> Tensor:
        whole = torch.full_like(self._whole(u), 0.5)
        whole[self._index] = u
        return self._law.icdf(whole)[self._index]

    def denoise(self, x_t: Tensor, t: Tensor, path: NoisePath) -> Tensor:
        return self._law.denoise(self._whole(x_t), self._whole(t), path)[self._index]

    def select(self, tokens: Sequence[int]) -> TokenLaw:
        return _SomeRows(self._law.select(tokens), self._index)


class _Picked(TokenLaw):
    """One token of each row of a law that can only be evaluated on all of its tokens."""

    def __init__(self, law: TokenLaw, index: Tensor) -> None:
        self._law, self._index = law, index

    def _one(self, whole: Tensor) -> Tensor:
        rows = torch.arange(len(whole), device=whole.device)
        return whole[rows, self._index][:, None]

    def _all(self, x: Tensor) -> Tensor:
        tokens = self._law.mean().shape[1]
        return x.expand(len(x), tokens, *x.shape[2:])

    def sample(self, rng: Randomness) -> Tensor:
        return self._one(self._law.sample(rng))

    def log_prob(self, x: Tensor) -> Tensor:
        return self._one(self._law.log_prob(self._all(x)))

    def mean(self) -> Tensor:
        return self._one(self._law.mean())

    def variance(self) -> Tensor:
        return self._one(self._law.variance())

    def cdf(self, x: Tensor) -> Tensor:
        return self._one(self._law.cdf(self._all(x)))

    def icdf(self, u: Tensor) -> Tensor:
        return self._one(self._law.icdf(self._all(u)))

    def denoise(self, x_t: Tensor, t: Tensor, path: NoisePath) -> Tensor:
        return self._one(self._law.denoise(self._all(x_t), self._all(t), path))

    def rows(self, index: Tensor) -> TokenLaw:
        return _Picked(self._law.rows(index), self._index[index])

    def select(self, tokens: Sequence[int]) -> TokenLaw:
        return self


def require_scalar_tokens(what: str, dim: int) -> None:
    """Raise InputError unless tokens have dimension 1, as CDFs require."""
    if dim != 1:
        raise InputError(
            f"TokenLaw.{what} needs tokens of dimension 1, got {dim}; "
            "split the token into its coordinates."
        )


def log_table(law: TokenLaw) -> Tensor:
    """Log-probabilities (nats) of all values of categorical tokens, (n, N, V).

    Args:
        law: Law of categorical tokens; if it does not store log-probabilities, they are computed
            from its mean, which is the probabilities.
    """
    found = getattr(law, "log_probabilities", None)
    return law.mean().log() if found is None else found
