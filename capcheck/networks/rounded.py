"""Precision: the same oracle and procedure with fewer digits, so that arithmetic takes its blame.

The procedure keeps its tokens, levels and noise in the working precision; the network is shown them
exactly and its answers are rounded to that precision, as those of a perfect network in it would be.
`float8` rounds answers to e4m3 and leaves the procedure in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from capcheck.core.errors import InputError, near
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import SequenceSpec
from capcheck.laws import Categorical, TokenLaw, log_table
from capcheck.networks.signatures import Wrapper
from capcheck.noise.paths import NoisePath

Precision = Literal["float32", "bfloat16", "float16", "float8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def chosen_precisions(names: str | Sequence[str] | None) -> tuple[Precision, ...]:
    """Check names of precisions, in the order of `PRECISIONS`.

    Raises:
        InputError: An unknown one.
    """
    names = [names] if isinstance(names, str) else names or ()
    for name in names:
        if name == "float64":
            raise InputError(
                "precision float64 is what others are compared with; name fewer digits, of "
                f"{', '.join(PRECISIONS)}."
            )
        if name not in PRECISIONS:
            raise InputError(f"precision {name!r} is unknown; {near(str(name), PRECISIONS)}")
    return tuple(name for name in PRECISIONS if name in names)


def spec_in(spec: SequenceSpec, precision: Precision) -> SequenceSpec:
    """The spec whose tokens a procedure makes in that precision."""
    dtype = torch.float32 if precision == "float8" else getattr(torch, precision)
    return replace(spec, mean=spec.mean.to(dtype), variance=spec.variance.to(dtype))


@dataclass(frozen=True)
class Rounding(Wrapper):
    """Rounds the answers of a network that computes in float64.

    Attributes:
        precision: Of the answers.
    """

    precision: Precision

    def call(self, network: Callable[..., Any], *shown: Tensor) -> Any:
        """The network's answer in that precision."""
        answer = network(*map(_wide, shown))
        rounded = _Rounded if isinstance(answer, TokenLaw) else _fewer
        return rounded(answer, self.precision)


def _fewer(x: Tensor, precision: Precision) -> Tensor:
    """A tensor in a precision; integers and truth values as they are."""
    if not x.is_floating_point():
        return x
    if precision != "float8":
        return x.to(getattr(torch, precision))
    most = torch.finfo(torch.float8_e4m3fn).max  # e4m3 has no infinity
    return x.clamp(-most, most).to(torch.float8_e4m3fn).to(torch.float32)


class _Rounded(TokenLaw):
    """A law whose logits, if it has any, and whose numbers are rounded."""

    def __init__(self, law: TokenLaw, precision: Precision) -> None:
        if hasattr(law, "log_probabilities"):
            # Log-probabilities of 0 stay what they are: a mask is exact in every precision.
            logits = law.log_probabilities
            law = Categorical(
                torch.where(logits.isinf(), logits, _fewer(logits, precision).to(logits))
            )
        self._law, self._precision = law, precision

    @property
    def log_probabilities(self) -> Tensor:
        """(n, N, V), nats, of a categorical law."""
        return log_table(self._law)

    def sample(self, rng: Randomness) -> Tensor:
        return _fewer(self._law.sample(rng), self._precision)

    def log_prob(self, x: Tensor) -> Tensor:
        return _fewer(self._law.log_prob(_wide(x)), self._precision)

    def mean(self) -> Tensor:
        return _fewer(self._law.mean(), self._precision)

    def variance(self) -> Tensor:
        return _fewer(self._law.variance(), self._precision)

    def cdf(self, x: Tensor) -> Tensor:
        return _fewer(self._law.cdf(_wide(x)), self._precision)

    def icdf(self, u: Tensor) -> Tensor:
        return _fewer(self._law.icdf(_wide(u)), self._precision)

    def denoise(self, x_t: Tensor, t: Tensor, path: NoisePath) -> Tensor:
        return _fewer(self._law.denoise(_wide(x_t), _wide(t), path), self._precision)

    def select(self, tokens: Sequence[int]) -> TokenLaw:
        return _Rounded(self._law.select(tokens), self._precision)


def _wide(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x
