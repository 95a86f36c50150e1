"""Networks that are legal and wrong: a family's code must stand every one of them.

| name | network |
|---|---|
| `oracle` | the optimum of the family's training objective |
| `forgetful` | is wrong about every token that it is shown as known, and right elsewhere |
| `huge` | answers in numbers of size 1e170 |
| `float32` | computes and answers in single precision |
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

NetworkName = Literal["oracle", "forgetful", "huge", "float32"]
NETWORKS: tuple[NetworkName, ...] = get_args(NetworkName)
HUGE = 1e170  # the square of it is no floating-point number
WRONG = 100.0  # token units by which a forgetful network is off


def wrapper_of(name: NetworkName, signature: Signature[Any]) -> Wrapper:
    """What makes that network of an oracle.

    Args:
        name: One of `NETWORKS`.
        signature: Of the oracle.
    """
    if name == "forgetful":
        return _Forgetful(signature)
    return {"oracle": Wrapper, "huge": _Huge, "float32": _Single}[name]()


class _Forgetful(Wrapper):
    """Is wrong about known tokens, of signatures that are asked for the unknown ones only."""

    def __init__(self, signature: Signature[Any]) -> None:
        self._signature = signature

    def call(self, network: Callable[..., Any], *shown: Tensor) -> Any:
        """The network's answer, but for known tokens."""
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
    """Answers in numbers of size 1e170."""

    def call(self, network: Callable[..., Any], *shown: Tensor) -> Any:
        """The network's answer, times 1e170; of laws of numbers, moved by as much."""
        answer = network(*shown)
        if not isinstance(answer, TokenLaw):
            return answer * HUGE if answer.is_floating_point() else answer
        if hasattr(answer, "log_probabilities"):
            log_p = log_table(answer)
            return Categorical(torch.where(log_p.isinf(), log_p, HUGE * log_p))
        return Shifted(answer, torch.full_like(answer.mean(), HUGE))


class _Single(Wrapper):
    """Computes and answers in single precision."""

    def call(self, network: Callable[..., Any], *shown: Tensor) -> Any:
        """The network's answer to rounded tokens, rounded."""
        rounded = (cast(cast(x, torch.float32), x.dtype) for x in shown)
        return cast(network(*rounded), torch.float32)
