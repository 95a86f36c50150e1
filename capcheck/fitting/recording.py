"""Recording: what a procedure really shows its network, and what it uses of the answers.

The procedure is run with the oracle over some budgets, and the arguments of every call are kept:
levels, masks, target times, and the states themselves. A call counts 1 / (calls of its budget), so
that every budget has the same say. Of a token law it is noted which tokens were used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from capcheck.core.budget import Budget
from capcheck.core.errors import InputError
from capcheck.core.randomness import Randomness
from capcheck.laws import TokenLaw, log_table
from capcheck.networks.signatures import Wrapper
from capcheck.noise.paths import NoisePath
from capcheck.procedures.procedure import AnyProcedure

__all__ = ["MOST_CALLS", "ROWS", "Call", "Pool", "record"]

ROWS = 32  # sequences that a recorded run makes
MOST_CALLS = 512  # of one budget that are kept; beyond it, every second one, and so on


@dataclass(kw_only=True, eq=False)
class Call:
    """One call of the network.

    Attributes:
        shown: Its first argument.
        more: The others.
        used: (N,) bool, the tokens of the answered law that were used; all of another answer.
        weight: Its share of the calls of its budget.
    """

    shown: Tensor
    more: tuple[Tensor, ...]
    used: Tensor
    weight: float = 1.0


def record(procedure: AnyProcedure, *, budgets: Sequence[Budget], rng: Randomness) -> list[Call]:
    """The calls that a procedure makes over some budgets.

    Args:
        procedure: With the oracle, or another network.
        budgets: At least one of them must make a call.
        rng: Source of every random number; all budgets share its draws.

    Raises:
        InputError: No budget makes a call.
    """
    calls: list[Call] = []
    for budget in budgets:
        recorder = _Recorder()
        for _ in procedure.wrapped(recorder).run(budget, ROWS, rng.stream("record")):
            pass
        for call in recorder.calls:
            call.weight = 1 / len(recorder.calls)
        calls += recorder.calls
    if not calls:
        raise InputError(
            f"budgets must let {procedure.probe.family} call its network at least once, got "
            f"{'; '.join(map(str, budgets))}; add a larger one."
        )
    return calls


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """Rows that were recorded, each with its share.

    Attributes:
        rows: (R, ...).
        weights: (R,), positive.
    """

    rows: Tensor
    weights: Tensor

    @classmethod
    def of(cls, calls: Sequence[Call], part: Callable[[Call], Tensor]) -> Pool:
        """The distinct rows of a part of each call, (n, ...)."""
        parts = [part(call) for call in calls]
        shares = [
            torch.full((len(x),), call.weight / len(x), dtype=torch.float64)
            for x, call in zip(parts, calls, strict=True)
        ]
        rows, which = torch.cat(parts).unique(dim=0, return_inverse=True)
        weights = torch.zeros(len(rows), dtype=torch.float64)
        return cls(rows=rows, weights=weights.index_add(0, which.cpu(), torch.cat(shares)))

    def draw(self, n: int, rng: Randomness) -> Tensor:
        """N rows, independently."""
        chosen = rng.categorical(self.weights.to(self.rows.device), (n, 1))[:, 0]
        return self.rows[chosen]


class _Recorder(Wrapper):
    """Keeps the calls of a network."""

    def __init__(self) -> None:
        self._seen, self._stride = 0, 1
        self.calls: list[Call] = []

    def call(self, network: Callable[..., Any], *arguments: Tensor) -> Any:
        """The network's answer, whose use is watched."""
        shown, *more = arguments
        answer = network(shown, *more)
        used = torch.full(shown.shape[1:2], not isinstance(answer, TokenLaw), device=shown.device)
        if self._seen % self._stride == 0:
            kept = tuple(x.detach().clone() for x in (shown, *more))
            self.calls.append(Call(shown=kept[0], more=kept[1:], used=used))
            if len(self.calls) > MOST_CALLS:
                self.calls, self._stride = self.calls[::2], 2 * self._stride
        self._seen += 1
        return _Watched(answer, used) if isinstance(answer, TokenLaw) else answer


@dataclass(eq=False)
class _Watched(TokenLaw):
    """A law that notes which of its tokens are asked for."""

    law: TokenLaw
    used: Tensor
    tokens: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tokens = self.tokens or list(range(len(self.used)))

    def _asked(self) -> TokenLaw:
        self.used[self.tokens] = True
        return self.law

    @property
    def log_probabilities(self) -> Tensor:
        """(n, N, V), nats, of a law that has them."""
        return log_table(self._asked())

    def sample(self, rng: Randomness) -> Tensor:
        return self._asked().sample(rng)

    def log_prob(self, x: Tensor) -> Tensor:
        return self._asked().log_prob(x)

    def mean(self) -> Tensor:
        return self._asked().mean()

    def variance(self) -> Tensor:
        return self._asked().variance()

    def cdf(self, x: Tensor) -> Tensor:
        return self._asked().cdf(x)

    def icdf(self, u: Tensor) -> Tensor:
        return self._asked().icdf(u)

    def denoise(self, x_t: Tensor, t: Tensor, path: NoisePath) -> Tensor:
        return self._asked().denoise(x_t, t, path)

    def coordinate(self, j: int, x: Tensor) -> TokenLaw:
        return self._asked().coordinate(j, x)

    def held(self) -> TokenLaw:
        return _Watched(self.law.held(), self.used, self.tokens)

    def rows(self, index: Tensor) -> TokenLaw:
        return _Watched(self.law.rows(index), self.used, self.tokens)

    def select(self, tokens: Sequence[int]) -> TokenLaw:
        chosen = [self.tokens[i] for i in tokens]
        return _Watched(self.law.select(tokens), self.used, chosen) if chosen else self.law
