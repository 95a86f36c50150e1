"""Rounded networks: the same network and procedure in fewer digits, to measure rounding errors.

The procedure keeps its tokens, levels and noise in the working precision. The network is shown them
exactly, computes in float64, and has its answers rounded to the working precision, as the best
network in that precision would. `float8` rounds answers to e4m3 and leaves the procedure in
float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from capcheck.core.arguments import shown, texts
from capcheck.core.errors import InputError, near
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import SequenceSpec
from capcheck.laws import Categorical, TokenLaw, log_table
from capcheck.networks.signatures import Wrapper
from capcheck.noise.paths import NoisePath

__all__ = ["PRECISIONS", "Precision", "Rounding", "chosen_precisions", "spec_in"]

Precision = Literal["float32", "bfloat16", "float16", "float8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def chosen_precisions(names: str | Sequence[str] | None) -> tuple[Precision, ...]:
    """Check names of precisions, and return them in the order of `PRECISIONS`.

    Raises:
        InputError: A name is unknown, or is float64.
    """
    names = () if names is None else names
    names = texts("precision", names, "names of precisions", "write ['bfloat16']")
    for name in names:
        if name == "float64":
            raise InputError(
                "precision must have fewer digits than the run, got float64; name some of "
                f"{', '.join(PRECISIONS)}."
            )
        if name not in PRECISIONS:
            raise InputError(f"precision {shown(name)} is unknown; {near(name, PRECISIONS)}")
    return tuple(name for name in PRECISIONS if name in names)


def spec_in(spec: SequenceSpec, precision: Precision) -> SequenceSpec:
    """The same spec in another precision, in which a procedure then makes its tokens."""
    dtype = torch.float32 if precision == "float8" else getattr(torch, precision)
    return replace(spec, mean=spec.mean.to(dtype), variance=spec.variance.to(dtype))


@dataclass(frozen=True)
class Rounding(Wrapper):
    """Rounds the answers of a network that computes in float64.

    Attributes:
        precision: Precision of the answers.
    """

    precision: Precision

    def call(self, network: Callable[..., Any], *shown: Tensor) -> Any:
        """The network's answer, rounded to the precision."""
        answer = network(*map(_to_float64, shown))
        rounded = _RoundedLaw if isinstance(answer, TokenLaw) else _rounded_to
        return rounded(answer, self.precision)


def _rounded_to(x: Tensor, precision: Precision) -> Tensor:
    """Round a tensor to a precision; integers and booleans are returned as they are."""
    if not x.is_floating_point():
        return x
    if precision != "float8":
        return x.to(getattr(torch, precision))
    most = torch.finfo(torch.float8_e4m3fn).max  # e4m3 has no infinity
    return x.clamp(-most, most).to(torch.float8_e4m3fn).to(torch.float32)


class _RoundedLaw(TokenLaw):
    """A token law whose logits, if there are any, and whose answers are rounded."""

    def __init__(self, law: TokenLaw, precision: Precision) -> None:
        if hasattr(law, "log_probabilities"):
            # The log-probability of an impossible value stays -inf: a mask is exact.
            logits = law.log_probabilities
            law = Categorical(
                torch.where(logits.isinf(), logits, _rounded_to(logits, precision).to(logits))
            )
        self._law, self._precision = law, precision

    @property
    def log_probabilities(self) -> Tensor:
        """The log-probabilities (nats) of a categorical law, (n, N, V)."""
        return log_table(self._law)

    def sample(self, rng: Randomness) -> Tensor:
        return _rounded_to(self._law.sample(rng), self._precision)

    def log_prob(self, x: Tensor) -> Tensor:
        return _rounded_to(self._law.log_prob(_to_float64(x)), self._precision)

    def mean(self) -> Tensor:
        return _rounded_to(self._law.mean(), self._precision)

    def variance(self) -> Tensor:
        return _rounded_to(self._law.variance(), self._precision)

    def cdf(self, x: Tensor) -> Tensor:
        return _rounded_to(self._law.cdf(_to_float64(x)), self._precision)

    def icdf(self, u: Tensor) -> Tensor:
        return _rounded_to(self._law.icdf(_to_float64(u)), self._precision)

    def denoise(self, x_t: Tensor, t: Tensor, path: NoisePath) -> Tensor:
        return _rounded_to(
            self._law.denoise(_to_float64(x_t), _to_float64(t), path), self._precision
        )

    def select(self, tokens: Sequence[int]) -> TokenLaw:
        return _RoundedLaw(self._law.select(tokens), self._precision)


def _to_float64(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x
