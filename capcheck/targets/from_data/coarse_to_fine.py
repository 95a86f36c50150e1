"""Hidden Markov models of many symbols, fitted from coarse to fine.

EM that starts from laws of tens of thousands of rare symbols keeps the accidents of its start. It
therefore starts with few rows and the most frequent symbols, where all others are one symbol, and
goes on with four times as many tokens and symbols, from

    emission(s, v) = emission(s, c) p(v) / p(c)    for a symbol v that was part of a symbol c,

up to all of them. The pseudo-counts of a state are those of Witten & Bell, its share of the number
K of different symbols: emission(s, v) = (count(s, v) + K / S p(v)) / (count(s) + K / S).
"""

from __future__ import annotations

import torch
from torch import Tensor

from capcheck.targets.categorical.hidden_markov import HiddenMarkov
from capcheck.targets.from_data.maximisation import (
    PRIOR,
    ROUNDS,
    STARTS,
    Tables,
    baum_welch,
    maximised,
    random_tables,
)
from capcheck.targets.parameters import Grid

__all__ = [
    "CACHED",
    "CONVERGED",
    "LEAST",
    "RUNGS",
    "TOKENS",
    "WARM",
    "coarse_to_fine",
    "pooled_law",
]

RUNGS = ((1 << 16, 1 << 8), (1 << 18, 1 << 10), (1 << 20, 1 << 12))  # tokens and symbols
WARM = 10  # rounds of each start before the best one is chosen
TOKENS = 1 << 21  # tokens of all rounds of a rung together, which limit their number
LEAST = 3  # rounds over all tokens, however many there are
CACHED = 1 << 19  # numbers of the messages that are held at once, which a cache holds
CONVERGED = 1e-3  # gain in nats per token below which rounds stop


def coarse_to_fine(
    x: Tensor,
    size: int,
    vocabulary: int,
    *,
    seed: int,
    grid: Grid,
    start: HiddenMarkov | None = None,
) -> HiddenMarkov:
    """A homogeneous hidden Markov model of `size` states over many symbols.

    Args:
        x: (n, N) token ids.
        size: Number S of states.
        vocabulary: V.
        seed: Seed of the starts.
        grid: (rows, columns) of the tokens, if they have any.
        start: A model of the same size to go on from, with all rows at once.
    """
    law, n = pooled_law(x, vocabulary), len(x)
    tables = None if start is None else start.tables
    for tokens, symbols in () if start is not None else RUNGS:
        if symbols < vocabulary:
            part = x[:: max(1, n * x.shape[1] // tokens)]
            tables = _rung(part, size, _merged(law, symbols), law, tables, seed=seed).tables
    every = torch.arange(vocabulary)
    return _rung(x, size, every, law, tables, seed=seed, grid=grid)


def pooled_law(x: Tensor, vocabulary: int) -> Tensor:
    """The law of all tokens of the rows x together, (V,), smoothed as Witten and Bell do it."""
    counts = x.reshape(-1).bincount(minlength=vocabulary).double()
    kinds = int((counts > 0).sum())
    law: Tensor = (counts + kinds / vocabulary) / (counts.sum() + kinds)
    return law


def _merged(law: Tensor, symbols: int) -> Tensor:
    """The new id of each symbol, (V,): 0, 1, .. by frequency; from `symbols` on all have one."""
    rank = torch.empty(len(law), dtype=torch.int64)
    rank[law.argsort(descending=True, stable=True)] = torch.arange(len(law))
    return rank.clamp(max=symbols)


def _rung(
    x: Tensor,
    size: int,
    merged: Tensor,
    law: Tensor,
    tables: Tables | None,
    *,
    seed: int,
    grid: Grid = None,
) -> HiddenMarkov:
    """The model of all symbols that rounds over merged symbols reach from tables of all symbols.

    Args:
        x: (n, N) token ids.
        size: Number S of states.
        merged: The new id of each symbol, (V,).
        law: The law of all tokens, (V,).
        tables: Laws of the first state (S,), the next state (S, S) and the symbol (S, V); several
            random starts are tried if None.
        seed: Seed of the starts.
        grid: (rows, columns) of the tokens, if they have any.
    """
    coarse = law.new_zeros(int(merged.max()) + 1).index_add(0, merged, law)  # (C,)
    seen = int((x.reshape(-1).bincount(minlength=len(law)) > 0).sum())
    weight = max(PRIOR, min(seen, len(coarse)) / size)
    found = maximised(
        lambda generator: (
            random_tables(size, coarse, generator)
            if tables is None
            else (*tables[:2], coarse.new_zeros(size, len(coarse)).index_add(1, merged, tables[2]))
        ),
        baum_welch(merged[x], size, coarse, weight=weight, held=CACHED),
        seed=seed,
        starts=STARTS if tables is None and size > 1 else 1,
        warm=WARM,
        rounds=min(ROUNDS, max(LEAST, TOKENS // x.numel())),
        converged=CONVERGED,
    )
    initial, transition, emission = found.tables
    spread = emission[:, merged] * (law / coarse[merged])
    return HiddenMarkov(initial, transition, spread, tokens=x.shape[1], grid=grid)
