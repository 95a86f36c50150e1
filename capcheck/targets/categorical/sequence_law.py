"""Enumerated laws of categorical sequences: the V^N probabilities of all sequences.

The index of a sequence is its value as a number to the base V, sum_i x_i V^(N-i) for tokens
i = 1..N, so that the first token is most significant.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from capcheck.core.errors import CapcheckError, InputError
from capcheck.core.sequences import SequenceSpec
from capcheck.core.unavailable import Unavailable
from capcheck.targets.target import Target

__all__ = [
    "BLOCK",
    "LARGEST",
    "ROUNDINGS",
    "SUMS",
    "SequenceLaw",
    "batches",
    "numbers",
    "refusal",
    "rounding_of",
    "sequences",
    "summed_to_one",
    "target_law",
]

LARGEST = 1 << 16  # most sequences V^N of an enumerated law
BLOCK = 1 << 20  # most numbers (sequences x N x V) that are evaluated at once
SUMS = 1e-6  # largest error allowed in the sum of probabilities
ROUNDINGS = 64  # machine epsilons per token allowed instead, if that is more (float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class SequenceLaw:
    """An enumerated law of sequences of N integers in 0..V-1.

    Attributes:
        log_probabilities: Log-probability of every sequence, (V^N,) float64, nats, in the order of
            the module's docstring; -inf for probability 0.
        vocabulary: Vocabulary size V.
        tokens: Number N of tokens.
        method: Origin of the probabilities, in a few words.
    """

    log_probabilities: Tensor
    vocabulary: int
    tokens: int
    method: str

    def __post_init__(self) -> None:
        found, V, N = tuple(self.log_probabilities.shape), self.vocabulary, self.tokens
        if found != (V**N,):
            raise InputError(
                f"log_probabilities must have shape ({V**N},) for {N} tokens of {V} values, "
                f"got {found}."
            )

    @property
    def probabilities(self) -> Tensor:
        """Probability of every sequence, (V^N,) float64."""
        return self.log_probabilities.exp()

    def onto(self, tokens: Sequence[int]) -> SequenceLaw:
        """The joint law of some tokens, with all others summed out.

        Raises:
            InputError: The tokens do not exist, are none, or are not in rising order.
        """
        kept = list(tokens)
        if not kept or kept != sorted(set(kept) & set(range(self.tokens))):
            raise InputError(
                f"tokens must list some of 0 to {self.tokens - 1} in rising order, got {kept}."
            )
        V, log_p = self.vocabulary, self.log_probabilities
        for i in reversed(range(self.tokens)):  # the axes before i keep their places
            if i not in kept:
                log_p = log_p.reshape(V**i, V, -1).logsumexp(1).flatten()
        return SequenceLaw(
            log_probabilities=log_p, vocabulary=V, tokens=len(kept), method=self.method
        )


def sequences(vocabulary: int, tokens: int, *, batch: int = 4096) -> Iterator[Tensor]:
    """All V^N sequences in the order of their index, in batches (at most `batch`, N) of int64.

    Example:
        >>> [x.tolist() for x in sequences(2, 2, batch=3)]
        [[[0, 0], [0, 1], [1, 0]], [[1, 1]]]
    """
    place = _places(vocabulary, tokens)
    for start in range(0, vocabulary**tokens, batch):
        number = torch.arange(start, min(start + batch, vocabulary**tokens))
        yield number[:, None] // place % vocabulary


def numbers(x: Tensor, vocabulary: int) -> Tensor:
    """The index of each sequence x (n, N) of integers in 0..V-1, (n,)."""
    return (x * _places(vocabulary, x.shape[1]).to(x.device)).sum(1)


def target_law(target: Target) -> SequenceLaw | Unavailable:
    """The enumerated law of all tokens of a target, or the reason why it cannot be enumerated.

    Raises:
        CapcheckError: The target's probabilities do not sum to 1.
    """
    spec = target.spec
    if (reason := refusal(spec)) is not None:
        return Unavailable(reason=reason)
    parts = [target.log_prob(x.to(target.device)).double().cpu() for x in batches(spec)]
    return summed_to_one(torch.cat(parts), spec, "the target's probability of every sequence")


def summed_to_one(log_p: Tensor, spec: SequenceSpec, method: str) -> SequenceLaw:
    """The law with log-probabilities (V^N,).

    Raises:
        CapcheckError: The probabilities do not sum to 1.
    """
    total = float(log_p.exp().sum())
    if not abs(total - 1) <= rounding_of(spec):
        raise CapcheckError(f"{method} must sum to 1, got {total:.9g}: it is no density.")
    return SequenceLaw(
        log_probabilities=log_p, vocabulary=spec.dim, tokens=spec.tokens, method=method
    )


def rounding_of(spec: SequenceSpec) -> float:
    """Error allowed in a sum of probabilities, or in log-probabilities (nats) of a whole run."""
    return max(SUMS, ROUNDINGS * torch.finfo(spec.mean.dtype).eps * spec.tokens)


def refusal(spec: SequenceSpec) -> str | None:
    """The reason why the sequences of a spec cannot be enumerated, or None if they can."""
    if spec.kind != "categorical":
        return "continuous tokens cannot be enumerated"
    # V^N itself may have thousands of digits.
    if spec.dim > 1 and spec.tokens * math.log(spec.dim) > math.log(LARGEST) + 1e-9:
        return f"{spec.dim}^{spec.tokens} sequences are more than the {LARGEST} enumerated"
    return None


def batches(spec: SequenceSpec) -> Iterator[Tensor]:
    """All sequences of a spec, in batches (n, N) of integers."""
    batch = max(1, BLOCK // (spec.tokens * spec.dim))
    return sequences(spec.dim, spec.tokens, batch=batch)


def _places(vocabulary: int, tokens: int) -> Tensor:
    """Weights V^(N-1), .., V, 1 of the tokens in the index of a sequence, (N,)."""
    return torch.tensor([vocabulary**i for i in reversed(range(tokens))])
