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

import functools
import math
from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from capcheck.core.tiles import slices
from capcheck.laws import Categorical, DeferredCategorical
from capcheck.noise.paths import PATHS, NoisePath
from capcheck.targets.categorical.kept_prefix import KeptPrefix
from capcheck.targets.categorical.messages import (
    LOG_COST,
    Arithmetic,
    Logarithmic,
    Scaled,
    scaled_evidence,
)
from capcheck.targets.categorical.noisy_tokens import noisy_laws, with_floor
from capcheck.targets.target import CategoricalTarget
from capcheck.targets.tokens import require_tokens

__all__ = ["LARGEST_PAIRS", "PASS", "SUMMED", "TILE", "Chain", "last_known"]

TILE = 1 << 24  # most numbers of the messages of all tokens held at once
PASS = 12.0  # time of a multiply-add of the recursions, in those of a large matrix product
SUMMED = 5e10  # most multiply-adds for the sum over pairs of sequences: a few seconds
LARGEST_PAIRS = 1 << 22  # most pairs of states held for that sum


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

    @property
    def conditional_cost(self) -> float:
        """That of both recursions; see `CategoricalTarget`."""
        each = LOG_COST if isinstance(self._arithmetic, Logarithmic) else PASS
        return each * 2 * self._spec.tokens * self._widest

    def log_prob(self, x: Tensor) -> Tensor:
        """Joint log-probability of x (n, N), in nats: (n,); -inf off the support."""
        require_tokens(self.spec, x)
        return self._log_sum(x, floor=0.0)

    def marginals(
        self,
        x: Tensor,
        levels: Tensor,
        path: NoisePath = PATHS["linear"],
        causal: bool = False,
    ) -> DeferredCategorical:
        """The law of every token given the known ones; see `Target`."""
        require_tokens(self.spec, x, levels)
        known = levels == 0
        if not bool(known.any()):
            log_p = self._spec.mean.log().expand(len(x), -1, -1)
            return DeferredCategorical(lambda of: Categorical(log_p[:, of]), range(log_p.shape[1]))

        def make(tokens: list[int]) -> Categorical:
            parts = enumerate(self._rows(len(x)))
            p = torch.cat(
                [self._laws(x[rows], known[rows], tokens, causal, k) for k, rows in parts]
            )
            if not causal:
                certain = one_hot(torch.where(known, x, 0)[:, tokens], self._spec.dim).to(p)
                p = torch.where(known[:, tokens, None], certain, p)
            return Categorical(p.log())

        return DeferredCategorical(make, range(self._spec.tokens))

    def noisy_marginals(self, x: Tensor, keep: Tensor) -> DeferredCategorical:
        """By both recursions with softened evidence of every token; see `CategoricalTarget`."""
        x, floor = with_floor(self._spec, x, keep)

        def others(tokens: list[int]) -> Tensor:
            seen = torch.ones_like(x, dtype=torch.bool)
            tiles = self._rows(len(x))
            parts = [self._laws(x[r], seen[r], tokens, False, floor=floor[r]) for r in tiles]
            return parts[0] if len(parts) == 1 else torch.cat(parts)

        return noisy_laws(others, x, floor)

    def one_by_one(self, x: Tensor) -> Iterator[Categorical]:
        """By one step of the recursion for each token; see `Target`."""
        known = torch.ones_like(x, dtype=torch.bool)
        for i, (message, _) in enumerate(self._forward(x, known)):
            yield Categorical(self._law_of(message, i).log()[:, None])

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

    def _laws(
        self,
        x: Tensor,
        known: Tensor,
        tokens: list[int],
        causal: bool,
        part: int = 0,
        floor: float | Tensor = 0.0,
    ) -> Tensor:
        """Probabilities (n, S, V) of some tokens, each without its own evidence.

        Args:
            x: Tokens of some rows, (n, N).
            known: Which of them are known, (n, N).
            tokens: Indices of the S tokens.
            causal: Whether only the known tokens before a token tell of it.
            part: Number of the part of all rows that these are.
            floor: 0, or floors that soften the evidence of each token, (n, N).
        """
        exact = not isinstance(floor, Tensor)  # messages with soft evidence are not kept
        first, start = self._restart(x, known, min(tokens), part) if exact else (0, None)
        steps = self._forward(x, known, floor, first=first, start=start)
        places = range(first, max(tokens) + 1)
        forward = {i: message for i, (message, _) in zip(places, steps, strict=False)}
        if exact and first < min(tokens):
            self._kept.keep(part, x, known, min(tokens), forward[min(tokens)])
        backward = {} if causal else self._backward(x, known, min(tokens), floor)
        laws = []
        for i in tokens:
            message = forward[i]
            if i in backward:
                message = self._arithmetic.times(message, backward[i])
            laws.append(self._law_of(message, i))
        return torch.stack(laws, 1)

    def _law_of(self, message: Tensor, i: int) -> Tensor:
        """The law (n, V) of token i from the messages (n, S_i) of its states."""
        law = self._read(self._probabilities(message), i)
        total = law.sum(1, keepdim=True)
        return torch.where(total > 0, law / total, self._spec.mean[i])

    def _probabilities(self, message: Tensor) -> Tensor:
        """A message in stored form as probabilities, up to a factor per row."""
        if isinstance(self._arithmetic, Scaled):
            return message
        peak = message.amax(-1, keepdim=True)
        return (message - torch.where(peak.isinf(), 0, peak)).exp()

    def _restart(self, x: Tensor, known: Tensor, token: int, part: int) -> tuple[int, Tensor]:
        """A token i at or before `token` whose F_i needs no recursion, and this F_i, (n|1, S_i)."""
        return self._kept.find(part, x, known, token) or (0, self._start()[None])

    @functools.cached_property
    def _kept(self) -> KeptPrefix:
        return KeptPrefix()

    def _forward(
        self,
        x: Tensor,
        known: Tensor,
        floor: float | Tensor = 0.0,
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

    def _backward(
        self, x: Tensor, known: Tensor, first: int, floor: float | Tensor = 0.0
    ) -> dict[int, Tensor]:
        """B_i of the tokens from `first` on, up to a factor per row, where it is not 1."""
        last = last_known(known)
        messages: dict[int, Tensor] = {}
        for i in reversed(range(first, last)):
            evidence, _ = self._evidence(x, known, i + 1, floor)
            if i + 1 in messages:
                seen = self._weighed(messages[i + 1], evidence)
            else:
                seen = evidence.repeat(1, self._states_at(i + 1) // evidence.shape[1])
            messages[i] = self._arithmetic.normalised(self._retreat(seen, i), i)[0]
        return messages

    def _evidence(
        self, x: Tensor, known: Tensor, i: int, floor: float | Tensor = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Evidence of token i about its state, (n, W) in stored form, and its log divisor (n,)."""
        floor = floor[:, i, None] if isinstance(floor, Tensor) else floor
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
        return slices(n, size)

    @abstractmethod
    def _states_at(self, i: int) -> int:
        """Number of states S_i of token i, which does not decrease with i."""
