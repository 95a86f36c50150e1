"""The Knothe-Rosenblatt map is the triangular map that carries standard normals to a target.

Token by token, and coordinate by coordinate within a token,

    x_i = F_i^-1(Phi(z_i) | x_<i),    log q(x) = sum_i log p(x_i | x_<i),

where F_i is the conditional distribution function of the target. The map is increasing in z_i, and
hence invertible for continuous tokens; a categorical token depends on one z_i, without an inverse.
If tokens are given, F_i is conditional on all of them and on the other tokens before i.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.pace import Pace
from capcheck.laws import TokenLaw, normal_cdf
from capcheck.targets.target import Target

__all__ = ["LEAST", "Rosenblatt", "uniform_of", "with_given"]

LEAST = torch.finfo(torch.float64).tiny  # smallest uniform number; the largest is 1 - 2^-53


@dataclass(frozen=True, kw_only=True, eq=False)
class Rosenblatt:
    """The triangular map of one target; row r of its arguments belongs to row r of the target.

    Attributes:
        target: Any target.
    """

    target: Target

    def __call__(self, z: Tensor, *given: Tensor) -> Tensor:
        """The sequences x for normals z: (n, N, d), or (n, N) integers.

        Args:
            z: Standard normals, (n, N, d), or (n, N, 1) for categorical tokens.
            given: Nothing, or tokens and known, (n, N) bool; given tokens keep their values.
        """
        spec = self.target.spec
        u = uniform_of(z)  # (n, N, d)
        categorical = spec.kind == "categorical"
        dtype = torch.int64 if categorical else self.target.dtype
        x = torch.zeros(len(z), spec.tokens, *spec.token_shape, dtype=dtype, device=z.device)
        x, known = with_given(x, *given), given[1:]
        for i, law in self.conditionals(x, *known):
            drawn = x[:, [i]].clone()
            if categorical:
                drawn = law.icdf(u[:, [i], 0])
            for j in range(0 if categorical else spec.dim):
                drawn[..., j] = law.coordinate(j, drawn).icdf(u[:, [i], j])[..., 0].to(dtype)
            x[:, [i]] = with_given(drawn, *(part[:, [i]] for part in given))
        return x

    def inverse(self, x: Tensor, *known: Tensor) -> Tensor:
        """The normals z_i = Phi^-1(F_i(x_i | x_<i)) of x, (n, N, d); 0 where a token is given.

        Args:
            x: Sequences, (n, N, d).
            known: Nothing, or which tokens are given, (n, N) bool.

        Raises:
            InputError: The tokens are categorical.
        """
        if self.target.spec.kind == "categorical":
            raise InputError("Rosenblatt.inverse needs continuous tokens, got categorical ones.")
        u = torch.full_like(x, 0.5, dtype=torch.float64)
        for i, law in self.conditionals(x, *known):
            for j in range(self.target.spec.dim):
                of_j = law.coordinate(j, x[:, [i]])
                u[:, i, j] = of_j.cdf(x[:, [i], j : j + 1].double())[:, 0].double()
        z: Tensor = torch.special.ndtri(u)
        for mask in known:
            z = torch.where(mask[..., None], 0, z)
        return z.to(x)

    def log_prob(self, x: Tensor, *known: Tensor) -> Tensor:
        """Log-density (nats) of x, or of its unknown tokens given the known ones: (n,)."""
        log_q = torch.zeros(len(x), dtype=self.target.dtype, device=x.device)
        for i, law in self.conditionals(x, *known):
            of_one = law.log_prob(x[:, [i]])[:, 0]
            for mask in known:
                of_one = torch.where(mask[:, i], 0, of_one)
            log_q = log_q + of_one
        return log_q

    def conditionals(self, x: Tensor, *known: Tensor) -> Iterator[tuple[int, TokenLaw]]:
        """The law of each token i given the known tokens and the tokens before i, as (i, law).

        Tokens that are known in every row are left out.

        Args:
            x: Sequences, (n, N, d), or (n, N) integers; the caller may fill in token i before it
                asks for the next law.
            known: Nothing, or which tokens are given, (n, N) bool.
        """
        N = x.shape[1]
        pace = Pace(
            N,
            f"the laws of {N:,} tokens of {len(x):,} draws, one after another",
            "take fewer draws or shorter sequences",
        )
        if not known:
            for i, law in enumerate(self.target.one_by_one(x)):
                pace.turn()
                yield i, law
            return
        order = torch.arange(N, device=x.device).expand(len(x), N)
        for i in range(N):
            pace.turn()
            unseen = order >= i
            for mask in known:
                unseen = unseen & ~mask
            if bool(unseen[:, i].any()):
                unseen[:, i] = True  # the law of a known token is not used, and would be an atom
                yield i, self.target.marginals(x, unseen.to(self.target.dtype)).select([i])


def uniform_of(z: Tensor) -> Tensor:
    """The uniform numbers Phi(z) in float64, strictly between 0 and 1."""
    below = -z.double().abs()
    tail = normal_cdf(below).clamp(min=LEAST)
    return torch.where(z <= 0, tail, 1 - tail.clamp(min=2.0**-53))


def with_given(x: Tensor, *given: Tensor) -> Tensor:
    """The sequences x, with the values of given tokens in place.

    Args:
        x: Sequences, (n, N, d), or (n, N) integers.
        given: Nothing, or tokens and known, (n, N) bool.
    """
    if not given:
        return x
    tokens, known = given
    mask = known.reshape(*known.shape, *[1] * (x.dim() - 2))
    return torch.where(mask, tokens.to(x), x)
