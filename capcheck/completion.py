"""Completion: tokens beyond the length budget, drawn in one shot.

Each is drawn from its exact marginal given the placed tokens, independently of the others: the best
that can be done without further model steps. It counts as one model call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from capcheck.budget import Budget
from capcheck.errors import CapcheckError
from capcheck.probe import AnyProbe, State
from capcheck.randomness import Randomness
from capcheck.sequences import SequenceSpec
from capcheck.signatures import Calls, TokenPredictor, TokenPredictorSignature, counted


def complete(state: State, predictor: TokenPredictor, rng: Randomness) -> Tensor:
    """Fill the unplaced tokens of a state: (n, N, d), or (n, N) integers.

    Args:
        state: The state to complete; returned unchanged if everything is placed.
        predictor: Exact marginals given the placed tokens.
        rng: A stream of its own, so that completion moves no draw of the procedure.
    """
    if bool(state.placed.all()):
        return state.tokens
    draws = predictor(state.tokens, state.placed).sample(rng)
    return (
        State(tokens=draws, placed=state.placed, written=state.written)
        .write(state.tokens, state.placed)
        .tokens
    )


def completed_run(
    probe: AnyProbe,
    network: Callable[..., Any],
    *,
    completion: TokenPredictor,
    spec: SequenceSpec,
    budget: Budget,
    n: int,
    rng: Randomness,
) -> Tensor:
    """The last state of one run, completed as in a sweep: (n, N, d), or (n, N) integers.

    Args:
        probe: The procedure.
        network: Network of its signature; its answers are checked, its calls are not reported.
        completion: Exact marginals given the placed tokens.
        spec: As for `Probe.run`.
        budget: As for `Probe.run`.
        n: Sequences.
        rng: Source of every random number.

    Raises:
        CapcheckError: The run yielded no state.
    """
    calls, state = Calls(), None
    for state in probe.run(counted(network, probe.signature, calls), spec, budget, n, rng):  # noqa: B007
        pass
    if state is None:
        raise CapcheckError(f"{probe.family}: run() yielded no state at {budget}.")
    predictor = counted(completion, TokenPredictorSignature(), calls)
    return complete(state, predictor, rng.stream("completion"))
