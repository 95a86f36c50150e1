"""The exact law of parallel fixed-point iterations of an autoregressive model of few tokens.

Every call of the network updates some tokens at once, x_i <- h_i(u_i, x_<i), where h_i is the
inverse CDF of p(x_i | x_<i), and u_i is the same number in all calls. The values that token i takes
in the course of the calls, its *draft*, are therefore a function of u_i and of the drafts of the
tokens before it. From left to right, the joint law of all drafts is extended by one token,

    P(drafts up to i) = P(drafts before i) |{u in (0, 1): u gives this draft of i}|,

with the intervals of `capcheck.exact.common_noise`. A state holds no more than the prefix that each
call is shown, of those calls only on which the result still depends, and equal states are merged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from capcheck.core.sequences import SequenceSpec
from capcheck.core.unavailable import Unavailable
from capcheck.exact.common_noise import common_draws
from capcheck.exact.merging import merged
from capcheck.networks.signatures import PrefixPredictor

__all__ = ["DRAFTS", "SEQUENCES", "jacobi_law"]

SEQUENCES = 1 << 12  # most sequences V^N of an exact law: some seconds of a table of so many
DRAFTS = 1 << 18  # most combinations of drafts that are followed: some seconds
ROWS = 1024  # rows that a network is shown at once


def jacobi_law(
    network: PrefixPredictor,
    spec: SequenceSpec,
    guess: Tensor,
    turns: Sequence[Sequence[int]],
    *,
    iterations: int,
) -> Tensor | Unavailable:
    """Log-probability (nats) of all sequences after some iterations, given the given tokens.

    Args:
        network: Network that gives the law of every token given those before it.
        spec: Spec of the sequences, whose tokens are categorical.
        guess: Value of every token before its first update, (N,) integers.
        turns: The tokens that each call of an iteration updates; every token that is not given
            stands in one of them.
        iterations: Number of iterations, at least 1.

    Returns:
        (V^N,) float64 in the order of `capcheck.targets.categorical.sequence_law`, or the reason
        why the law is not followed.
    """
    N, V = spec.tokens, spec.dim
    if N * math.log(V) > math.log(SEQUENCES) + 1e-9:
        return Unavailable(reason=f"{V}^{N} sequences are more than the {SEQUENCES} followed")
    calls = _Calls(turns=tuple(tuple(turn) for turn in turns), count=iterations * len(turns))
    needed = calls.needed(N)
    drafts = _Drafts(
        calls=needed[0],
        shown=torch.zeros(1, len(needed[0]), dtype=torch.int64),
        log_mass=torch.zeros(1, dtype=torch.float64),
    )
    for i in range(N):
        sources = {call: calls.update_before(call, i) for call in needed[i + 1]}
        if i in spec.given:
            drafts = drafts.with_every_value(V, needed[i + 1])
        else:
            asked = sorted({update for update in sources.values() if update is not None})
            p = _laws(network, spec, drafts.shown[:, drafts.columns(asked)], i)
            drafts = drafts.drawn(p, asked, sources, int(guess[i]))
        if len(drafts.shown) > DRAFTS:
            return Unavailable(reason=f"more than {DRAFTS} drafts share the noise of a result")
    found = torch.full((V**N,), -torch.inf, dtype=torch.float64)
    found[drafts.shown[:, 0]] = drafts.log_mass
    return found


@dataclass(frozen=True, kw_only=True)
class _Calls:
    """The calls of a run; call s updates the tokens of turn s modulo the number of turns.

    Attributes:
        turns: The tokens of each turn.
        count: Number of calls; this number also stands for the result.
    """

    turns: tuple[tuple[int, ...], ...]
    count: int

    def update_before(self, call: int, i: int) -> int | None:
        """The last call before another that updates token i, or None if there is none."""
        T = len(self.turns)
        turn = next((r for r, tokens in enumerate(self.turns) if i in tokens), None)
        if turn is None or call <= turn:
            return None
        return call - 1 - (call - 1 - turn) % T

    def needed(self, tokens: int) -> list[tuple[int, ...]]:
        """The calls whose view of the first i tokens decides the result, for i = 0..N."""
        found: list[tuple[int, ...]] = [(self.count,)]
        for i in reversed(range(tokens)):
            updates = (self.update_before(call, i) for call in found[-1])
            asked = {update for update in updates if update is not None}
            found.append(tuple(sorted(asked | set(found[-1]))))
        return found[::-1]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Drafts:
    """Joint drafts of the first tokens, as the prefixes that some calls are shown.

    Attributes:
        calls: The calls, in rising order.
        shown: The number of the prefix that each call is shown, to the base V, (n, calls).
        log_mass: Log-probability (nats) given the given tokens, (n,) float64.
    """

    calls: tuple[int, ...]
    shown: Tensor
    log_mass: Tensor

    def columns(self, calls: Sequence[int]) -> list[int]:
        """The columns of some calls."""
        return [self.calls.index(call) for call in calls]

    def with_every_value(self, V: int, after: tuple[int, ...]) -> _Drafts:
        """The drafts with one more token that is given, for each of its values side by side."""
        n = len(self.shown)
        origin, value = torch.arange(n).repeat_interleave(V), torch.arange(V).repeat(n)
        nothing = torch.zeros(n * V, dtype=torch.float64)
        return self._with(origin, dict.fromkeys(after, value), nothing, V)

    def drawn(
        self, p: Tensor, asked: Sequence[int], sources: dict[int, int | None], guess: int
    ) -> _Drafts:
        """The drafts with one more token, which is drawn from one number in all of its updates.

        Args:
            p: Law of the token in each of its updates, (n, updates, V).
            asked: The calls that make these updates.
            sources: For every call that is still needed, the update whose value it is shown.
            guess: Value of the token before its first update.
        """
        origin, values, mass = common_draws(p)
        first = torch.full_like(origin, guess)
        shown = {
            call: first if update is None else values[:, asked.index(update)]
            for call, update in sources.items()
        }
        return self._with(origin, shown, mass.log(), p.shape[-1])

    def _with(self, origin: Tensor, value: dict[int, Tensor], gain: Tensor, V: int) -> _Drafts:
        """The drafts with one more token, whose value (m,) is that of each call."""
        before = self.shown[origin][:, self.columns(list(value))]
        shown = before * V + torch.stack(list(value.values()), 1)
        shown, log_mass = merged(shown, self.log_mass[origin] + gain)
        return _Drafts(calls=tuple(value), shown=shown, log_mass=log_mass)


def _laws(network: PrefixPredictor, spec: SequenceSpec, prefixes: Tensor, i: int) -> Tensor:
    """The law of token i given each of the prefixes (n, C), by their numbers: (n, C, V)."""
    V, device = spec.dim, spec.mean.device
    distinct, place = prefixes.unique(return_inverse=True)
    tokens = torch.zeros(len(distinct), spec.tokens, dtype=torch.int64)
    for j in range(i):
        tokens[:, j] = distinct // V ** (i - 1 - j) % V
    parts = []
    for rows in tokens.to(device).split(ROWS):
        law = network(rows, torch.ones_like(rows, dtype=torch.bool))
        parts.append(law.select([i]).mean()[:, 0].double().cpu())  # (n, V)
    return torch.cat(parts)[place]
