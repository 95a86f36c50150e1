"""Test networks that obey their signature, most with wrong answers that a family must cope with.

| name | network |
|---|---|
| `oracle` | the optimum of the family's training objective |
| `forgetful` | the oracle with wrong answers for tokens that it is shown as known |
| `huge` | the oracle with answers of size 1e170 |
| `float32` | the oracle with arguments and answers rounded to single precision |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from capcheck.laws import Categorical, TokenLaw, log_table
from capcheck.laws.shifted import Shifted
from capcheck.networks.rounded import Rounding
from capcheck.networks.signatures import (
    BijectionSignature,
    ConsistencySignature,
    DecoderSignature,
    DenoiserSignature,
    FlowMapSignature,
    GeneratorSignature,
    LowRankPredictorSignature,
    Signature,
    TokenPredictorSignature,
    Wrapper,
)

__all__ = ["HUGE", "NETWORKS", "WRONG", "NetworkName", "wrapper_of"]

NetworkName = Literal["oracle", "forgetful", "huge", "float32"]
NETWORKS: tuple[NetworkName, ...] = get_args(NetworkName)
HUGE = {torch.float64: 1e170, torch.float32: 1e25}  # factor or shift whose square overflows
WRONG = 100.0  # error of a forgetful network about known tokens, in token units


def wrapper_of(name: NetworkName, signature: Signature[Any]) -> Wrapper:
    """The wrapper that turns an oracle into a test network.

    Args:
        name: Name of the test network.
        signature: Signature of the oracle.
    """
    if name == "forgetful":
        return _Forgetful(signature)
    wrappers = {"oracle": Wrapper(), "huge": _Huge(), "float32": Rounding("float32")}
    return wrappers[name]


class _Forgetful(Wrapper):
    """Falsifies answers for known tokens, for signatures whose callers need only the others."""

    def __init__(self, signature: Signature[Any]) -> None:
        self._signature = signature

    def call(self, network: Callable[..., Any], *shown: Tensor) -> Any:
        """The network's answer, falsified for known tokens."""
        answer = network(*shown)
        known = self._known(shown)
        if known is None:
            return answer
        if isinstance(answer, TokenLaw):
            return _wrong_law(answer, known)
        if answer.is_floating_point():
            return answer + WRONG * known[..., None].to(answer)
        return torch.where(known, 0, answer)

    def _known(self, shown: Sequence[Tensor]) -> Tensor | None:
        """The tokens whose answers mean nothing, (n, N) bool, or None if there are none."""
        if isinstance(self._signature, (TokenPredictorSignature, LowRankPredictorSignature)):
            return shown[1]
        if isinstance(self._signature, (DenoiserSignature, FlowMapSignature, ConsistencySignature)):
            return shown[1] == 0
        conditioned = (GeneratorSignature, BijectionSignature, DecoderSignature)
        if isinstance(self._signature, conditioned) and len(shown) > 1:
            return shown[2]
        return None


def _wrong_law(law: TokenLaw, known: Tensor) -> TokenLaw:
    mean = law.mean()
    if hasattr(law, "log_probabilities"):
        log_p = log_table(law)
        return Categorical(torch.where(known[..., None], log_p.roll(1, -1), log_p))
    return Shifted(law, WRONG * known[..., None].to(mean).expand(mean.shape))


class _Huge(Wrapper):
    """Scales answers to numbers of size 1e170, or 1e25 in float32."""

    def call(self, network: Callable[..., Any], *shown: Tensor) -> Any:
        """The network's answer times `HUGE`; laws of continuous tokens are shifted by it."""
        answer = network(*shown)
        if not isinstance(answer, TokenLaw):
            return answer * HUGE[answer.dtype] if answer.is_floating_point() else answer
        if hasattr(answer, "log_probabilities"):
            log_p = log_table(answer)
            return Categorical(torch.where(log_p.isinf(), log_p, HUGE[log_p.dtype] * log_p))
        mean = answer.mean()
        return Shifted(answer, torch.full_like(mean, HUGE[mean.dtype]))
