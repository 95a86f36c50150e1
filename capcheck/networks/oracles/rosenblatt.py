"""The Knothe-Rosenblatt map: the triangular map that carries standard normals to a target.

Token by token, and coordinate by coordinate within a token,

    x_i = F_i^-1(Phi(z_i) | x_<i),    log q(x) = sum_i log p(x_i | x_<i),

with F_i the conditional distribution function of the target. It is increasing in z_i, hence
invertible where tokens are continuous; a categorical token is read off one z_i and has no inverse.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.laws import TokenLaw, normal_cdf
from capcheck.targets.target import Target

LEAST = torch.finfo(torch.float64).tiny  # of a uniform; the largest is 1 - 2^-53


@dataclass(frozen=True, kw_only=True, eq=False)
class Rosenblatt:
    """The map of one target; row r of its arguments meets row r of the target.

    Attributes:
        target: Any target.
    """

    target: Target

    def __call__(self, z: Tensor) -> Tensor:
        """X of z: (n, N, d), or (n, N) integers.

        Args:
            z: (n, N, d) standard normals; (n, N, 1) for categorical tokens.
        """
        spec = self.target.spec
        u = uniform_of(z)  # (n, N, d)
        categorical = spec.kind == "categorical"
        dtype = torch.int64 if categorical else self.target.dtype
        x = torch.zeros(len(z), spec.tokens, *spec.token_shape, dtype=dtype, device=z.device)
        for i, law in self.conditionals(x):
            if categorical:
                x[:, i] = law.icdf(u[:, [i], 0])[:, 0]
                continue
            for j in range(spec.dim):
                x[:, i, j] = law.coordinate(j, x[:, [i]]).icdf(u[:, [i], j])[:, 0, 0].to(dtype)
        return x

    def inverse(self, x: Tensor) -> Tensor:
        """Z of x, (n, N, d): z_i = Phi^-1(F_i(x_i | x_<i)).

        Args:
            x: (n, N, d).

        Raises:
            InputError: The tokens are categorical.
        """
        if self.target.spec.kind == "categorical":
            raise InputError("Rosenblatt.inverse needs continuous tokens, got categorical ones.")
        u = torch.zeros_like(x, dtype=torch.float64)
        for i, law in self.conditionals(x):
            for j in range(self.target.spec.dim):
                of_j = law.coordinate(j, x[:, [i]])
                u[:, i, j] = of_j.cdf(x[:, [i], j : j + 1].double())[:, 0].double()
        z: Tensor = torch.special.ndtri(u)
        return z.to(x)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density (nats) of x, by the chain rule: (n,)."""
        log_q = torch.zeros(len(x), dtype=self.target.dtype, device=x.device)
        for i, law in self.conditionals(x):
            log_q = log_q + law.log_prob(x[:, [i]])[:, 0]
        return log_q

    def conditionals(self, x: Tensor) -> Iterator[tuple[int, TokenLaw]]:
        """The law of each token given the tokens of x before it, which may be filled meanwhile."""
        N = x.shape[1]
        order = torch.arange(N, device=x.device).expand(len(x), N)
        for i in range(N):
            unseen = (order >= i).to(self.target.dtype)
            yield i, self.target.marginals(x, unseen).select([i])


def uniform_of(z: Tensor) -> Tensor:
    """Phi(z) in float64, inside (0, 1)."""
    below = -z.double().abs()
    tail = normal_cdf(below).clamp(min=LEAST)
    return torch.where(z <= 0, tail, 1 - tail.clamp(min=2.0**-53))
