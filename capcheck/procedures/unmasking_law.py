"""The exact law of a parallel decoder of few tokens, by its partly masked sequences.

A decoder whose next step depends on the placed tokens alone is a Markov chain on partly masked
sequences. A random order is drawn anew in every step here, which is the same law.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from capcheck.core.sequences import SequenceSpec
from capcheck.exact.partly_masked import PartlyMasked
from capcheck.laws import Categorical, log_table
from capcheck.networks.signatures import TokenPredictor
from capcheck.procedures.unmasking import Drawing, Picking, Step

__all__ = ["law_by_steps"]


def law_by_steps(
    steps: Iterable[Step],
    picking: Picking,
    drawing: Drawing,
    network: TokenPredictor,
    completion: TokenPredictor,
    spec: SequenceSpec,
    *,
    most: int,
) -> PartlyMasked:
    """All sequences that a decoder returns, with their probabilities.

    Args:
        steps: The steps of the decoder.
        picking: The rules for which tokens and how many; every order but a fixed one.
        drawing: The rule for how values are drawn.
        network: The decoder's network.
        completion: The predictor that draws the tokens which are left at the end.
        spec: Spec of the sequences, without given tokens.
        most: Largest number of tokens that are placed.
    """
    states = PartlyMasked.all_masked(spec.tokens)
    for step in steps:
        free = step.free(states.known, most)
        if not bool(free.tokens.any()):
            continue
        law = Categorical(_table(network, states, spec))
        log_q = drawing.shaped(law.mean()).log()
        if picking.order == "sampled_confidence":
            states, origin = states.valued(log_q, free.tokens)
            law = Categorical(law.log_probabilities[origin])
            own = law.log_prob(states.tokens).exp()
            chosen = picking.chosen(free.rows(origin), step.count, law, own)
        else:
            if step.count is not None:
                sizes = free.left[:, 0].clamp(max=step.count)
                states, origin, chosen = states.in_every_set(free.tokens, sizes)
            else:
                states, origin, rank = states.in_every_order(free.tokens)
                law = Categorical(law.log_probabilities[origin])
                chosen = picking.chosen(free.rows(origin), None, law, -rank.double())
            states, again = states.valued(log_q[origin], chosen)
            chosen = chosen[again]
        states = states.placed(chosen)
    if not bool(states.known.all()):
        states, _ = states.valued(_table(completion, states, spec), ~states.known)
        states = states.placed(~states.known)
    return states


def _table(predictor: TokenPredictor, states: PartlyMasked, spec: SequenceSpec) -> Tensor:
    """Log-probabilities (nats) of all tokens given the known ones, (n, N, V)."""
    device = spec.mean.device
    return log_table(predictor(states.tokens.to(device), states.known.to(device))).cpu()
