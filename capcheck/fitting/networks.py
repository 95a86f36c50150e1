"""Network: a module in its own precision, shown and answering in the precision of a procedure.

Modules are usually float32 and procedures float64: what the procedure shows is rounded on the way
in, and the answer widened on the way out. What goes in is a copy, which a module may change. A
bijection stays one, and so does an auto-encoder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from capcheck.core.randomness import Randomness
from capcheck.laws import Categorical, DeferredCategorical, MixtureOfGaussians, TokenLaw
from capcheck.networks.signatures import AutoEncoder, Bijection

__all__ = [
    "AutoEncoderNetwork",
    "BijectionNetwork",
    "Network",
    "ValueT",
    "as_network",
    "cast",
    "copied",
]

ValueT = TypeVar("ValueT")


def as_network(module: Callable[..., Any], dtype: torch.dtype) -> Network:
    """A network of the module's signature for a procedure of that precision.

    Args:
        module: Of any signature, in any precision; it is not copied. Any other callable answers in
            the precision that it is asked in.
        dtype: Of the procedure's tokens.
    """
    if isinstance(module, AutoEncoder):
        return AutoEncoderNetwork(module, dtype)
    if isinstance(module, Bijection):
        return BijectionNetwork(module, dtype)
    return Network(module, dtype)


class Network:
    """A module between two casts.

    Args:
        module: The module, or another callable.
        dtype: Of what goes in and comes out.

    Attributes:
        dtype: Of what the module is shown.
    """

    def __init__(self, module: Callable[..., Any], dtype: torch.dtype) -> None:
        self.module: Any = module
        weights = module.parameters() if isinstance(module, nn.Module) else ()
        self.dtype = next((w.dtype for w in weights if w.is_floating_point()), dtype)
        self._dtype = dtype

    def __call__(self, *shown: Tensor) -> Any:
        """What the module answers."""
        return self._out(self.module(*(copied(x, self.dtype) for x in shown)))

    def _out(self, answer: ValueT) -> ValueT:
        return cast(answer, self._dtype) if isinstance(self.module, nn.Module) else answer


class BijectionNetwork(Network):
    """A bijection between two casts."""

    def log_prob(self, x: Tensor, *known: Tensor) -> Tensor:
        """Log-density (nats) of x (n, N, d): (n,)."""
        density: Tensor = self.module.log_prob(*(copied(a, self.dtype) for a in (x, *known)))
        return self._out(density)


class AutoEncoderNetwork(Network):
    """A decoder with its encoder between two casts."""

    def encode(self, x: Tensor, rng: Randomness, *known: Tensor) -> tuple[Tensor, Tensor]:
        """A latent for every sequence, (n, r), and log q(z | x), nats, (n,)."""
        shown = (copied(mask, self.dtype) for mask in known)
        z, log_q = self.module.encode(copied(x, self.dtype), rng, *shown)
        return self._out(z), self._out(log_q)


def copied(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy of a tensor, in that precision if it holds floating-point numbers."""
    return x.to(dtype if x.is_floating_point() else x.dtype, copy=True)


def cast(value: ValueT, dtype: torch.dtype) -> ValueT:
    """A tensor of floating-point numbers, or a token law made of them, in that precision.

    Anything else is returned as it is.
    """
    found: object = value
    if isinstance(value, Tensor):
        found = value.to(dtype) if value.is_floating_point() else value
    elif isinstance(value, TokenLaw):
        found = _cast_law(value, dtype)
    return found  # type: ignore[return-value]


def _cast_law(law: TokenLaw, dtype: torch.dtype) -> TokenLaw:
    if isinstance(law, (Categorical, DeferredCategorical)):
        return Categorical(law.log_probabilities.to(dtype))
    if isinstance(law, MixtureOfGaussians):
        w, m, v = (x.to(dtype) for x in (law.log_weights, law.means, law.variances))
        return MixtureOfGaussians(w, m, v)
    return law
