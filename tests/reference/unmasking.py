"""Exact laws of decoders that unmask tokens in parallel, by enumeration of partly masked sequences.

A decoder begins with masked tokens only. A step ranks the masked tokens of the current block by
their conditional laws p(x_i | known tokens), takes the first few, and gives them values drawn
independently of each other. A state is a tuple of values in which MASK stands for a masked token;
the law of the states after a step is the sum over the states before it, over their rankings (all
orders, or all drafts), and over the values drawn:

    P(y) = sum over x of P(x) sum over rankings R of P(R | x) prod over placed i of q(y_i | x).

Everything is a loop over a joint table of few tokens: nothing is vectorised and nothing sampled.

Source of the adaptive rules: Fast-dLLM, https://arxiv.org/abs/2505.22618 (threshold, factor), and
EB-sampler, https://arxiv.org/abs/2505.24857 (entropy bound); of the cosine schedule: MaskGIT,
https://arxiv.org/abs/2202.04200.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
State = tuple[int, ...]
Laws = dict[int, list[float]]

MASK = -1
TIE = 1e-9  # two scores, or a score and its bound, that differ by less are equal


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """The rules of a decoder: which tokens, how many, and which values."""

    order: str
    steps: int = 1
    """The steps of a block: those of the schedule, and the most of an adaptive rule."""
    schedule: str = "uniform"
    tokens_per_step: int | None = None
    threshold: float | None = None
    factor: float | None = None
    entropy_bound: float | None = None
    block: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    greedy: bool = False


def conditional(p: Array, state: State, i: int) -> list[float]:
    """p(x_i | known values), or p(x_i) where the known values have probability 0."""
    seen = p[tuple(slice(None) if value == MASK else slice(value, value + 1) for value in state)]
    if seen.sum() <= 0:
        seen = p
    mass = [float(seen.take(v, axis=i).sum()) for v in range(p.shape[i])]
    return [m / sum(mass) for m in mass]


def shaped(law: Sequence[float], decoder: Decoder) -> list[float]:
    """The law that values are drawn from: p^(1/T), then cut to top_p, or all on the best value."""
    by_probability = first_ties_left(list(law))
    if decoder.greedy:
        return [float(v == by_probability[0]) for v in range(len(law))]
    powers = [p ** (1 / decoder.temperature) if p > 0 else 0.0 for p in law]
    weights = [w / sum(powers) for w in powers]
    kept: list[int] = []
    for v in by_probability:
        if sum(weights[k] for k in kept) < decoder.top_p - TIE:
            kept.append(v)
    mass = sum(weights[v] for v in kept)
    return [weights[v] / mass if v in kept else 0.0 for v in range(len(law))]


def first_ties_left(scores: Sequence[float]) -> list[int]:
    """The places of the scores, largest first; of equal ones the left one first."""
    left, ranked = list(range(len(scores))), []
    while left:
        best = max(scores[i] for i in left)
        ranked.append(next(i for i in left if scores[i] >= best - TIE))
        left.remove(ranked[-1])
    return ranked


def entropy(law: Sequence[float]) -> float:
    """H(p) in nats."""
    return -sum(p * math.log(p) for p in law if p > 0)


def score(order: str, law: Sequence[float]) -> float:
    """The number by which an order ranks a token, the largest first."""
    first, second = sorted(law, reverse=True)[:2]
    return {
        "fixed": 0.0,
        "top_probability": first,
        "margin": first - second,
        "entropy": -entropy(law),
    }[order]


def rankings(decoder: Decoder, laws: Laws) -> Iterator[tuple[float, list[int], dict[int, int]]]:
    """(probability, masked tokens by rank, values drawn for the ranking) of every ranking."""
    masked = sorted(laws)
    if decoder.order == "random":
        orders = list(itertools.permutations(masked))
        for order in orders:
            yield 1 / len(orders), list(order), {}
    elif decoder.order == "sampled_confidence":
        q = {i: shaped(laws[i], decoder) for i in masked}
        for draft in itertools.product(*(range(len(laws[i])) for i in masked)):
            weight = math.prod(q[i][v] for i, v in zip(masked, draft, strict=True))
            if weight > 0:
                confidence = [laws[i][v] for i, v in zip(masked, draft, strict=True)]
                ranked = [masked[k] for k in first_ties_left(confidence)]
                yield weight, ranked, dict(zip(masked, draft, strict=True))
    else:
        scores = [score(decoder.order, laws[i]) for i in masked]
        yield 1.0, [masked[k] for k in first_ties_left(scores)], {}


def schedule(decoder: Decoder, tokens: int) -> list[int]:
    """How many of a block's tokens are placed by each step of a schedule."""
    K = min(decoder.steps, tokens)
    if decoder.schedule == "uniform":
        known = [math.floor(j * tokens / K + 0.5) for j in range(K + 1)]
        return [b - a for a, b in itertools.pairwise(known)]
    masked = [tokens]
    for r in range(1, K + 1):
        masked.append(
            min(math.floor(tokens * math.cos(math.pi * r / (2 * K)) + TIE), masked[-1] - 1)
        )
    return [a - b for a, b in itertools.pairwise(masked)]


