"""Posteriors over the rows of a data set, from the rows that share symbols with the known tokens.

A known token raises the log-evidence of the rows that have its symbol there, and changes that of
all others by the same amount. Only the former are visited. Procedures that place one token after
another ask again with more known tokens; the evidence of the earlier ones is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from capcheck.core.log_sums import log_sum_exp
from capcheck.core.tiles import slices, tile_size
from capcheck.targets.categorical.categorical_components import SmoothedRows

__all__ = ["HELD", "TILE", "SparseEvidence"]

TILE = 1 << 20  # most numbers of an intermediate result
HELD = 1 << 25  # most numbers, rows x components, that are kept: 256 MiB


class SparseEvidence:
    """The posterior over smoothed rows of data given known tokens.

    Args:
        components: The rows, with positive smoothing.
        weights: Normalised weights of the rows, (K,), all positive.
    """

    def __init__(self, components: SmoothedRows, weights: Tensor) -> None:
        self._components = components
        self._log_weights = weights.log()
        self._seen: tuple[Tensor, Tensor] | None = None  # tokens and known of the last call
        self._held: Tensor | None = None  # their log-evidence, (n, K)

    def log_sum(self, x: Tensor, known: Tensor, floor: float) -> Tensor:
        """Log of the summed evidence of the known tokens, (n,), over floor + (1 - floor) p."""
        total = self._log_weights.new_empty(len(x))
        for rows in self._tiles(len(x)):
            logits = self._prior(len(x[rows]))
            self._components.add_evidence(logits, x[rows], known[rows], floor)
            total[rows] = log_sum_exp(logits)
        return total

    def average(self, x: Tensor, known: Tensor, tokens: list[int]) -> Tensor:
        """The laws of some tokens given the known ones: (n, S, V)."""
        held = self._grown(x, known)
        average = self._log_weights.new_empty(len(x), len(tokens), self._components.vocabulary)
        for rows in self._tiles(len(x)):
            if held is not None:
                logits = held[rows]
            else:
                logits = self._prior(len(x[rows]))
                self._components.add_evidence(logits, x[rows], known[rows])
            average[rows] = self._components.average(logits.softmax(1), tokens)
        return average

    def causal_average(self, x: Tensor, known: Tensor, tokens: list[int]) -> Tensor:
        """The laws of some tokens given the known ones before each: (n, S, V)."""
        average = self._log_weights.new_empty(len(x), len(tokens), self._components.vocabulary)
        for rows in self._tiles(len(x)):
            logits = self._prior(len(x[rows]))
            added = torch.zeros_like(known[rows])
            for column in sorted(range(len(tokens)), key=tokens.__getitem__):
                before = known[rows].clone()
                before[:, tokens[column] :] = False
                self._components.add_evidence(logits, x[rows], before & ~added)
                added |= before
                share = logits.softmax(1)
                average[rows, column] = self._components.average(share, [tokens[column]])[:, 0]
        return average

    def _grown(self, x: Tensor, known: Tensor) -> Tensor | None:
        """The log-evidence of the known tokens, (n, K), or None if it is too large to be held."""
        n, K = len(x), len(self._log_weights)
        if n * K > HELD:
            return None
        seen = self._seen
        if self._held is None or len(self._held) != n:
            self._held = seen = None  # the old one is freed first
            self._held = self._prior(n)
        elif seen is None or bool((seen[1] & (~known | (seen[0] != x))).any()):
            self._held.copy_(self._log_weights)
            seen = None
        new = known if seen is None else known & ~seen[1]
        for rows in self._tiles(n):
            self._components.add_evidence(self._held[rows], x[rows], new[rows])
        self._seen = x.clone(), known.clone()
        return self._held

    def _prior(self, n: int) -> Tensor:
        return self._log_weights.repeat(n, 1)

    def _tiles(self, n: int) -> list[slice]:
        size = max(1, tile_size(TILE, self._log_weights.device) // len(self._log_weights))
        return list(slices(n, size))
