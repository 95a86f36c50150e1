"""The conditional law p(x_rest | x_given) of some tokens given the others, row by row.

Row r of a batch is conditioned on row r of the given values, so that each row may have a prompt of
its own. Every method calls the target's with the given tokens added at level 0.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import SequenceSpec
from capcheck.laws import SideBySide, TokenLaw
from capcheck.noise.paths import PATHS, NoisePath
from capcheck.targets.products import Products
from capcheck.targets.target import CategoricalTarget, ContinuousTarget, Target

__all__ = ["conditional", "log_prob_of", "rest_of"]


def conditional(target: Target, given: Sequence[int], values: Tensor) -> Target:
    """The law of the tokens that are not given.

    Args:
        target: The law of all tokens.
        given: Indices of the g given tokens, in rising order; at least one token is not given.
        values: Values of the given tokens in each row, (n, g, d) or (n, g).
    """
    kind = _Continuous if isinstance(target, ContinuousTarget) else _Categorical
    return kind(target, given, values)


def rest_of(spec: SequenceSpec, given: Sequence[int]) -> SequenceSpec:
    """The spec of the tokens that are not given; `places` are their indices in the whole."""
    rest = [i for i in range(spec.tokens) if i not in given]
    return replace(
        spec,
        tokens=len(rest),
        mean=spec.mean[rest],
        variance=spec.variance[rest],
        grid=None,
        scored=None,
        places=tuple(spec.layout[i] for i in rest),
    )


def log_prob_of(target: Target, given: Sequence[int], values: Tensor) -> Tensor:
    """Log-density of the given tokens alone, by the chain rule, (n,), in nats."""
    spec = target.spec
    x = values.new_zeros(len(values), spec.tokens, *spec.token_shape)
    x[:, list(given)] = values
    levels = torch.ones(x.shape[:2], dtype=target.dtype, device=x.device)
    total = levels.new_zeros(len(x))
    for i in given:
        total = total + target.marginals(x, levels).select([i]).log_prob(x[:, [i]])[:, 0]
        levels = levels.clone()
        levels[:, i] = 0
    return total


class _Conditional(Target):
    """The part of a conditional law that does not depend on the kind of tokens."""

    def __init__(self, target: Any, given: Sequence[int], values: Tensor) -> None:
        self._whole = target
        self._given = list(given)
        self._rest = [i for i in range(target.spec.tokens) if i not in self._given]
        self._values = values
        self._spec = rest_of(target.spec, given)
        self.provenance = target.provenance

    @property
    def rows(self) -> int | None:
        """Number of rows of given values, each of which makes a law of its own."""
        return len(self._values)

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the target of all tokens."""
        dtype: torch.dtype = self._whole.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        """Device of the target of all tokens."""
        device: torch.device = self._whole.device
        return device

    @property
    def fingerprint(self) -> str:
        """Not available, as the law is made for a single batch.

        Raises:
            InputError: Always.
        """
        raise InputError("a conditional law has no fingerprint; take that of the whole.")

    def to(self, *, device: torch.device | str, dtype: torch.dtype) -> Self:
        """The same law on a device and in a precision."""
        values = self._values.to(device)
        if values.is_floating_point():
            values = values.to(dtype)
        return type(self)(self._whole.to(device=device, dtype=dtype), self._given, values)

    def sample(self, n: int, rng: Randomness) -> Tensor:
        """Draw one sequence for each of the n rows of values, token by token."""
        x = self._values.new_zeros(n, self._spec.tokens, *self._spec.token_shape)
        levels = torch.ones(x.shape[:2], dtype=self.dtype, device=x.device)
        for i in range(self._spec.tokens):
            x[:, i] = self.marginals(x, levels).select([i]).sample(rng)[:, 0]
            levels[:, i] = 0
        return x

    def log_prob(self, x: Tensor) -> Tensor:
        """Conditional log-density log p(x_rest | x_given), (n,), in nats."""
        joint: Tensor = self._whole.log_prob(self._joined(x))
        return joint - self._log_evidence

    def marginals(
        self,
        x: Tensor,
        levels: Tensor,
        path: NoisePath = PATHS["linear"],
        causal: bool = False,
    ) -> TokenLaw:
        """The laws of the rest given its observed tokens and the given tokens; see `Target`."""
        if causal and max(self._given) > min(self._rest):
            return SideBySide([self._given_before(x, levels, path, i) for i in range(x.shape[1])])
        law: TokenLaw = self._whole.marginals(
            self._joined(x), self._levels(levels), path, causal=causal
        )
        return law.select(self._rest)

    def _given_before(self, x: Tensor, levels: Tensor, path: NoisePath, i: int) -> TokenLaw:
        """The law of token i of the rest given the rest before it and all given tokens."""
        seen = levels.clone()
        seen[:, i:] = 1
        return self.marginals(x, seen, path).select([i])

    def kernel_mean(self, x: Tensor, bandwidth: float) -> Tensor:
        """Not available, as divergences are taken of the joint law.

        Raises:
            InputError: Always.
        """
        raise InputError("a conditional law has no kernel mean; compare joint laws.")

    def kernel_self_mean(self, bandwidth: float) -> float | None:
        """None, as divergences are taken of the joint law."""
        return None

    def products(self) -> Products | None:
        """The target's components, weighted by their posterior given the given tokens."""
        whole: Products | None = self._whole.products()
        if whole is None:
            return None
        evidence = whole.log_likelihood(self._values, self._given)
        rest = self._rest
        return Products(
            log_weights=(whole.log_weights + evidence).log_softmax(-1),
            law=lambda component: whole.law(component).select(rest),
            log_likelihood=lambda x, tokens: whole.log_likelihood(x, [rest[i] for i in tokens]),
        )

    @functools.cached_property
    def _log_evidence(self) -> Tensor:
        return log_prob_of(self._whole, self._given, self._values)

    def _joined(self, x: Tensor) -> Tensor:
        whole = x.new_zeros(len(x), self._whole.spec.tokens, *x.shape[2:])
        whole[:, self._rest] = x
        whole[:, self._given] = self._values.to(x)
        return whole

    def _levels(self, levels: Tensor) -> Tensor:
        whole = levels.new_zeros(len(levels), self._whole.spec.tokens)
        whole[:, self._rest] = levels
        return whole