def placed_by(decoder: Decoder, laws: Laws, ranked: list[int], scheduled: int) -> list[int]:
    """The tokens that a step places, by rank."""
    top = {i: max(laws[i]) for i in ranked}
    if decoder.threshold is not None:
        return [i for i in ranked if top[i] >= decoder.threshold - TIE] or ranked[:1]
    count = scheduled
    for c in range(1, len(ranked) + 1):
        first = ranked[:c]
        H = [entropy(laws[i]) for i in first]
        if decoder.factor is not None and (
            c == 1 or (c + 1) * (1 - min(top[i] for i in first)) < decoder.factor - TIE
        ):
            count = c
        if decoder.entropy_bound is not None and sum(H) - max(H) <= decoder.entropy_bound + TIE:
            count = c  # of one token the bound is on 0, so that one is always placed
    return ranked[:count]


def step(
    p: Array, decoder: Decoder, state: State, block: Sequence[int], scheduled: int, left: int
) -> Iterator[tuple[float, State]]:
    """(probability, state) of all that a step can leave; it places `left` tokens at most."""
    laws = {i: conditional(p, state, i) for i in block if state[i] == MASK}
    q = {i: shaped(law, decoder) for i, law in laws.items()}
    for weight, ranked, drawn in rankings(decoder, laws):
        tokens = placed_by(decoder, laws, ranked, scheduled)[:left]
        free = [[drawn[i]] if i in drawn else range(p.shape[i]) for i in tokens]
        for values in itertools.product(*free):
            new = dict(zip(tokens, values, strict=True))
            chance = 1.0 if drawn else math.prod(q[i][v] for i, v in new.items())
            if chance > 0:
                yield weight * chance, tuple(new.get(i, v) for i, v in enumerate(state))


def states(
    p: Array, decoder: Decoder, length: int, given: Sequence[int] = ()
) -> dict[tuple[State, int], float]:
    """The law of (state, calls of the network) when `length` tokens at most have been placed.

    The tokens of `given` are known from the start, with values drawn from p. They do not count,
    neither towards `length` nor towards a block.
    """
    law: dict[tuple[State, int], float] = defaultdict(float)
    for x, mass in np.ndenumerate(p):
        law[tuple(v if i in given else MASK for i, v in enumerate(x)), 0] += float(mass)
    free = [i for i in range(p.ndim) if i not in given]
    size = decoder.block or p.ndim
    for start in range(0, len(free), size):
        block = free[start : start + size]
        for scheduled in steps_of(decoder, len(block)):
            after: dict[tuple[State, int], float] = defaultdict(float)
            for (state, calls), probability in law.items():
                left = length - sum(v != MASK for v in state) + len(given)
                if left <= 0 or all(state[i] != MASK for i in block):
                    after[state, calls] += probability
                    continue
                for weight, new in step(p, decoder, state, block, scheduled, left):
                    after[new, calls + 1] += probability * weight
            law = after
    return {key: probability for key, probability in law.items() if probability > 0}


def steps_of(decoder: Decoder, tokens: int) -> list[int]:
    """The tokens that each step of a block places, if its rule is not adaptive."""
    if decoder.tokens_per_step is not None:
        return [decoder.tokens_per_step] * tokens
    if (decoder.threshold, decoder.factor, decoder.entropy_bound) != (None, None, None):
        return [1] * decoder.steps
    return schedule(decoder, tokens)


def law_of_decoder(p: Array, decoder: Decoder, length: int, given: Sequence[int] = ()) -> Array:
    """The law of the returned sequences, a table as p: the tokens left are drawn independently."""
    law = np.zeros_like(p)
    for (state, _), probability in states(p, decoder, length, given).items():
        rest = [i for i, v in enumerate(state) if v == MASK]
        marginals = {i: conditional(p, state, i) for i in rest}
        for values in itertools.product(*(range(p.shape[i]) for i in rest)):
            new = dict(zip(rest, values, strict=True))
            chance = math.prod(marginals[i][v] for i, v in new.items())
            law[tuple(new.get(i, v) for i, v in enumerate(state))] += probability * chance
    return law


def mean_calls(p: Array, decoder: Decoder, length: int, given: Sequence[int] = ()) -> float:
    """The expected number of steps in which the network was called."""
    found = states(p, decoder, length, given)
    return sum(calls * probability for (_, calls), probability in found.items())


def kl(p: Array, q: Array) -> float:
    """KL(p || q) in nats; infinite where q lacks a sequence of p."""
    if np.any((p > 0) & (q <= 0)):
        return math.inf
    on = p > 0
    return float((p[on] * np.log(p[on] / q[on])).sum())
