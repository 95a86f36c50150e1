"""A recording holds the arguments of a procedure's network calls, and which answers it used.

The procedure is run with the oracle at each budget, and the arguments of every call are kept:
levels, masks, target times, and the states themselves. A call has the weight 1 / (calls of its
budget), so that all budgets have the same total weight. For answers that are token laws, the
recording states which tokens' laws were used.
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

ROWS = 32  # sequences in a recorded run
MOST_CALLS = 512  # calls kept per budget; if there are more, only every second, fourth, .. is kept


@dataclass(kw_only=True, eq=False)
class Call:
    """One recorded call of the network.

    Attributes:
        shown: First argument of the call.
        more: Further arguments of the call.
        used: Which tokens' laws the procedure used, (N,) bool; all if the answer is no token law.
        weight: Weight of the call, 1 / (calls of its budget).
    """

    shown: Tensor
    more: tuple[Tensor, ...]
    used: Tensor
    weight: float = 1.0


def record(procedure: AnyProcedure, *, budgets: Sequence[Budget], rng: Randomness) -> list[Call]:
    """Record the calls that a procedure makes at some budgets.

    Args:
        procedure: Procedure with the oracle, or with another network.
        budgets: Budgets of the recorded runs, at least one of which must make a call.
        rng: Source of every random number; all budgets use the same draws.

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
    """The distinct rows of recorded arguments, with weights.

    Attributes:
        rows: Distinct rows, (R, ...).
        weights: Weight of each row, (R,), positive.
    """

    rows: Tensor
    weights: Tensor

    @classmethod
    def of(cls, calls: Sequence[Call], part: Callable[[Call], Tensor]) -> Pool:
        """The pool of the distinct rows of `part(call)`, (n, ...), over all calls."""
        parts = [part(call) for call in calls]
        shares = [
            torch.full((len(x),), call.weight / len(x), dtype=torch.float64)
            for x, call in zip(parts, calls, strict=True)
        ]
        rows, which = torch.cat(parts).unique(dim=0, return_inverse=True)
        weights = torch.zeros(len(rows), dtype=torch.float64)
        return cls(rows=rows, weights=weights.index_add(0, which.cpu(), torch.cat(shares)))

    def draw(self, n: int, rng: Randomness) -> Tensor:
        """Draw n rows independently, in proportion to their weights."""
        chosen = rng.categorical(self.weights.to(self.rows.device), (n, 1))[:, 0]
        return self.rows[chosen]


class _Recorder(Wrapper):
    """Wrapper that records the calls of a network."""

    def __init__(self) -> None:
        self._seen, self._stride = 0, 1
        self.calls: list[Call] = []

    def call(self, network: Callable[..., Any], *arguments: Tensor) -> Any:
        """The network's answer; a token law is returned in a view that records its use."""
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
    """A law that records in `used` which of its tokens' laws are used."""

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
        """Log-probabilities (nats) of all values, (n, N, V)."""
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
