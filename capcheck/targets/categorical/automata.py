"""Constraint sets and Ising strips as chains of small states, exact at any length.

A constraint set is a product of potentials along a hidden Markov chain whose state includes the
latest symbol. An Ising strip is a Markov chain whose state is the frontier of visited sites.
"""

from __future__ import annotations

import torch
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.targets.categorical.hidden_markov import HiddenMarkov
from capcheck.targets.categorical.markov_chain import MarkovChain
from capcheck.targets.provenance import Provenance

__all__ = ["WIDEST", "balanced_brackets", "even_parity", "ising"]

WIDEST = 8  # most columns of an Ising strip: a table of 512 numbers per site


def even_parity(tokens: int, *, ones: float = 0.5) -> HiddenMarkov:
    """Independent bits, each 1 with probability `ones`, conditioned on an even number of ones.

    The state is (parity so far, latest bit), numbered 2 parity + bit. With `ones` = 1/2 all strings
    of even parity are equally likely.

    Raises:
        InputError: The probability is not strictly between 0 and 1.
    """
    if not 0 < ones < 1:
        raise InputError(f"parity.ones must be between 0 and 1, got {ones:g}.")
    initial, transition = torch.zeros(4).double(), torch.zeros(4, 4).double()
    for bit, weight in ((0, 1 - ones), (1, ones)):
        initial[3 * bit] = weight
        for state in range(4):
            transition[state, 2 * ((state // 2) ^ bit) + bit] = weight
    emission = _emits([state % 2 for state in range(4)]).repeat(tokens, 1, 1)
    emission[-1, 2:] = 0  # the last parity is even
    law = "uniform over" if ones == 0.5 else f"each 1 with probability {ones:g}, given"
    return HiddenMarkov.from_potentials(
        initial,
        transition,
        emission,
        tokens=tokens,
        provenance=Provenance(description=f"{tokens} bits, {law} even parity"),
    )


def balanced_brackets(tokens: int) -> HiddenMarkov:
    """The uniform law over balanced strings of opening (0) and closing (1) brackets.

    The state is (depth, latest symbol), numbered 2 depth + symbol.

    Raises:
        InputError: The number of tokens is odd or below 2.
    """
    if tokens % 2 or tokens < 2:
        raise InputError(f"brackets.tokens must be even and at least 2, got {tokens}.")
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


def ising(rows: int, columns: int, coupling: float, field: float) -> MarkovChain:
    """The Ising model p(x) ~ exp(coupling sum over neighbours s s' + field sum s), s = 2 x - 1.

    Sites are visited in row-major order. The last `columns` spins are the frontier between visited
    and later sites, so the law is a Markov chain of that order. With the weight w_i of site i's
    field and of its bonds to earlier sites, and the summed weight R_i of all sites after i,

        p(x_i | frontier) ~ w_i R_i,    R_{i-1} = sum over x_i of w_i R_i.

    Raises:
        InputError: There are more than `WIDEST` columns.
    """
    if columns > WIDEST:
        raise InputError(
            f"ising.columns must be at most {WIDEST}, got {columns}; "
            "lay the strip along the rows, which may be any number."
        )
    tokens = rows * columns
    order = min(columns, tokens - 1)
    log_R = torch.zeros((2,) * order if order else (2,)).double()
    tables = []
    for site in reversed(range(tokens)):
        log_w = _log_weight(min(site, order), site, columns, coupling, field)
        joint = log_w + log_R
        tables.append(joint.softmax(-1))
        log_R = joint.logsumexp(-1)
    return MarkovChain(
        tables[::-1],
        tokens=tokens,
        grid=(rows, columns),
        provenance=Provenance(
            description=f"Ising model on {rows} x {columns} sites, coupling {coupling:g}, "
            f"field {field:g}"
        ),
    )


def _log_weight(past: int, site: int, columns: int, coupling: float, field: float) -> Tensor:
    """Log-weight of a site's field and of its bonds with earlier sites, (2,) * (past + 1)."""
    spin = torch.tensor([-1.0, 1.0]).double()  # the site's own is the last dimension
    total = (field * spin).expand((2,) * (past + 1))
    if site % columns > 0:
        total = total + coupling * spin[:, None] * spin
    if site >= columns:
        total = total + coupling * spin.reshape(2, *[1] * columns) * spin
    return total


def _emits(symbols: list[int], size: int = 2) -> Tensor:
    """Emission table (S, size) of states that each show one symbol."""
    return torch.nn.functional.one_hot(torch.tensor(symbols), size).double()
