"""Figures of draws of token ids by brute force: loops over the rows and the list of all sequences.

    pair(a, b) = P(x_i = a, x_j = b),   c = (pair - p_i p_j) / (pair + p_i p_j)

A tempered draw takes tokens from left to right from p(x_i | x_<i)^(1/t), normalised.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from scipy import optimize

from reference.sequences import Array, Integers, Sequences


def pair_law(law: Sequences, i: int, j: int) -> Array:
    """P(x_i = a, x_j = b), (V, V)."""
    table = np.zeros((law.vocabulary, law.vocabulary))
    for x, p in zip(law.states, law.probabilities, strict=True):
        table[x[i], x[j]] += p
    return table


def scores(law: Sequences, x: Integers, i: int, j: int) -> tuple[float, float]:
    """Pointwise mutual information (nats) and c of tokens i and j of a sequence."""
    joint = pair_law(law, i, j)
    apart = np.outer(joint.sum(1), joint.sum(0))[x[i], x[j]]
    both = joint[x[i], x[j]]
    information = math.log(both) - math.log(apart) if both > 0 else -math.inf
    return information, (both - apart) / (both + apart) if apart > 0 else -1.0


def mutual_information(law: Sequences, distance: int) -> float:
    """Mean of I(x_i; x_{i+d}) over places, in nats."""
    found = []
    for i in range(law.tokens - distance):
        joint = pair_law(law, i, i + distance)
        apart = np.outer(joint.sum(1), joint.sum(0))
        some = joint > 0
        found.append(float((joint[some] * np.log(joint[some] / apart[some])).sum()))
    return float(np.mean(found))


def next_law(law: Sequences, x: Integers, i: int) -> Array:
    """p(x_i | x_<i), (V,)."""
    return law.given(x, range(i), i)


def tempered(law: Sequences, t: float, n: int, rng: np.random.Generator) -> Integers:
    """Draw n sequences from left to right at temperature t, (n, N)."""
    drawn = np.zeros((n, law.tokens), dtype=np.int64)
    laws: dict[tuple[int, ...], Array] = {}
    for r, i in itertools.product(range(n), range(law.tokens)):
        past = tuple(drawn[r, :i])
        if past not in laws:
            p = next_law(law, drawn[r], i) ** (1 / t)
            laws[past] = p / p.sum()
        drawn[r, i] = rng.choice(law.vocabulary, p=laws[past])
    return drawn


def likeliest_temperature(law: Sequences, x: Integers) -> float:
    """The temperature that makes rows x (n, N) most likely, by a search over log t."""
    steps = [(next_law(law, row, i), row[i]) for row in x for i in range(law.tokens)]

    def loss(log_t: float) -> float:
        total = 0.0
        for p, symbol in steps:
            q = p ** math.exp(-log_t)
            total -= math.log(q[symbol] / q.sum())
        return total

    found = optimize.minimize_scalar(
        loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-8}
    )
    return math.exp(found.x)


def transition_kl(transition: Array, x: Integers) -> float:
    """sum_a w(a) sum_b P_hat(b | a) log P_hat(b | a) / P(b | a) of pooled transitions, in nats."""
    V = len(transition)
    count = np.zeros((V, V))
    for row in x:
        for a, b in itertools.pairwise(row):
            count[a, b] += 1
    total = 0.0
    for a, b in itertools.product(range(V), repeat=2):
        if count[a, b]:
            p_hat = count[a, b] / count[a].sum()
            ratio = p_hat / transition[a, b] if transition[a, b] else math.inf
            total += count[a].sum() / count.sum() * p_hat * math.log(ratio)
    return total
