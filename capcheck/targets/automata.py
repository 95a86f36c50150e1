"""Constraint sets and Ising strips as chains: any length, because a small state carries the past.

Each is a product of potentials along a hidden Markov chain whose state holds the latest symbol.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from capcheck.errors import InputError
from capcheck.targets.hidden_markov import HiddenMarkov
from capcheck.targets.target import Provenance

WIDEST = 8  # columns of an Ising strip: 256 states


def even_parity(tokens: int) -> HiddenMarkov:
    """All strings of bits with an even number of ones are equally likely.

    The state is (parity so far, latest bit), numbered 2 parity + bit.
    """
    initial, transition = torch.zeros(4).double(), torch.zeros(4, 4).double()
    for bit in (0, 1):
        initial[3 * bit] = 1
        for state in range(4):
            transition[state, 2 * ((state // 2) ^ bit) + bit] = 1
    emission = _emits([state % 2 for state in range(4)]).repeat(tokens, 1, 1)
    emission[-1, 2:] = 0  # the last parity is even
    return HiddenMarkov.from_potentials(
        initial,
        transition,
        emission,
        tokens=tokens,
        provenance=Provenance(description=f"{tokens} bits, uniform over even parity"),
    )


def balanced_brackets(tokens: int) -> HiddenMarkov:
    """All balanced strings of opening (0) and closing (1) brackets are equally likely.

    The state is (depth, latest symbol), numbered 2 depth + symbol.

    Raises:
        InputError: An odd number of tokens.
    """
    if tokens % 2:
        raise InputError(f"brackets.tokens must be even, got {tokens}.")
    states = 2 * (tokens // 2 + 1)
    initial, transition = torch.zeros(states).double(), torch.zeros(states, states).double()
    initial[2] = 1  # depth 1, opened
    for state in range(states):
        depth = state // 2
        if 2 * (depth + 1) < states:
            transition[state, 2 * (depth + 1)] = 1
        if depth > 0:
            transition[state, 2 * (depth - 1) + 1] = 1
    emission = _emits([state % 2 for state in range(states)]).repeat(tokens, 1, 1)
    emission[-1, 2:] = 0  # the last depth is 0
    return HiddenMarkov.from_potentials(
        initial,
        transition,
        emission,
        tokens=tokens,
        provenance=Provenance(description=f"{tokens} brackets, uniform over balanced strings"),
    )


def ising(rows: int, columns: int, coupling: float, field: float) -> HiddenMarkov:
    """p(x) ~ exp(coupling sum over neighbours s s' + field sum s) with spins s = 2 x - 1.

    The state is the last `columns` spins, the latest in the lowest bit: the frontier between the
    sites that are behind and those ahead in row-major order.

    Raises:
        InputError: More columns than the state can hold.
    """
    if columns > WIDEST:
        raise InputError(
            f"ising.columns must be at most {WIDEST}, got {columns}; "
            "lay the strip along the rows, which may be any number."
        )
    states, tokens = 2**columns, rows * columns
    spin = [-1.0, 1.0]
    emission = _emits([state % 2 for state in range(states)])
    initial = torch.zeros(states).double()
    for bit in (0, 1):
        initial[bit] = math.exp(field * spin[bit])
    steps: dict[tuple[bool, bool], Tensor] = {}
    for above in (False, True):
        for left in (False, True):
            step = torch.zeros(states, states).double()
            for state in range(states):
                for bit in (0, 1):
                    neighbours = above * spin[state >> (columns - 1)] + left * spin[state % 2]
                    weight = math.exp(spin[bit] * (coupling * neighbours + field))
                    step[state, (2 * state + bit) % states] = weight
            steps[above, left] = step
    transition = [steps[site >= columns, site % columns > 0] for site in range(1, tokens)]
    return HiddenMarkov.from_potentials(
        initial,
        torch.stack(transition) if transition else torch.zeros(0, states, states).double(),
        emission,
        tokens=tokens,
        grid=(rows, columns),
        provenance=Provenance(
            description=f"Ising model on {rows} x {columns} sites, coupling {coupling:g}, "
            f"field {field:g}"
        ),
    )


def _emits(symbols: list[int]) -> Tensor:
    """Emission table (S, 2) of states that each show one symbol."""
    return torch.nn.functional.one_hot(torch.tensor(symbols), 2).double()