class _Categorical(_Conditional, CategoricalTarget):
    """A conditional law of integers."""


class _Continuous(_Conditional, ContinuousTarget):
    """A conditional law of vectors."""

    def denoise(
        self, x: Tensor, levels: Tensor, path: NoisePath, *, causal: bool = False
    ) -> Tensor:
        """The posterior mean E[x_0 | x, given tokens], (n, N, d); see `ContinuousTarget`.

        If causal, token i is still conditioned on all given tokens.
        """
        if not causal:
            return self._denoised(x, levels, path)
        answer = torch.empty_like(x)
        for i in range(x.shape[1]):
            seen = levels.clone()
            seen[:, i + 1 :] = 1
            answer[:, i] = self._denoised(x, seen, path)[:, i]
        return answer

    def _denoised(self, x: Tensor, levels: Tensor, path: NoisePath) -> Tensor:
        whole: Tensor = self._whole.denoise(self._joined(x), self._levels(levels), path)
        return whole[:, self._rest]

    def with_noise(self, levels: Tensor, path: NoisePath = PATHS["linear"]) -> ContinuousTarget:
        """The law of the noisy rest given the clean values."""
        noisy = self._whole.with_noise(self._levels(levels[None])[0], path)
        return _Continuous(noisy, self._given, self._values)

    def gaussian(self) -> tuple[Tensor, Tensor] | None:
        """Conditional mean (n, D) and covariance (D, D) if the target is a Gaussian, else None.

        The mean is m_r + C_rg C_gg^-1 (x_g - m_g), and the covariance, C_rr - C_rg C_gg^-1 C_gr, is
        the same in every row; r are the numbers of the rest and g those of the given tokens.
        """
        whole: tuple[Tensor, Tensor] | None = self._whole.gaussian()
        if whole is None:
            return None
        m, C = (of.double() for of in whole)
        numbers = torch.arange(len(m), device=m.device).reshape(-1, self._spec.dim)
        r, g = numbers[self._rest].flatten(), numbers[self._given].flatten()
        gain = torch.linalg.solve(C[g][:, g], C[g][:, r]).T  # C_rg C_gg^-1
        mean = m[r] + (self._values.flatten(1).to(m) - m[g]) @ gain.T
        covariance = C[r][:, r] - gain @ C[g][:, r]
        return mean.to(self.dtype), (0.5 * (covariance + covariance.T)).to(self.dtype)

    def relative_to(self, origin: Tensor, unit: float) -> ContinuousTarget:
        """Not available, as the given values would have to move as well.

        Raises:
            InputError: Always.
        """
        raise InputError("a conditional law cannot be moved; move the whole.")

    def transformed(self, matrix: Tensor) -> ContinuousTarget:
        """Not available, as the target's transformation mixes given and other tokens.

        Raises:
            InputError: Always.
        """
        raise InputError("a conditional law cannot be transformed; transform the whole.")

    def score(self, x: Tensor) -> Tensor:
        """The rest's part of the target's score, to which it is equal: (n, N, d)."""
        whole: Tensor = self._whole.score(self._joined(x))
        return whole[:, self._rest]
