"""Measures the quality of the draws of models of one target of token ids.

What the target alone decides is computed once. Figures that need the target's laws of tokens given
others take them of some rows only, as many as cost little time.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.diagnostics.accuracy import accuracies, right_tokens
from capcheck.diagnostics.classifier import binomial_interval
from capcheck.diagnostics.dependence import Dependence, Pairs, dependence_of, distances, pairs_of
from capcheck.diagnostics.figure import Figure, Mean
from capcheck.diagnostics.quality import Quality
from capcheck.diagnostics.temperature import temperature
from capcheck.diagnostics.transitions import transition_figure
from capcheck.targets.categorical.categorical_mixture import CategoricalMixture
from capcheck.targets.categorical.chain import Chain
from capcheck.targets.categorical.markov_chain import MarkovChain
from capcheck.targets.target import CategoricalTarget, Target, require_one_law

__all__ = [
    "ENTRY",
    "FEWEST",
    "NUMBERS",
    "OWN",
    "ROWS",
    "SHOWN",
    "TABLES",
    "WORK",
    "Qualities",
    "conditional_work",
    "quality",
    "unigram_entropies",
]

ROWS = 200  # most rows whose laws of all tokens are computed
SHOWN = 1024  # most tokens that are shown to the target, one at a time, for its pairs
OWN = 4  # times as many in the target's own draws
NUMBERS = 1 << 26  # most probabilities of all tokens of such rows, of chains
TABLES = 1 << 22  # the same of other laws, which write all of them down
WORK = 5e9  # most multiply-adds of their conditionals: some tenths of a second
ENTRY = 23.0  # time of an entry of a component's table, in those of a large matrix product
FEWEST = 8  # rows below which nothing is computed from conditionals
ONE_SIDED = Figure(method="the target has left-to-right conditionals only")


class Qualities:
    """Measures the draws of models of one target; what the target alone decides is kept.

    Args:
        target: The target.
        draws: Draws of the target that models' draws are compared with, (m, N) integers.
        level: Confidence of the intervals.
        given: Indices of tokens that are known from the start and are not drawn.

    Raises:
        InputError: The target's tokens are numbers, there are fewer than two draws, or they do not
            have its shape and range.
        UnfitError: Each row has a law of its own.
    """

    def __init__(
        self, target: Target, draws: Tensor, *, level: float, given: Sequence[int] = ()
    ) -> None:
        if not isinstance(target, CategoricalTarget):
            raise InputError(
                "quality.target must have token ids, got continuous tokens; leave quality out."
            )
        require_one_law(target, "quality.target")
        self._target, self._level = target, level
        self._given = tuple(given)
        self._free = [i for i in range(target.spec.tokens) if i not in self._given]
        self._draws = draws
        self._log_prob = self._log_prob_of(draws)

    def of(self, samples: Tensor, log_prob: Tensor | None = None) -> Quality:
        """The quality of a model's draws.

        Args:
            samples: Draws of the model, (n, N) integers with n at least 2.
            log_prob: Their log-probabilities under the target, (n,), in nats, if they are known.

        Raises:
            InputError: There are fewer than two draws, or they do not have the target's shape.
        """
        if log_prob is None:
            log_prob = self._log_prob_of(samples)
        possible = ~log_prob.isneginf()
        accuracy, token_accuracy = self._accuracies(samples)
        return Quality(
            level=self._level,
            valid=self._valid(int(possible.sum()), len(samples)),
            perplexity=self._perplexity(log_prob[possible], len(samples)),
            unigram_entropy=self._unigram_entropy(samples),
            temperature=self._temperature(samples[possible]),
            transition_kl=transition_figure(self._target, samples, self._draws, level=self._level),
            accuracy=accuracy,
            token_accuracy=token_accuracy,
            dependence=self._dependence(samples),
        )

    def _log_prob_of(self, x: Tensor) -> Tensor:
        if len(x) < 2:
            raise InputError(f"quality.samples must be at least 2 draws, got {len(x)}; draw more.")
        return self._target.log_prob(x).double()

    def _rows(self, most: int) -> int:
        """Number of rows whose conditionals are computed, at most `most`; 0 if they cost a lot."""
        spec, cost = self._target.spec, self._cost
        affordable = int(WORK / cost) if cost else most
        if affordable < FEWEST:
            return 0
        numbers = NUMBERS if isinstance(self._target, Chain) else TABLES
        return max(FEWEST, min(most, affordable, numbers // (spec.tokens * spec.dim)))

    @functools.cached_property
    def _cost(self) -> float:
        return conditional_work(self._target)

    def _valid(self, valid: int, rows: int) -> Figure:
        low, high = binomial_interval(valid, rows, level=self._level)
        method = "share of draws of positive probability, Clopper and Pearson's interval"
        return Figure(value=valid / rows, low=low, high=high, target=1.0, rows=rows, method=method)

    def _perplexity(self, log_prob: Tensor, rows: int) -> Figure:
        N = self._target.spec.tokens
        ours, theirs = Mean.of(-log_prob / N), Mean.of(-self._log_prob / N)
        if ours is None or theirs is None:
            return Figure(method="fewer than two draws can occur in the target")
        method = "exp of the mean of -log p(x) / N, t interval of the mean"
        if len(log_prob) < rows:
            method += f"; of the {len(log_prob)} draws that can occur, with the others infinite"
        return ours.beside(theirs, level=self._level, method=method, scale=math.exp)

    def _unigram_entropy(self, samples: Tensor) -> Figure:
        ours, theirs = Mean.of(unigram_entropies(samples)), self._own_entropy
        if ours is None or theirs is None:
            return Figure(method="fewer than two draws")
        method = "entropy of the symbols of one draw, mean over draws, t interval"
        return ours.beside(theirs, level=self._level, method=method)

    @functools.cached_property
    def _own_entropy(self) -> Mean | None:
        return Mean.of(unigram_entropies(self._draws))

    def _temperature(self, possible: Tensor) -> Figure:
        rows = self._rows(ROWS)
        if not rows:
            return self._costly
        return temperature(self._target, possible[:rows], free=self._free, level=self._level)

    def _dependence(self, samples: Tensor) -> tuple[Dependence, ...]:
        shown, tokens = self._rows(SHOWN), self._target.spec.tokens
        if not shown or self._target.left_to_right:
            missing = self._costly if not shown else ONE_SIDED
            return tuple(
                Dependence(distance=d, information=missing, kept=missing) for d in distances(tokens)
            )
        ours = pairs_of(self._target, samples, shown=shown)
        return tuple(dependence_of(ours, self._own_pairs, tokens=tokens, level=self._level))

    @functools.cached_property
    def _own_pairs(self) -> list[Pairs]:
        # Made once, and more precisely than those of any model.
        return pairs_of(self._target, self._draws, shown=OWN * self._rows(SHOWN))

    @property
    def _costly(self) -> Figure:
        return Figure(method=f"the target's conditionals of {FEWEST} rows take too long")

    def _accuracies(self, samples: Tensor) -> tuple[Figure, Figure]:
        """The accuracy of sequences and that of tokens."""
        missing = Figure(method="the given tokens leave more than one sequence possible")
        rows = self._rows(ROWS)
        if not self._given:
            missing = Figure(method="no tokens are given")
        elif self._target.left_to_right:
            missing = ONE_SIDED
        elif not rows:
            missing = self._costly
        elif self._decided and (right := self._right(samples)) is not None:
            return accuracies(right, level=self._level)
        return missing, missing

    @functools.cached_property
    def _decided(self) -> bool:
        """Whether the given tokens of the target's draws leave one sequence possible."""
        right = self._right(self._draws)
        return right is not None and bool(right.all())

    def _right(self, x: Tensor) -> Tensor | None:
        return right_tokens(self._target, x[: self._rows(ROWS)], self._free)


