"""A network adapts a module to the precision of a procedure.

Modules are usually float32 and procedures float64: inputs are rounded to the module's precision,
and answers are converted back. The module receives copies, so that it may write into its inputs.
The methods of bijections and auto-encoders are adapted in the same way.
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
    """Adapt a module to the precision of a procedure.

    Args:
        module: Module of any signature and precision; it is not copied. Another callable is called
            in the procedure's precision, and its answers are not converted.
        dtype: Precision of the procedure's tokens.
    """
    if isinstance(module, AutoEncoder):
        return AutoEncoderNetwork(module, dtype)
    if isinstance(module, Bijection):
        return BijectionNetwork(module, dtype)
    return Network(module, dtype)


class Network:
    """A module whose inputs and answers are converted between two precisions.

    Args:
        module: Module, or another callable.
        dtype: Precision of the procedure.

    Attributes:
        module: The module.
        dtype: Precision of the module's inputs.
    """

    def __init__(self, module: Callable[..., Any], dtype: torch.dtype) -> None:
        self.module: Any = module
        weights = module.parameters() if isinstance(module, nn.Module) else ()
        self.dtype = next((w.dtype for w in weights if w.is_floating_point()), dtype)
        self._dtype = dtype

    def __call__(self, *shown: Tensor) -> Any:
        """The module's answer in the procedure's precision."""
        return self._out(self.module(*(copied(x, self.dtype) for x in shown)))

    def _out(self, answer: ValueT) -> ValueT:
        return cast(answer, self._dtype) if isinstance(self.module, nn.Module) else answer


class BijectionNetwork(Network):
    """A bijection whose inputs and answers are converted between two precisions."""

    def log_prob(self, x: Tensor, *known: Tensor) -> Tensor:
        """Log-density (nats) of x (n, N, d): (n,)."""
        density: Tensor = self.module.log_prob(*(copied(a, self.dtype) for a in (x, *known)))
        return self._out(density)


class AutoEncoderNetwork(Network):
    """A decoder and its encoder, whose inputs and answers are converted between two precisions."""

    def encode(self, x: Tensor, rng: Randomness, *known: Tensor) -> tuple[Tensor, Tensor]:
        """A latent for each sequence, (n, r), and log q(z | x) (nats), (n,)."""
        shown = (copied(mask, self.dtype) for mask in known)
        z, log_q = self.module.encode(copied(x, self.dtype), rng, *shown)
        return self._out(z), self._out(log_q)


def copied(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy of a tensor, converted to `dtype` if it holds floating-point numbers."""
    return x.to(dtype if x.is_floating_point() else x.dtype, copy=True)


def cast(value: ValueT, dtype: torch.dtype) -> ValueT:
    """Convert a floating-point tensor, or a token law made of such tensors, to `dtype`.

    Any other value is returned as it is.
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
