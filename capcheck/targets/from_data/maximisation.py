"""Expectation-maximisation: fits laws of token ids with a hidden class or a hidden path of states.

Each round computes the posterior of the hidden variable of every row under the current law, and
counts symbols with these weights: p(v) = (sum_r P(hidden | x_r) [v seen] + prior) / total. The
penalised log-likelihood never falls. A single start can lie near a saddle, such as independent
tokens, so only the best of several starts is continued.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from capcheck.targets.categorical.categorical_mixture import CategoricalMixture
from capcheck.targets.categorical.chain import TILE
from capcheck.targets.categorical.hidden_markov import HiddenMarkov
from capcheck.targets.parameters import Grid

__all__ = [
    "CONVERGED",
    "PRIOR",
    "ROUNDS",
    "STARTS",
    "WARM",
    "ModelT",
    "StateT",
    "Tables",
    "baum_welch",
    "hidden_states",
    "latent_classes",
    "maximised",
    "random_tables",
]

ROUNDS = 60  # most rounds after the best start is known
STARTS = 4  # number of random starts
WARM = 20  # rounds of each start before the best one is chosen
CONVERGED = 1e-5  # gain in nats per token below which rounds stop
PRIOR = 1.0  # pseudo-counts per class or state, distributed like the marginal law

ModelT = TypeVar("ModelT")
StateT = TypeVar("StateT")
Tables = tuple[Tensor, Tensor, Tensor]


def latent_classes(
    x: Tensor, size: int, prior: Tensor, *, seed: int, grid: Grid
) -> CategoricalMixture:
    """A mixture of `size` products of categorical laws.

    Args:
        x: (n, N) token ids.
        size: Number of classes.
        prior: (N, V) law that the pseudo-counts of each class are spread like.
        seed: Seed of the starts.
        grid: (rows, columns) of the tokens, if they have any.
    """
    (n, N), V = x.shape, prior.shape[1]

    def start(generator: torch.Generator) -> Tensor:
        shares = torch.rand(n, size, generator=generator, dtype=torch.float64)
        return (4 * shares).softmax(1)

    def improve(shares: Tensor) -> tuple[CategoricalMixture, float, Tensor]:
        counts = PRIOR * prior.expand(size, N, V).clone()
        for i in range(N):
            counts[:, i].index_add_(1, x[:, i], shares.T)
        p = _laws(counts)
        weights = shares.mean(0)
        log_joint = weights.log() + sum(p[:, i].log().T[x[:, i]] for i in range(N))
        model = CategoricalMixture(p, weights, grid=grid)
        return model, float(log_joint.logsumexp(1).mean()) / N, log_joint.softmax(1)

    return _from_several_starts(start, improve, size=size, seed=seed)


def hidden_states(x: Tensor, size: int, prior: Tensor, *, seed: int, grid: Grid) -> HiddenMarkov:
    """A homogeneous hidden Markov model of `size` states.

    Args:
        x: (n, N) token ids.
        size: Number of states.
        prior: (V,) law that the pseudo-counts of each state are spread like.
        seed: Seed of the starts.
        grid: (rows, columns) of the tokens, if they have any.
    """

    def start(generator: torch.Generator) -> Tables:
        return random_tables(size, prior, generator)

    improve = baum_welch(x, size, prior, weight=PRIOR, grid=grid)
    return _from_several_starts(start, improve, size=size, seed=seed)


def random_tables(size: int, prior: Tensor, generator: torch.Generator) -> Tables:
    """A random start for `size` states that show symbols like the law `prior`, (V,)."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).exp()

    emission = _laws(prior * draw(size, len(prior)))
    return _laws(draw(size)), _laws(draw(size, size)), emission


def baum_welch(
    x: Tensor,
    size: int,
    prior: Tensor,
    *,
    weight: float,
    grid: Grid = None,
    held: int = TILE,
) -> Callable[[Tables], tuple[HiddenMarkov, float, Tables]]:
    """The function that makes one round of Baum and Welch's algorithm, as `maximised` takes it.

    Args:
        x: (n, N) token ids.
        size: Number of states.
        prior: (V,) law that the pseudo-counts of each state are spread like.
        weight: Pseudo-counts of each state.
        grid: (rows, columns) of the tokens, if they have any.
        held: Most numbers of the messages that are held at once.
    """

    def improve(tables: Tables) -> tuple[HiddenMarkov, float, Tables]:
        model = HiddenMarkov(*tables, tokens=x.shape[1], grid=grid)
        counts = weight * prior[:, None].repeat(1, size)  # (V, S)
        log_p, initial, transition = model.expected_counts(x, counts, held)
        initial, transition = _laws(initial + PRIOR / size), _laws(transition + PRIOR / size)
        return model, log_p / x.numel(), (initial, transition, _laws(counts.T))

    return improve


def _from_several_starts(
    start: Callable[[torch.Generator], StateT],
    improve: Callable[[StateT], tuple[ModelT, float, StateT]],
    *,
    size: int,
    seed: int,
) -> ModelT:
    return maximised(
        start,
        improve,
        seed=seed,
        starts=STARTS if size > 1 else 1,
        warm=WARM,
        rounds=ROUNDS,
        converged=CONVERGED,
    )


def maximised(
    start: Callable[[torch.Generator], StateT],
    improve: Callable[[StateT], tuple[ModelT, float, StateT]],
    *,
    seed: int,
    starts: int,
    warm: int,
    rounds: int,
    converged: float,
) -> ModelT:
    """The model that expectation-maximisation reaches from the best of several starts.

    Args:
        start: Function that draws a start.
        improve: One round: returns the model of a state, its log-likelihood, and the next state.
        seed: Seed of the starts.
        starts: Number of starts.
        warm: Rounds of each start before the best one is chosen.
        rounds: Most rounds after that.
        converged: Gain of the log-likelihood below which rounds stop.
    """
    generator = torch.Generator().manual_seed(seed)
    best_state, best_gain = start(generator), -np.inf
    for attempt in range(starts if starts > 1 else 0):
        state = start(generator) if attempt else best_state
        for _ in range(warm):
            _, gain, state = improve(state)
        if gain > best_gain:
            best_state, best_gain = state, gain
    before = -np.inf
    for _ in range(rounds):
        model, gain, best_state = improve(best_state)
        if gain - before < converged:
            break
        before = gain
    return model


def _laws(counts: Tensor) -> Tensor:
    return counts / counts.sum(-1, keepdim=True)
