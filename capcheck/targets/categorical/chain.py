"""Chains of states: categorical laws whose tokens depend on each other through one state.

All conditionals follow from two recursions over the states s_i of the tokens,

    F_1 = start,  F_{i+1} = (F_i E_i) T_i        (evidence of the tokens before i+1 about s_{i+1})
    B_N = 1,      B_i = T_i (E_{i+1} B_{i+1})    (evidence of the tokens after i about s_i)

with transitions T_i and the evidence E_i(s) of token i, which is 1 if the token is unseen and its
emission probability otherwise. If every transition is possible, the recursions run on
probabilities, normalised often enough that nothing underflows. Otherwise they run on logarithms,
since later evidence can make a state of vanishing mass matter again.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from capcheck.laws import Categorical, DeferredCategorical
from capcheck.noise.paths import PATHS, NoisePath
from capcheck.targets.target import CategoricalTarget

__all__ = [
    "LARGEST_PAIRS",
    "LOG_COST",
    "LONGEST",
    "SUMMED",
    "TILE",
    "Arithmetic",
    "Chain",
    "Logarithmic",
    "Scaled",
    "SparseSteps",
    "arithmetic_for",
    "last_known",
    "scaled_evidence",
    "sparse_steps",
]

TILE = 1 << 23  # most numbers of the messages of all tokens held at once
LONGEST = 8  # most steps between normalisations; 16 gives NaN on peaked models
SUMMED = 5e10  # most multiply-adds for the sum over pairs of sequences: a few seconds
LARGEST_PAIRS = 1 << 22  # most pairs of states held for that sum
LOG_COST = 100.0  # time of a logarithmic multiply-add, in ordinary multiply-adds


class Arithmetic(ABC):
    """The storage of messages, and their multiplication and summation."""

    @abstractmethod
    def of(self, probabilities: Tensor) -> Tensor:
        """Probabilities in stored form."""

    @abstractmethod
    def times(self, a: Tensor, b: Tensor) -> Tensor:
        """Elementwise product."""

    @abstractmethod
    def product(self, messages: Tensor, matrix: Tensor) -> Tensor:
        """Matrix product of messages (..., n, S) and a matrix (..., S, S') of the stored form."""

    @abstractmethod
    def normalised(self, messages: Tensor, step: int) -> tuple[Tensor, Tensor | None]:
        """Normalised messages (..., n, S) and log (..., n) of their divisor, None if unchanged."""

    @abstractmethod
    def log_sum(self, messages: Tensor) -> Tensor:
        """Logarithm of the sum over the last dimension."""


class Scaled(Arithmetic):
    """Probabilities, normalised every `window` steps."""

    def __init__(self, window: int) -> None:
        self._window = window

    def of(self, probabilities: Tensor) -> Tensor:
        """The probabilities themselves."""
        return probabilities

    def times(self, a: Tensor, b: Tensor) -> Tensor:
        """Product."""
        return a * b

    def product(self, messages: Tensor, matrix: Tensor) -> Tensor:
        """Matrix product."""
        return messages @ matrix

    def is_due(self, step: int) -> bool:
        """Whether a step ends with a normalisation."""
        return step % self._window == 0

    def normalised(self, messages: Tensor, step: int) -> tuple[Tensor, Tensor | None]:
        """Messages divided by their sums if a normalisation is due, else unchanged."""
        if not self.is_due(step):
            return messages, None
        total = messages.sum(-1, keepdim=True)
        total = torch.where(total > 0, total, 1)  # an impossible row stays 0
        return messages / total, total.log()[..., 0]

    def log_sum(self, messages: Tensor) -> Tensor:
        """Logarithm of the sum."""
        return messages.sum(-1).log()


class Logarithmic(Arithmetic):
    """Logarithms of probabilities."""

    def of(self, probabilities: Tensor) -> Tensor:
        """Logarithms."""
        return probabilities.log()

    def times(self, a: Tensor, b: Tensor) -> Tensor:
        """Sum."""
        return a + b

    def product(self, messages: Tensor, matrix: Tensor) -> Tensor:
        """Logarithm of the matrix product of the exponentials."""
        return torch.logsumexp(messages[..., :, :, None] + matrix[..., None, :, :], -2)

    def normalised(self, messages: Tensor, step: int) -> tuple[Tensor, Tensor | None]:
        """The messages unchanged, as logarithms do not underflow."""
        return messages, None

    def log_sum(self, messages: Tensor) -> Tensor:
        """Logarithm of the sum of exponentials."""
        return messages.logsumexp(-1)


@dataclass(frozen=True)
class SparseSteps:
    """Log-domain products with sparse transition matrices T: each s' is reached from few s.

    Attributes:
        places: States s from which each s' can be reached in some step, (K, S').
        logs: Log T(s, s') of these states, (K, S'), or (N - 1, K, S') with one table per step; -inf
            if impossible.
    """

    places: Tensor
    logs: Tensor

    @property
    def degree(self) -> int:
        """Largest number K of states from which one state can be reached."""
        return len(self.places)

    def product(self, messages: Tensor, i: int) -> Tensor:
        """Messages (n, S) after step i, (n, S')."""
        logs = self.logs if self.logs.dim() == 2 else self.logs[i]
        terms = (messages[:, s] + log for s, log in zip(self.places, logs, strict=True))
        total: Tensor = reduce(torch.logaddexp, terms)
        return total


def sparse_steps(tables: Tensor) -> tuple[SparseSteps, SparseSteps] | None:
    """Sparse steps forward and back for probabilities (S, S) or (N - 1, S, S).

    Returns None unless at most half of the transitions into and out of every state are possible.
    """
    possible = (tables > 0).reshape(-1, *tables.shape[-2:]).any(0)
    degree = int(torch.maximum(possible.sum(0).max(), possible.sum(1).max()))
    if 2 * degree > len(possible):
        return None
    return _gathered(tables, possible), _gathered(tables.mT, possible.mT)


def _gathered(tables: Tensor, possible: Tensor) -> SparseSteps:
    degree = max(int(possible.sum(0).max()), 1)
    places = possible.to(torch.uint8).topk(degree, dim=0).indices  # padded with impossible states
    return SparseSteps(places, tables.gather(-2, places.expand(*tables.shape[:-2], -1, -1)).log())


def arithmetic_for(least_transition: float, memory: int, dtype: torch.dtype) -> Arithmetic:
    """The fastest arithmetic that is safe.

    Every transition has at least the probability tau, and evidence is 1 for some state, so the sum
    of a message shrinks by at most a factor of tau per step. The weight of a state that underflows
    between two normalisations can grow by at most 1 / tau for each step of the chain's memory.

    Args:
        least_transition: Least transition probability tau; 0 if a transition is impossible.
        memory: Steps after which any state can follow any other.
        dtype: Precision of the messages.
    """
    if least_transition > 0:
        facts = torch.finfo(dtype)
        digits = (math.log10(facts.eps) - math.log10(facts.tiny)) / 2  # F and B are multiplied
        per_step = max(-math.log10(least_transition), 1e-9)
        window = min(LONGEST, int(digits / per_step) - memory)
        if window >= 1:
            return Scaled(window)
    return Logarithmic()


def scaled_evidence(evidence: Tensor) -> tuple[Tensor, Tensor]:
    """Evidence (.., S) divided by that of the best state, and these divisors (..)."""
    unit = evidence.amax(-1)
    unit = torch.where(unit > 0, unit, 1)  # an impossible token stays impossible
    return evidence / unit[..., None], unit


def last_known(known: Tensor) -> int:
    """Index of the last token that is known in any row, or -1; B_i is 1 from there on."""
    places = known.any(0).nonzero()
    return int(places[-1]) if len(places) else -1


class Chain(CategoricalTarget):
    """A law of integers that is a chain of states; subclasses define the states.

    Messages are (n, S_i), where the number of states S_i may differ between the first tokens. The
    abstract methods take and return the stored form of `_arithmetic`, unless their docstrings say
    probabilities.
    """

    _arithmetic: Arithmetic
    _widest: int  # multiply-adds per row and token of a step of the recursion
    _slowness: float = 1.0  # time of a multiply-add relative to one in a large matrix product

    @abstractmethod
    def _start(self) -> Tensor:
        """Law of the first state, (S_1,)."""

    @abstractmethod
    def _advance(self, message: Tensor, i: int) -> Tensor:
        """From the states of token i to those of token i + 1: (n, S_{i+1})."""

    @abstractmethod
    def _retreat(self, message: Tensor, i: int) -> Tensor:
        """From the states of token i + 1 to those of token i: (n, S_i)."""

    @abstractmethod
    def _emitted(self, x: Tensor, i: int) -> Tensor:
        """Probability of the values x (n,) of token i given its state: (n, W).

        The width W is S_i, or a divisor of S_i if only the state's last digit to base W matters.
        """

    @abstractmethod
    def _read(self, joint: Tensor, i: int) -> Tensor:
        """Law of token i from probabilities of its states, (n, S_i): probabilities (n, V)."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Joint log-probability of x (n, N), in nats: (n,); -inf off the support."""
        self._require(x)
        return self._log_sum(x, floor=0.0)

    def marginals(
        self,
        x: Tensor,
        levels: Tensor,
        path: NoisePath = PATHS["linear"],
        causal: bool = False,
    ) -> DeferredCategorical:
        """The law of every token given the known ones; see `Target`."""
        self._require(x, levels)
        known = levels == 0

        def make(tokens: list[int]) -> Categorical:
            p = torch.cat(
                [self._laws(x[rows], known[rows], tokens, causal) for rows in self._rows(len(x))]
            )
            if not causal:
                certain = one_hot(torch.where(known, x, 0)[:, tokens], self._spec.dim).to(p)
                p = torch.where(known[:, tokens, None], certain, p)
            return Categorical(p.log())

        return DeferredCategorical(make, range(self._spec.tokens))

    def kernel_mean(self, x: Tensor, bandwidth: float) -> Tensor:
        """E exp(-H(x, Y) / bandwidth^2) over the target's Y, with H differing tokens: (n,)."""
        return self._log_sum(x, floor=math.exp(-1 / bandwidth**2)).exp()

    def kernel_self_mean(self, bandwidth: float) -> float | None:
        """E exp(-H(Y, Y') / bandwidth^2) over independent Y and Y', or None if too large."""
        start = self._start()
        N, V = self._spec.tokens, self._spec.dim
        S = self._states_at(N - 1)
        per_product = LOG_COST if isinstance(self._arithmetic, Logarithmic) else self._slowness
        if 2 * per_product * N * self._widest * S > SUMMED or S**2 > LARGEST_PAIRS:
            return None
        floor = math.exp(-1 / bandwidth**2)
        arithmetic = self._arithmetic
        joint = arithmetic.times(start[:, None], start[None, :])  # (S, S') states of two sequences
        log_scale = 0.0
        for i in range(N):
            # Two sequences agree at token i with probability sum_v p(v | s) p(v | s').
            values = torch.arange(V, device=self.device)
            emitted = self._emitted(values, i)  # (V, W) probabilities
            equal = emitted.T @ emitted
            equal = equal.repeat(*[self._states_at(i) // len(equal)] * 2)
            joint = arithmetic.times(joint, arithmetic.of(floor + (1 - floor) * equal))
            if i + 1 < N:
                joint = self._advance(self._advance(joint, i).T.contiguous(), i).T
            largest = arithmetic.log_sum(joint.reshape(1, -1)).item()
            joint = arithmetic.times(joint, arithmetic.of(joint.new_tensor(math.exp(-largest))))
            log_scale += largest
        return math.exp(log_scale)

    def _log_sum(self, x: Tensor, floor: float) -> Tensor:
        """Log-probability of x, each token's evidence mixed with `floor`: (n,)."""
        answers = []
        for rows in self._rows(len(x)):
            known = torch.ones_like(x[rows], dtype=torch.bool)
            *_, (message, taken) = self._forward(x[rows], known, floor)
            last, unit = self._evidence(x[rows], known, self._spec.tokens - 1, floor)
            total = self._arithmetic.log_sum(self._weighed(message, last))
            answers.append(total + taken + unit)
        return torch.cat(answers)

    def _laws(self, x: Tensor, known: Tensor, tokens: list[int], causal: bool) -> Tensor:
        """Probabilities (n, S, V) of some tokens, each without its own evidence."""
        first, start = self._restart(x, known, min(tokens))
        steps = itertools.islice(
            self._forward(x, known, first=first, start=start), max(tokens) - first + 1
        )
        forward = {first + j: message for j, (message, _) in enumerate(steps)}
        backward = {} if causal else self._backward(x, known, min(tokens))
        laws = []
        for i in tokens:
            message = forward[i]
            if i in backward:
                message = self._arithmetic.times(message, backward[i])
            law = self._read(self._probabilities(message), i)
            total = law.sum(1, keepdim=True)
            laws.append(torch.where(total > 0, law / total, self._spec.mean[i]))
        return torch.stack(laws, 1)

    def _probabilities(self, message: Tensor) -> Tensor:
        """A message in stored form as probabilities, up to a factor per row."""
        if isinstance(self._arithmetic, Scaled):
            return message
        peak = message.amax(-1, keepdim=True)
        return (message - torch.where(peak.isinf(), 0, peak)).exp()

    def _restart(self, x: Tensor, known: Tensor, token: int) -> tuple[int, Tensor]:
        """A token i at or before `token` whose F_i needs no recursion, and this F_i, (n|1, S_i)."""
        return 0, self._start()[None]

    def _forward(
        self,
        x: Tensor,
        known: Tensor,
        floor: float = 0.0,
        *,
        first: int = 0,
        start: Tensor | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """F_i of each token from `first` on, and the log (n,) of all divisors so far."""
        start = self._start()[None] if start is None else start
        message = start.expand(len(x), -1)
        taken = torch.zeros(len(x), dtype=self.dtype, device=self.device)
        yield message, taken
        for i in range(first, self._spec.tokens - 1):
            evidence, unit = self._evidence(x, known, i, floor)
            seen = self._weighed(message, evidence)
            message, log = self._arithmetic.normalised(self._advance(seen, i), i)
            taken = taken + unit if log is None else taken + unit + log
            yield message, taken

    def _backward(self, x: Tensor, known: Tensor, first: int) -> dict[int, Tensor]:
        """B_i of the tokens from `first` on, up to a factor per row, where it is not 1."""
        last = last_known(known)
        messages: dict[int, Tensor] = {}
        for i in reversed(range(first, last)):
            evidence, _ = self._evidence(x, known, i + 1)
            if i + 1 in messages:
                seen = self._weighed(messages[i + 1], evidence)
            else:
                seen = evidence.repeat(1, self._states_at(i + 1) // evidence.shape[1])
            messages[i] = self._arithmetic.normalised(self._retreat(seen, i), i)[0]
        return messages

    def _evidence(
        self, x: Tensor, known: Tensor, i: int, floor: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Evidence of token i about its state, (n, W) in stored form, and its log divisor (n,)."""
        emitted = self._emitted(torch.where(known[:, i], x[:, i], 0), i)
        softened = torch.where(known[:, i, None], floor + (1 - floor) * emitted, 1)
        evidence, unit = scaled_evidence(softened)
        return self._arithmetic.of(evidence), unit.log()

    def _weighed(self, message: Tensor, evidence: Tensor) -> Tensor:
        """A message (n, S_i) times evidence (n, W)."""
        by_digit = message.reshape(len(message), -1, evidence.shape[1])
        return self._arithmetic.times(by_digit, evidence[:, None]).reshape(len(message), -1)

    def _rows(self, n: int) -> Iterator[slice]:
        widest = self._widest if isinstance(self._arithmetic, Logarithmic) else 0
        per_row = max(self._spec.tokens * self._states_at(self._spec.tokens - 1), widest)
        size = max(1, TILE // per_row)
        return (slice(start, min(start + size, n)) for start in range(0, n, size))

    @abstractmethod
    def _states_at(self, i: int) -> int:
        """Number of states S_i of token i, which does not decrease with i."""
