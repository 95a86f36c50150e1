"""Networks that are legal and no oracles, and the laws that procedures sample with them."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from reference.groups import probability

from capcheck.core.budget import Budget
from capcheck.core.randomness import Randomness
from capcheck.exact.enumeration import Route, enumerated_law
from capcheck.laws import Categorical, TokenLaw
from capcheck.procedures.probe import State
from capcheck.procedures.procedure import Procedure
from capcheck.targets.categorical.sequence_law import SequenceLaw

Array = NDArray[np.float64]


class TablePredictor:
    """Token predictor that knows a table, and says symbol 0 of every token that it is shown.

    Args:
        p: (V, .., V) with N axes, all entries positive.
        causal: Every token is predicted from the known ones before it, known or not.
    """

    def __init__(self, p: Array, *, causal: bool = False) -> None:
        self._p, self._causal = p, causal

    def __call__(self, tokens: torch.Tensor, known: torch.Tensor, /) -> TokenLaw:
        V, N = self._p.shape[0], self._p.ndim
        laws = np.zeros((len(tokens), N, V))
        for row, (x, k) in enumerate(zip(tokens.tolist(), known.tolist(), strict=True)):
            for i in range(N):
                shown = [j for j in range(N) if k[j] and (j < i or not self._causal)]
                laws[row, i] = self._law(tuple(x), i, tuple(shown))
        return Categorical(torch.tensor(laws).log())

    @functools.lru_cache(maxsize=4096)  # noqa: B019
    def _law(self, x: tuple[int, ...], i: int, shown: tuple[int, ...]) -> list[float]:
        V = self._p.shape[0]
        if i in shown:
            return [1.0] + [0.0] * (V - 1)
        return [probability(self._p, [*x[:i], v, *x[i + 1 :]], [i], shown) for v in range(V)]


def law_of(procedure: Procedure[Any], budget: Budget, route: Route | None = None) -> Array:
    """The law that a procedure samples, (V, .., V), by enumeration: by one route, or any."""
    spec = procedure.spec
    found = enumerated_law(
        functools.partial(procedure.sample, budget),
        functools.partial(procedure.log_density, budget),
        spec,
        name=procedure.probe.family,
        routes=("density", "branching") if route is None else (route,),
    )
    assert isinstance(found, SequenceLaw), found
    law: Array = found.probabilities.numpy().reshape((spec.dim,) * spec.tokens)
    return law


def table(N: int, V: int, seed: int = 0) -> Array:
    """A joint table of dependent tokens, all of whose entries are positive."""
    weights = np.random.default_rng(seed).exponential(size=(V,) * N) ** 2
    p: Array = weights / weights.sum()
    return p


def law_of_run(procedure: Procedure[Any], budget: Budget, p: Array) -> Array:
    """The law that `run` makes, (V, .., V), by branching from every value of the given tokens.

    Args:
        procedure: What is run.
        budget: What it may spend.
        p: The target's table, of which the given tokens are drawn.
    """
    spec, given, total = procedure.spec, list(procedure.spec.given), np.zeros_like(p)
    for values in itertools.product(range(spec.dim), repeat=len(given)):
        x = torch.zeros(1, spec.tokens, dtype=torch.int64)
        x[0, given] = torch.tensor(values, dtype=torch.int64)

        def sample(n: int, rng: Randomness, x: torch.Tensor = x) -> torch.Tensor:
            start = State.blank(spec, n).giving(x.expand(n, -1), given)
            *_, last = procedure.probe.run(procedure.network, spec, budget, start, rng)
            return procedure.completed(last, rng)

        density = functools.partial(procedure.log_density, budget)
        name = procedure.probe.family
        found = enumerated_law(sample, density, spec, name=name, routes=("branching",))
        assert isinstance(found, SequenceLaw), found
        weight = probability(p, x[0].tolist(), given)
        total += weight * found.probabilities.numpy().reshape(p.shape)
    return total
