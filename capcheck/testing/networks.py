"""Test networks that obey their signature, most with wrong answers that a family must cope with.

| name | network |
|---|---|
| `oracle` | the optimum of the family's training objective |
| `forgetful` | the oracle with wrong answers for tokens that it is shown as known |
| `huge` | the oracle with answers of size 1e170 |
| `float32` | the oracle with arguments and answers rounded to single precision |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from capcheck.fitting.networks import cast
from capcheck.laws import Categorical, TokenLaw, log_table
from capcheck.laws.shifted import Shifted
from capcheck.networks.signatures import (
    DenoiserSignature,
    Signature,
    TokenPredictorSignature,
    Wrapper,
)

__all__ = ["HUGE", "NETWORKS", "WRONG", "NetworkName", "wrapper_of"]

NetworkName = Literal["oracle", "forgetful", "huge", "float32"]
NETWORKS: tuple[NetworkName, ...] = get_args(NetworkName)
HUGE = 1e170  # factor or shift of answers, whose square overflows float64
WRONG = 100.0  # error of a forgetful network about known tokens, in token units


def wrapper_of(name: NetworkName, signature: Signature[Any]) -> Wrapper:
    """The wrapper that turns an oracle into a test network.

    Args:
        name: Name of the test network.
        signature: Signature of the oracle.
    """
    if name == "forgetful":
        return _Forgetful(signature)
    return {"oracle": Wrapper, "huge": _Huge, "float32": _Single}[name]()


class _Forgetful(Wrapper):
    """Falsifies answers for known tokens, for signatures whose callers need only the others."""

    def __init__(self, signature: Signature[Any]) -> None:
        self._signature = signature

    def call(self, network: Callable[..., Any], *shown: Tensor) -> Any:
        """The network's answer, falsified for known tokens."""
        answer = network(*shown)
        if isinstance(self._signature, TokenPredictorSignature):
            return _wrong_law(answer, shown[1])
        if isinstance(self._signature, DenoiserSignature):
            return answer + WRONG * (shown[1] == 0)[..., None].to(answer)
        return answer


def _wrong_law(law: TokenLaw, known: Tensor) -> TokenLaw:
    mean = law.mean()
    if hasattr(law, "log_probabilities"):
        log_p = log_table(law)
        return Categorical(torch.where(known[..., None], log_p.roll(1, -1), log_p))
    return Shifted(law, WRONG * known[..., None].to(mean).expand(mean.shape))


class _Huge(Wrapper):
    """Scales answers to numbers of size 1e170."""

    def call(self, network: Callable[..., Any], *shown: Tensor) -> Any:
        """The network's answer times 1e170; laws of continuous tokens are shifted by 1e170."""
        answer = network(*shown)
        if not isinstance(answer, TokenLaw):
            return answer * HUGE if answer.is_floating_point() else answer
        if hasattr(answer, "log_probabilities"):
            log_p = log_table(answer)
            return Categorical(torch.where(log_p.isinf(), log_p, HUGE * log_p))
        return Shifted(answer, torch.full_like(answer.mean(), HUGE))


class _Single(Wrapper):
    """Rounds arguments and answers to single precision."""

    def call(self, network: Callable[..., Any], *shown: Tensor) -> Any:
        """The network's answer to rounded arguments, rounded."""
        rounded = (cast(cast(x, torch.float32), x.dtype) for x in shown)
        return cast(network(*rounded), torch.float32)
