"""Given tokens: a procedure that fills in the rest of a sequence, some of whose tokens are known.

The given tokens' values are drawn from the target; the procedure runs on the remaining tokens with
the oracle of their conditional law, row by row; and the joint law of both is what is compared. A
prompt is a given start, infilling is anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from capcheck.budget import Budget
from capcheck.errors import InputError
from capcheck.laws import TokenLaw
from capcheck.probe import AnyProbe, LogDensity, Probe, State, Suspect, Unavailable
from capcheck.randomness import Randomness
from capcheck.sequences import SequenceSpec
from capcheck.signatures import Signature, TokenPredictor
from capcheck.targets.conditional import conditional, log_prob_of, rest_of
from capcheck.targets.target import Target


@dataclass(frozen=True)
class _ConditionalSignature(Signature[Callable[..., Any]]):
    """The inner signature, with the given values as one more argument."""

    inner: Signature[Any]
    given: tuple[int, ...]

    def oracle(self, target: Target) -> Callable[..., Any]:
        """The inner oracle of the conditional law; one is kept for the latest values."""
        latest: list[tuple[Tensor, Any]] = []

        def call(shown: Tensor, *more: Tensor) -> Any:
            *more_shown, values = more
            if not latest or latest[0][0] is not values:
                law = conditional(target, self.given, values)
                latest[:] = [(values, self.inner.oracle(law))]
            return latest[0][1](shown, *more_shown)

        return call

    def require(self, answer: object, shown: Tensor) -> None:
        """As the inner signature asks."""
        self.inner.require(answer, shown)


@dataclass(frozen=True, kw_only=True)
class Given(Probe[Callable[..., Any]]):
    """A probe run on what is left of sequences when some tokens are given.

    Attributes:
        inner: The procedure.
        target: Where the given values come from.
        given: Indices of the given tokens, in rising order.
    """

    inner: AnyProbe
    target: Target
    given: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("family", "row", "kinds", "anytime"):
            object.__setattr__(self, name, getattr(self.inner, name))

    @property
    def signature(self) -> Signature[Any]:
        """That of the inner probe, shown the given values as well."""
        return _ConditionalSignature(self.inner.signature, self.given)

    def run(
        self,
        network: Callable[..., Any],
        spec: SequenceSpec,
        budget: Budget,
        n: int,
        rng: Randomness,
    ) -> Iterator[State]:
        """The inner states, beside given tokens that are placed and never written."""
        whole = self.target.sample(n, rng.stream("given"))
        values = whole[:, list(self.given)]

        def told(shown: Tensor, *more: Tensor) -> Any:
            return network(shown, *more, values)

        for state in self.inner.run(told, rest_of(spec, self.given), budget, n, rng):
            yield self._embedded(state, whole)

    def log_density(
        self,
        network: Callable[..., Any],
        completion: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        x: Tensor,
        rng: Randomness,
    ) -> LogDensity | Unavailable:
        """Log p(x_given) + log q(x_rest | x_given)."""
        values = x[:, list(self.given)]
        law = conditional(self.target, self.given, values)
        rest = self._rest(spec.tokens)

        def complete(tokens: Tensor, known: Tensor) -> TokenLaw:
            state = State(tokens=tokens, placed=known, written=known)
            whole = self._embedded(state, x)
            return completion(whole.tokens, whole.placed).select(rest)

        found = self.inner.log_density(
            self.inner.signature.oracle(law), complete, law.spec, budget, x[:, rest], rng
        )
        if isinstance(found, Unavailable):
            return found
        return LogDensity(
            values=found.values + log_prob_of(self.target, self.given, values),
            method=found.method,
            bound=found.bound,
        )

    def suspects(self) -> tuple[Suspect, ...]:
        """Those of the inner probe, which get the same tokens."""
        return self.inner.suspects()

    def limit(
        self, oracle: Callable[..., Any], spec: SequenceSpec, n: int, rng: Randomness
    ) -> Tensor | None:
        """That of the inner probe, beside the given tokens."""
        whole = self.target.sample(n, rng.stream("given"))
        law = conditional(self.target, self.given, whole[:, list(self.given)])
        found = self.inner.limit(self.inner.signature.oracle(law), law.spec, n, rng)
        if found is None:
            return None
        whole[:, self._rest(spec.tokens)] = found
        return whole

    def _rest(self, tokens: int) -> list[int]:
        return [i for i in range(tokens) if i not in self.given]

    def _embedded(self, state: State, whole: Tensor) -> State:
        """A state of the rest among the given tokens of `whole`."""
        rest = self._rest(whole.shape[1])
        tokens = whole.clone()
        tokens[:, rest] = state.tokens.to(whole)
        placed = torch.ones(whole.shape[:2], dtype=torch.bool, device=whole.device)
        written = torch.zeros_like(placed)
        placed[:, rest], written[:, rest] = state.placed, state.written
        return State(tokens=tokens, placed=placed, written=written)


def require_given(given: Sequence[Any], tokens: int) -> tuple[int, ...]:
    """The indices of given tokens, sorted.

    Raises:
        InputError: One that is no token, or all of them.
    """
    for i in given:
        if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < tokens:
            raise InputError(f"given must be indices of tokens, 0 to {tokens - 1}, got {i!r}.")
    chosen = tuple(sorted(set(given)))
    if len(chosen) == tokens:
        raise InputError(f"given must leave a token to produce, got all {tokens}.")
    return chosen
