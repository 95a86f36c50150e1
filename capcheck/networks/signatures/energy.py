"""Energies: map a sequence x to a number of nats whose differences are those of -log p(x).

The oracle is E(x) = -log p(x). Its gradient is the negative exact score for continuous tokens; an
energy of token ids has no gradient. The energy is infinite where p(x) = 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.networks.signatures.signature import Signature
from capcheck.targets.target import CategoricalTarget, ContinuousTarget, Target

__all__ = ["Energy", "EnergySignature"]


class Energy(Protocol):
    """Sequences -> their energies."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """Return the energies of sequences.

        Args:
            x: Sequences, (n, N, d), or (n, N) integers.

        Returns:
            Energies in nats up to a constant, (n,); differentiable in x if tokens are continuous.
        """


@dataclass(frozen=True, eq=False)
class _OracleEnergy:
    """The energy -log p(x) of a target."""

    target: Target

    def __call__(self, x: Tensor) -> Tensor:
        if not isinstance(self.target, ContinuousTarget):
            return -self.target.log_prob(x)
        value: Tensor = _NegativeLogDensity.apply(x, self.target)  # type: ignore[no-untyped-call]
        return value

    def of_values(self, x: Tensor, token: int) -> Tensor | None:
        """The energies of x with each value of one token, (n, V), if the target tells them."""
        if not isinstance(self.target, CategoricalTarget):
            return None
        found = self.target.log_prob_of_values(x, token)
        return None if found is None else -found


@dataclass(frozen=True)
class EnergySignature(Signature[Energy]):
    """x -> -log p(x)."""

    def oracle(self, target: Target) -> Energy:
        """The exact energy, with its exact gradient if tokens are continuous."""
        return _OracleEnergy(target)

    def require(self, answer: object, shown: Tensor) -> None:
        """Raise InputError unless `answer` is one number for each sequence."""
        shape = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        if shape != (len(shown),):
            raise InputError(
                f"network must return a tensor of shape ({len(shown)},), one energy for each "
                f"sequence, got {shape}; sum over the tokens."
            )


class _NegativeLogDensity(torch.autograd.Function):
    """The energy -log p(x), whose gradient is -score(x) instead of one by differentiation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, target: ContinuousTarget) -> Tensor:
        """The energies (n,) of sequences (n, N, d)."""
        if not ctx.needs_input_grad[0]:
            return -target.log_prob(x)
        log_prob, score = target.log_prob_and_score(x)
        ctx.save_for_backward(score)
        return -log_prob

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        """The gradient of the energies' sum, weighted by `slopes` (n,)."""
        (score,) = ctx.saved_tensors
        return -score * slopes[0][:, None, None], None
