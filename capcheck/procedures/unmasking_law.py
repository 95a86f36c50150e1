"""The exact law of a parallel decoder of few tokens, by its partly masked sequences.

A decoder whose next step depends on the placed tokens alone is a Markov chain on partly masked
sequences. A random order is drawn anew in every step here, which is the same law.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from capcheck.core.sequences import SequenceSpec
from capcheck.exact.partly_masked import PartlyMasked
from capcheck.laws import TokenLaw, log_table
from capcheck.networks.signatures import TokenPredictor
from capcheck.procedures.unmasking import Picking, Step

__all__ = ["Answer", "law_by_steps"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """The answer of a network in a step.

    Attributes:
        law: The law of every token.
        log_p: Its log-probabilities in nats, (n, N, V), if a rule looks at them.
        drawn_from: The law that values are drawn from.
    """

    law: TokenLaw
    log_p: Tensor | None
    drawn_from: TokenLaw


def law_by_steps(
    steps: Iterable[Step],
    picking: Picking,
    answer: Callable[[Tensor, Tensor], Answer],
    completion: TokenPredictor,
    spec: SequenceSpec,
    *,
    most: int,
) -> PartlyMasked:
    """All sequences that a decoder returns, with their probabilities.

    Args:
        steps: The steps of the decoder.
        picking: The rules for which tokens and how many; every order but a fixed one.
        answer: Function of tokens (n, N) and which of them are known that asks the network.
        completion: The predictor that draws the tokens which are left at the end.
        spec: Spec of the sequences, without given tokens.
        most: Largest number of tokens that are placed.
    """
    states, device = PartlyMasked.all_masked(spec.tokens), spec.mean.device
    for step in steps:
        free = step.free(states.known, most)
        if not bool(free.tokens.any()):
            continue
        asked = answer(states.tokens.to(device), states.known.to(device))
        log_p, log_q = (log_table(law).cpu() for law in (asked.law, asked.drawn_from))
        if picking.order == "sampled_confidence":
            states, origin = states.valued(log_q, free.tokens)
            scores = log_p[origin].gather(-1, states.tokens[..., None])[..., 0].exp()
            chosen = picking.chosen(free.rows(origin), step.count, scores, log_p[origin])
        else:
            states, origin, rank = states.in_every_order(free.tokens)
            scores = -rank.to(log_p)
            chosen = picking.chosen(free.rows(origin), step.count, scores, log_p[origin])
            states, again = states.valued(log_q[origin], chosen)
            chosen = chosen[again]
        states = states.placed(chosen)
    if not bool(states.known.all()):
        law = completion(states.tokens.to(device), states.known.to(device))
        states, _ = states.valued(log_table(law).cpu(), ~states.known)
        states = states.placed(~states.known)
    return states
