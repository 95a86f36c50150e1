"""Categorical laws of which only the chosen tokens are computed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from capcheck.core.randomness import Randomness
from capcheck.laws.categorical import Categorical, DeferredCategorical

__all__ = ["ChosenLaws"]


class ChosenLaws(DeferredCategorical):
    """The laws of all tokens of every row, computed of the chosen ones only where these suffice.

    Args:
        of: Function from the chosen tokens, (n, N) bool, to their laws, (m, V).
        known: Which tokens are known, (n, N) bool.
        symbols: Number V of symbols.
    """

    def __init__(self, of: Callable[[Tensor], Tensor], known: Tensor, symbols: int) -> None:
        def make(tokens: list[int]) -> Categorical:
            columns = sorted(set(tokens))
            chosen = torch.zeros_like(known)
            chosen[:, columns] = True
            laws = of(chosen).reshape(len(known), len(columns), symbols)
            return Categorical(laws[:, [columns.index(token) for token in tokens]].log())

        super().__init__(make, range(known.shape[1]))
        self._of_chosen, self._symbols = of, symbols

    def _held(self) -> bool:
        return "_law" in self.__dict__

    def sample_where(self, rng: Randomness, chosen: Tensor) -> Tensor:
        """As `sample` where `chosen`, (n, N) bool, with the same random numbers."""
        if self._held():
            return super().sample_where(rng, chosen)
        return rng.categorical_where(self._of_chosen(chosen), chosen)

    def probabilities_where(self, chosen: Tensor) -> Tensor:
        """Probabilities (m, V) of the m tokens that are `chosen`, (n, N) bool."""
        return self._law.mean()[chosen] if self._held() else self._of_chosen(chosen)

    def log_prob_where(self, x: Tensor, chosen: Tensor) -> Tensor:
        """As `log_prob` where `chosen`, (n, N) bool, and 0 elsewhere."""
        if self._held():
            return super().log_prob_where(x, chosen)
        p = self._of_chosen(chosen)
        found = p.new_zeros(x.shape)
        found[chosen] = p.gather(-1, x[chosen][:, None])[:, 0].log()
        return found