def quality(
    target: Target,
    samples: Tensor,
    draws: Tensor,
    *,
    level: float = 0.95,
    given: Sequence[int] = (),
) -> Quality:
    """The quality of a model's draws of token ids; see `Qualities`.

    Args:
        target: The target.
        samples: Draws of the model, (n, N) integers.
        draws: Draws of the target, (m, N) integers.
        level: Confidence of the intervals.
        given: Indices of tokens that are known from the start and are not drawn.
    """
    return Qualities(target, draws, level=level, given=given).of(samples)


def unigram_entropies(x: Tensor) -> Tensor:
    """The entropy of the symbols of every row of x (n, N), in nats: (n,).

    With c_i the number of tokens of the row that equal token i, it is -sum_i log(c_i / N) / N.
    """
    ranked = x.sort(1).values.contiguous()
    ends = [torch.searchsorted(ranked, ranked, right=right) for right in (False, True)]
    return -((ends[1] - ends[0]).double() / x.shape[1]).log().mean(1)


def conditional_work(target: CategoricalTarget) -> float:
    """Multiply-adds of the laws of all tokens of one row, also where they are so few as to be 0."""
    if isinstance(target, MarkovChain) and any(bool((p <= 0).any()) for p in target.conditionals):
        return target.noisy_cost  # of every order, as the recursions run on logarithms
    if isinstance(target, CategoricalMixture):
        tables = ENTRY * len(target.weights) * target.spec.mean.numel()
        return max(target.conditional_cost, tables)
    return target.conditional_cost
