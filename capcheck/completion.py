"""Completion: tokens beyond the length budget, drawn in one shot.

Each is drawn from its exact marginal given the placed tokens, independently of the others: the best
that can be done without further model steps. It counts as one model call.
"""

from __future__ import annotations

from torch import Tensor

from capcheck.probe import State
from capcheck.randomness import Randomness
from capcheck.signatures import TokenPredictor


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
