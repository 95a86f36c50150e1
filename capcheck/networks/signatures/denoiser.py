"""Denoisers: map noisy tokens and their levels to the mean of the clean tokens.

Every token has its own level. A denoiser has one of three views: every token sees all tokens
(`all`), token i sees the tokens up to itself (`causal`), or token i sees itself and the clean
tokens, as a diffusion head per token on top of a masked model does (`own`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from capcheck.core.errors import UnfitError
from capcheck.core.slopes import DenseSlope, Slope
from capcheck.laws import TiledMixture, TokenLaw
from capcheck.networks.signatures.signature import Signature, require_like
from capcheck.noise.paths import PATHS, NoisePath, PathName
from capcheck.targets.target import ContinuousTarget, Target

__all__ = [
    "Denoiser",
    "DenoiserSignature",
    "OracleDenoiser",
    "OwnDenoiser",
    "View",
    "require_continuous",
    "with_slope",
]

View = Literal["all", "causal", "own"]
_Part = tuple[Tensor, Tensor, TokenLaw]


class Denoiser(Protocol):
    """Noisy tokens and their levels -> the mean of the clean tokens."""

    def __call__(self, x_t: Tensor, t: Tensor, /) -> Tensor:
        """Return the posterior mean of the clean tokens.

        Args:
            x_t: Noisy tokens alpha(t) x_0 + sigma(t) e, (n, N, d).
            t: Levels of the tokens in [0, 1], (n, N); 0 is clean and 1 pure noise.

        Returns:
            The mean E[x_0 | x_t], (n, N, d).
        """


@dataclass(frozen=True, eq=False)
class OracleDenoiser:
    """The exact posterior mean of a target, with its derivative.

    Attributes:
        target: Law of the clean tokens.
        path: Noise path of the levels.
        causal: Whether token i sees the tokens up to itself only.
    """

    target: ContinuousTarget
    path: NoisePath
    causal: bool = False

    def __call__(self, x_t: Tensor, t: Tensor, /) -> Tensor:
        """E[x_0 | x_t], (n, N, d); see `Denoiser`."""
        return self.target.denoise(x_t, t, self.path, causal=self.causal)

    def with_slope(self, x_t: Tensor, t: Tensor, tokens: Sequence[int]) -> tuple[Tensor, Slope]:
        """The means of some tokens and their derivative, in float64.

        See `ContinuousTarget.denoise_with_slope`.
        """
        return self.target.denoise_with_slope(x_t, t, self.path, tokens, causal=self.causal)


@dataclass(frozen=True, eq=False)
class OwnDenoiser:
    """The exact posterior mean of each token given itself and the clean tokens.

    Attributes:
        target: Law of the clean tokens.
        path: Noise path of the levels.
    """

    target: ContinuousTarget
    path: NoisePath
    _told: list[_GivenClean] = field(default_factory=list, init=False, repr=False)

    def __call__(self, x_t: Tensor, t: Tensor, /) -> Tensor:
        """E[x_i | x_t,i, tokens at level 0], (n, N, d); see `Denoiser`."""
        told = self._given_clean(x_t, t > 0)
        x0 = torch.where((t == 1)[..., None], told.mean, x_t)
        for rows, token, law in told.laws((t > 0) & (t < 1)):
            noisy, level = x_t[rows, token][:, None], t[rows, token][:, None]
            x0[rows, token] = law.denoise(noisy, level, self.path)[:, 0].to(x0)
        return x0

    def _given_clean(self, x: Tensor, noisy: Tensor) -> _GivenClean:
        """What the clean tokens tell; kept, as a procedure asks many times with the same ones."""
        clean = torch.where(noisy[..., None], 0, x)
        if not (self._told and self._told[0].holds(clean, noisy)):
            self._told[:] = [_GivenClean(clean, noisy, self.law(x, noisy))]
        return self._told[0]

    def law(self, x: Tensor, noisy: Tensor) -> TokenLaw:
        """The law of every token given the clean ones.

        Args:
            x: Tokens, (n, N, d), of which only the clean ones are read.
            noisy: Whether a token is not clean, (n, N) bool.
        """
        return self.target.marginals(x, noisy.to(self.target.dtype))


@dataclass(eq=False)
class _GivenClean:
    """The laws of the tokens that are not clean, given those that are.

    Attributes:
        clean: Values of the clean tokens, and 0 elsewhere, (n, N, d).
        noisy: Whether a token is not clean, (n, N) bool.
        law: The law of every token.
    """

    clean: Tensor
    noisy: Tensor
    law: TokenLaw
    _seen: Tensor | None = None
    _laws: list[_Part] = field(default_factory=list)

    def holds(self, clean: Tensor, noisy: Tensor) -> bool:
        """Whether the clean tokens are these."""
        return torch.equal(noisy, self.noisy) and torch.equal(clean, self.clean)

    @functools.cached_property
    def mean(self) -> Tensor:
        """The mean of every token, (n, N, d)."""
        return self.law.mean()

    def laws(self, seen: Tensor) -> list[_Part]:
        """The laws of the tokens that are seen (n, N): their rows, their indices and an (m, 1) law.

        They come in one part where the laws of all tokens can be held, and otherwise in parts of at
        most one token of every row.
        """
        if self._seen is None or not torch.equal(seen, self._seen):
            self._laws = self._whole(seen) or self._by_place(seen)
            self._seen = seen
        return self._laws

    def _whole(self, seen: Tensor) -> list[_Part]:
        rows, tokens = seen.nonzero(as_tuple=True)
        if len(rows) == 0 or not isinstance(self.law, TiledMixture):
            return []
        law = self.law.entries(rows, tokens)
        return [] if law is None else [(rows, tokens, law)]

    def _by_place(self, seen: Tensor) -> list[_Part]:
        place, parts = torch.where(seen, seen.cumsum(1), 0), list[_Part]()
        for i in range(1, int(place.max()) + 1):
            rows, token = (place == i).nonzero(as_tuple=True)
            law = self.law.pick((place == i).int().argmax(1))
            parts.append((rows, token, law if len(rows) == len(seen) else law.rows(rows)))
        return parts


def with_slope(
    network: Denoiser, x_t: Tensor, t: Tensor, tokens: Sequence[int]
) -> tuple[Tensor, Slope]:
    """The answers of any denoiser for some tokens and their derivative, in float64.

    The derivative of a network that is no oracle is taken by automatic differentiation.

    Args:
        network: The denoiser.
        x_t: Noisy tokens, (n, N, d).
        t: Levels of the tokens, (n, N).
        tokens: Indices of S tokens, in rising order.

    Returns:
        The means (n, S, d), and their derivatives, matrices (S d, S d), in the values of the same
        tokens.

    Raises:
        RuntimeError: Torch cannot differentiate the network.
    """
    if isinstance(network, OracleDenoiser):
        return network.with_slope(x_t, t, tokens)
    chosen = list(tokens)
    with torch.enable_grad():
        moved = x_t[:, chosen].detach().requires_grad_()
        shown = x_t.detach().clone()
        shown[:, chosen] = moved
        x0 = network(shown, t)[:, chosen].double()
        columns = [
            torch.autograd.grad(total, moved, retain_graph=True)[0].flatten(1)
            for total in x0.flatten(1).sum(0)
        ]
    return x0.detach(), DenseSlope(torch.stack(columns, 1).double())


@dataclass(frozen=True)
class DenoiserSignature(Signature[Denoiser]):
    """(x_t, t) -> E[x_0 | what token i sees of x_t] on a stated noise path.

    Attributes:
        path: Noise path that the network was trained on.
        view: Tokens that token i sees: `all` tokens, those up to itself (`causal`), or itself and
            the tokens at level 0 (`own`).
    """

    noisy: ClassVar[bool] = True
    path: PathName
    view: View = "all"

    def oracle(self, target: Target) -> Denoiser:
        """The exact posterior mean of the clean tokens."""
        continuous = require_continuous(target, "a denoiser")
        path = PATHS[self.path]
        if self.view == "own":
            return OwnDenoiser(continuous, path)
        return OracleDenoiser(continuous, path, causal=self.view == "causal")

    def require(self, answer: object, shown: Tensor) -> None:
        """Raise InputError unless `answer` is a tensor of the tokens' shape."""
        require_like(answer, shown, "the mean of the clean tokens")


def require_continuous(target: Target, what: str) -> ContinuousTarget:
    """Return the target if its tokens are continuous.

    Args:
        target: Target of any kind.
        what: Name of the network that needs continuous tokens, with its article.

    Raises:
        UnfitError: The tokens are categorical.
    """
    if not isinstance(target, ContinuousTarget):
        raise UnfitError(f"{what} needs continuous tokens, got categorical ones.")
    return target
