"""Scratchpad tasks: sequences of inputs and an answer, with or without running results.

Running results are auxiliary tokens: they are drawn like other tokens but are summed out of the
divergences (`SequenceSpec.scored`). A procedure that sees only a window of past tokens can produce
the answer only if the sequence has running results: the chain-of-thought effect. The task is to
compose inputs g_1..g_n of a group G:

    with scratch    g_1 p_1 g_2 p_2 .. g_n p_n,  p_i = p_{i-1} g_i: p_i depends on two tokens
    without         g_1 g_2 .. g_n p_n: the answer p_n depends on all inputs
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch

from capcheck.targets.categorical.hidden_markov import HiddenMarkov
from capcheck.targets.provenance import Provenance

__all__ = ["composition", "running_parity", "running_permutation"]


def composition(
    name: str, inputs: int, size: int, compose: Callable[[int, int], int], *, scratch: bool
) -> HiddenMarkov:
    """The law of uniform elements g_1..g_n of a group (0 is the neutral one) and their product.

    The hidden state is (product so far p, latest symbol), numbered size p + symbol. An input g
    changes p to p g and emits g; a result keeps p and emits p. Divergences count the inputs and the
    last result.

    Args:
        name: Name of the task, for readers of a report.
        inputs: Number n of inputs.
        size: Number of elements of the group.
        compose: Function of p and g that returns p g.
        scratch: Whether the tokens are g_1 p_1 .. g_n p_n; otherwise g_1 .. g_n p_n.
    """
    S = size * size
    initial, placed, told = (torch.zeros(shape).double() for shape in ((S,), (S, S), (S, S)))
    for p in range(size):
        shown = [size * p + symbol for symbol in range(size)]
        told[shown, size * p + p] = 1
        initial[size * p + p] = 1  # the first product is the first input
        for g in range(size):
            placed[shown, size * compose(p, g) + g] = 1
    steps = [told, *[placed, told] * (inputs - 1)] if scratch else [placed] * (inputs - 1) + [told]
    tokens = len(steps) + 1
    how = "with" if scratch else "without"
    emission = torch.nn.functional.one_hot(torch.arange(S) % size, size).double()
    return HiddenMarkov.from_potentials(
        initial,
        torch.stack(steps),
        emission,
        tokens=tokens,
        scored=(*range(0, tokens, 2), tokens - 1) if scratch else None,
        provenance=Provenance(description=f"{name} of {inputs} inputs {how} a scratchpad"),
    )


def running_parity(inputs: int, *, scratch: bool) -> HiddenMarkov:
    """The law of uniform bits and their parity, 1 if an odd number of bits is 1."""
    return composition("parity", inputs, 2, lambda p, g: p ^ g, scratch=scratch)


def running_permutation(inputs: int, *, scratch: bool) -> HiddenMarkov:
    """The law of uniform permutations of three items and their composition."""
    group = list(itertools.permutations(range(3)))

    def compose(p: int, g: int) -> int:
        return group.index(tuple(group[p][j] for j in group[g]))

    return composition("permutation composition", inputs, 6, compose, scratch=scratch)
