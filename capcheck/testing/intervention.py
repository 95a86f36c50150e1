"""An intervention tests whether a procedure reports its writes truthfully.

The trace of a procedure relies on the writes that its states report. They are tested by experiment:
the run is repeated on the same random numbers, with the network's answer for one token changed in
one call. Then, in the iteration that makes the call, only tokens reported as written may change. A
token that is reported as written again must also change in some row under some intervention.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from capcheck.core.budget import Budget
from capcheck.core.errors import ProbeError
from capcheck.core.randomness import CounterRandomness
from capcheck.laws import Categorical, TokenLaw
from capcheck.laws.shifted import Shifted
from capcheck.networks.signatures import Wrapper
from capcheck.procedures.probe import State
from capcheck.procedures.procedure import AnyProcedure

__all__ = ["SHIFT", "changed", "require_honest"]

SHIFT = 3.0  # change of an answer for a continuous token, in token units


def require_honest(procedure: AnyProcedure, budget: Budget, *, n: int = 48, seed: int = 0) -> None:
    """Raises unless the states of a procedure report their writes truthfully.

    Args:
        procedure: The procedure to test.
        budget: Budget of the runs, which should be small: there is one run per call and token.
        n: Number of sample rows; a change that has no effect in one row may have one in another.
        seed: Seed of all runs.

    Raises:
        ProbeError: A token moved without being reported as written, or no change of the network's
            answers moves a token that is reported as written again.
    """
    family = procedure.probe.family
    plain = _record(procedure, budget, n, seed)
    claimed = torch.stack([state.written for state in plain.states[1:]])  # (iterations, n, N)
    again = claimed & (claimed.cumsum(0) > 1)
    responded = torch.zeros_like(again[:, 0])  # (iterations, N)
    for call, iteration in enumerate(plain.iterations):
        for token in range(procedure.spec.tokens):
            other = _record(procedure, budget, n, seed, change=(call, token))
            if iteration == 0 or len(other.states) <= iteration:
                continue  # the call came before the start, or its iteration no longer happens
            before, after = plain.states[iteration], other.states[iteration]
            moved = _differs(before.tokens, after.tokens)  # (n, N)
            if bool((moved & ~(before.written | after.written)).any()):
                raise ProbeError(
                    f"{family}: iteration {iteration} moved tokens that it does not report as "
                    f"written when the answer for token {token} in call {call} was changed."
                )
            responded[iteration - 1, token] |= bool(moved[:, token].any())
    unmoved = again.any(1) & ~responded
    if bool(unmoved.any()):
        iteration, token = (int(i) for i in unmoved.nonzero()[0])
        raise ProbeError(
            f"{family}: iteration {iteration + 1} says that it wrote token {token} again, and no "
            "change of the network's answer for it moves it."
        )


@dataclass(frozen=True, kw_only=True)
class _Run:
    """The states of a run, and the iteration of each call of the network."""

    states: list[State]
    iterations: list[int]


class _Intervening(Wrapper):
    """Records the iteration of each call, and changes the answer of one call."""

    def __init__(
        self, states: list[State], change: tuple[int, int] | None, vocabulary: int
    ) -> None:
        self._states, self._change, self._vocabulary = states, change, vocabulary
        self.iterations: list[int] = []

    def call(self, network: Callable[..., Any], *shown: Tensor) -> Any:
        """The network's answer, changed if this is the call to change."""
        answer = network(*shown)
        if self._change is not None and self._change[0] == len(self.iterations):
            answer = changed(answer, shown[0], self._change[1], self._vocabulary)
        self.iterations.append(len(self._states))
        return answer


def _record(
    procedure: AnyProcedure,
    budget: Budget,
    n: int,
    seed: int,
    change: tuple[int, int] | None = None,
) -> _Run:
    states: list[State] = []
    wrapper = _Intervening(states, change, procedure.spec.dim)
    rng = CounterRandomness(seed, name="model", device=procedure.spec.mean.device)
    for state in procedure.wrapped(wrapper).run(budget, n, rng):
        states.append(state)  # the wrapper reads the number of states during the run
    return _Run(states=states, iterations=wrapper.iterations)


def changed(answer: Any, shown: Tensor, token: int, vocabulary: int) -> Any:
    """Changes the answer of a network for one token.

    Args:
        answer: A token law; a tensor (n, N, d), or (n, N) integers; or energies (n,).
        shown: First argument of the call.
        token: Index of the token.
        vocabulary: Number of symbols of a categorical token.
    """
    if isinstance(answer, TokenLaw):
        return _changed_law(answer, token)
    if answer.dim() == 1:  # an energy gets another slope along the token
        along = shown[:, token].reshape(len(shown), -1).to(answer).sum(1)
        return answer + SHIFT * along
    other = answer.clone()
    if answer.is_floating_point():
        other[:, token] += SHIFT
    else:
        other[:, token] = (other[:, token] + 1) % vocabulary
    return other


def _changed_law(law: TokenLaw, token: int) -> TokenLaw:
    if hasattr(law, "log_probabilities"):
        logits = law.log_probabilities.clone()
        logits[:, token] = logits[:, token].roll(1, -1)
        return Categorical(logits)
    shift = torch.zeros_like(law.mean())
    shift[:, token] = SHIFT
    return Shifted(law, shift)


def _differs(a: Tensor, b: Tensor) -> Tensor:
    """(n, N) bool mask of the tokens that differ, where NaN counts as equal to NaN."""
    moved = (a != b) & ~(a.isnan() & b.isnan())
    return moved.flatten(2).any(2) if moved.dim() > 2 else moved
