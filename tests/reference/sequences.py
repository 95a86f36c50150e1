"""Categorical laws by brute force: every sequence written down with its probability.

A law is a list of sequences and their probabilities, p(x) = w(x) / sum_y w(y). Everything asked of
it is a sum over that list; nothing here factorises, recurses or shares anything with the code. The
one exception is the textbook recursion in log space, for chains too long to be enumerated.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
Symbols = tuple[int, ...]


class Sequences:
    """A law of sequences of N symbols out of V, as a list.

    Args:
        listed: Sequences of N symbols and their weights w(x) >= 0, each sequence once.
        vocabulary: V.
    """

    def __init__(self, listed: dict[Symbols, float], vocabulary: int) -> None:
        kept = {x: w for x, w in listed.items() if w > 0}
        self.states: Integers = np.array(list(kept), dtype=np.int64)  # (M, N)
        weights = np.array(list(kept.values()))
        self.total = float(weights.sum())
        self.probabilities: Array = weights / self.total  # (M,)
        self.tokens = self.states.shape[1]
        self.vocabulary = vocabulary

    def log_prob(self, x: Integers) -> float:
        """Log p(x), -inf off the support."""
        same = (self.states == x).all(axis=1)
        return float(np.log(self.probabilities[same].sum())) if same.any() else -np.inf

    def draw(self, n: int, rng: np.random.Generator) -> Integers:
        """Draw n sequences, (n, N)."""
        drawn: Integers = self.states[rng.choice(len(self.states), size=n, p=self.probabilities)]
        return drawn

    def mean(self) -> Array:
        """P(x_i = v), (N, V)."""
        return np.stack([self._marginal(i, self.probabilities) for i in range(self.tokens)])

    def variance(self) -> Array:
        """Variance of each entry of the one-hot vector, (N, V)."""
        p = self.mean()
        return p * (1 - p)

    def given(self, x: Integers, known: Sequence[int], i: int) -> Array:
        """P(x_i = v | x_j for j in known), (V,); unconditional where `known` has probability 0."""
        agrees = (self.states[:, list(known)] == x[list(known)]).all(axis=1)
        weights = self.probabilities * agrees
        return self._marginal(i, weights if weights.sum() > 0 else self.probabilities)

    def marginals(self, x: Integers, mask: NDArray[np.bool_], causal: bool) -> Array:
        """The law of every token given the tokens where `mask` (N,) is true, (N, V).

        Causal: given those before the token. Otherwise a known token is a point mass at its value.
        """
        laws = []
        for i in range(self.tokens):
            known = [j for j in range(self.tokens) if mask[j] and (not causal or j < i)]
            if i in known:
                laws.append(np.eye(self.vocabulary)[x[i]])
            else:
                laws.append(self.given(x, known, i))
        return np.stack(laws)

    def kernel_mean(self, x: Integers, h: float) -> float:
        """E exp(-H(x, Y) / h^2), H the number of differing tokens."""
        differing = (self.states != x).sum(axis=1)
        return float(self.probabilities @ np.exp(-differing / h**2))

    def kernel_self_mean(self, h: float) -> float:
        """E exp(-H(Y, Y') / h^2) over independent Y and Y'."""
        means = [self.kernel_mean(y, h) for y in self.states]
        return float(self.probabilities @ np.array(means))

    def _marginal(self, i: int, weights: Array) -> Array:
        counted = np.bincount(self.states[:, i], weights=weights, minlength=self.vocabulary)
        marginal: Array = counted / weights.sum()
        return marginal


def every(tokens: int, vocabulary: int) -> Iterator[Symbols]:
    """All V^N sequences."""
    return itertools.product(range(vocabulary), repeat=tokens)


def weighed(weight: Callable[[Symbols], float], tokens: int, vocabulary: int) -> Sequences:
    """p(x) proportional to weight(x), over all V^N sequences."""
    return Sequences({x: weight(x) for x in every(tokens, vocabulary)}, vocabulary)


def constrained(valid: Callable[[Symbols], bool], tokens: int, vocabulary: int) -> Sequences:
    """Uniform over the sequences that are valid."""
    return weighed(lambda x: float(valid(x)), tokens, vocabulary)


def product_mixture(probabilities: Array, weights: Array) -> Sequences:
    """p(x) = sum_c w_c prod_i p_ci(x_i); probabilities (K, N, V), weights (K,)."""
    K, N, V = probabilities.shape

    def weight(x: Symbols) -> float:
        total = 0.0
        for c in range(K):
            term = float(weights[c])
            for i in range(N):
                term *= float(probabilities[c, i, x[i]])
            total += term
        return total

    return weighed(weight, N, V)


def smoothed_rows(
    rows: Integers, vocabulary: int, smoothing: float, weights: Array | None = None
) -> Sequences:
    """p(x) = sum_c w_c prod_i ((1 - lam) [x_i = row_ci] + lam m_i(x_i)), m_i the rows' marginal."""
    K, N = rows.shape
    w = np.ones(K) if weights is None else np.asarray(weights)
    w = w / w.sum()
    marginal = np.zeros((N, vocabulary))
    for c, i in itertools.product(range(K), range(N)):
        marginal[i, rows[c, i]] += w[c]

    def weight(x: Symbols) -> float:
        total = 0.0
        for c in range(K):
            term = float(w[c])
            for i in range(N):
                term *= (1 - smoothing) * (x[i] == rows[c, i]) + smoothing * marginal[i, x[i]]
            total += term
        return total

    return weighed(weight, N, vocabulary)


def hidden_markov(initial: Array, transition: Array, emission: Array, tokens: int) -> Sequences:
    """p(x) = sum over paths z of a(z_1) prod_i A_i(z_i, z_{i+1}) prod_i B_i(z_i, x_i), normalised.

    Args:
        initial: (S,).
        transition: (S, S), or (N-1, S, S) with one matrix per step.
        emission: (S, V), or (N, S, V) with one matrix per token.
        tokens: N.
    """
    S, V = emission.shape[-2:]
    A = list(transition) if transition.ndim == 3 else [transition] * (tokens - 1)
    B = list(emission) if emission.ndim == 3 else [emission] * tokens
    paths = []
    for z in itertools.product(range(S), repeat=tokens):
        term = float(initial[z[0]])
        for i in range(tokens - 1):
            term *= float(A[i][z[i], z[i + 1]])
        if term > 0:
            paths.append((z, term))

    def weight(x: Symbols) -> float:
        total = 0.0
        for z, term in paths:
            emitted = term
            for i in range(tokens):
                emitted *= float(B[i][z[i], x[i]])
            total += emitted
        return total

    return weighed(weight, tokens, V)


def markov(conditionals: Sequence[Array], tokens: int) -> Sequences:
    """p(x) = prod_i p(x_i | at most m symbols before); the last of the m + 1 tables is reused."""
    m = len(conditionals) - 1

    def weight(x: Symbols) -> float:
        total = 1.0
        for i in range(tokens):
            context = x[max(0, i - m) : i]
            total *= float(conditionals[len(context)][(*context, x[i])])
        return total

    return weighed(weight, tokens, len(conditionals[0]))


def ising(rows: int, columns: int, coupling: float, field: float) -> Sequences:
    """p(x) ~ exp(coupling sum_{neighbours} s s' + field sum s), s = 2x - 1, free boundaries."""
    places = list(itertools.product(range(rows), range(columns)))

    def weight(x: Symbols) -> float:
        spin = {place: 2 * value - 1 for place, value in zip(places, x, strict=True)}
        energy = field * sum(spin.values())
        for r, c in places:
            for neighbour in ((r + 1, c), (r, c + 1)):
                if neighbour in spin:
                    energy += coupling * spin[r, c] * spin[neighbour]
        return float(np.exp(energy))

    return weighed(weight, rows * columns, 2)


def is_one_symbol(x: Symbols) -> bool:
    """Every token is the same symbol."""
    return len(set(x)) == 1


def has_even_parity(x: Symbols) -> bool:
    """An even number of ones."""
    return sum(x) % 2 == 0


def is_permutation(x: Symbols) -> bool:
    """Every symbol once."""
    return sorted(x) == list(range(len(x)))


def has_one_one(x: Symbols) -> bool:
    """Exactly one token is 1, all others 0."""
    return sorted(x) == [0] * (len(x) - 1) + [1]


def is_balanced(x: Symbols) -> bool:
    """0 opens and 1 closes: erasing adjacent pairs leaves nothing."""
    text = "".join("()"[symbol] for symbol in x)
    while "()" in text:
        text = text.replace("()", "")
    return text == ""


def is_latin_square(x: Symbols) -> bool:
    """Row-major squares with every symbol once in each row and each column."""
    side = int(len(x) ** 0.5)
    lines = [x[side * r : side * r + side] for r in range(side)] + [x[c::side] for c in range(side)]
    return all(is_permutation(line) for line in lines)


def is_sudoku(x: Symbols) -> bool:
    """Row-major 4 x 4 Latin squares with every symbol once in each 2 x 2 box."""
    boxes = [
        (x[4 * r + c], x[4 * r + c + 1], x[4 * r + c + 4], x[4 * r + c + 5])
        for r in (0, 2)
        for c in (0, 2)
    ]
    return is_latin_square(x) and all(is_permutation(box) for box in boxes)


def sudoku() -> Sequences:
    """Uniform over the 4 x 4 grids: four rows that are permutations, filtered by the predicate."""
    lines = [row for row in every(4, 4) if is_permutation(row)]
    grids = (a + b + c + d for a, b, c, d in itertools.product(lines, repeat=4))
    return Sequences({x: 1.0 for x in grids if is_sudoku(x)}, 4)


def log_sum(a: Array, axis: int) -> Array:
    """Log sum_k exp(a_k); three times as fast as scipy's, whose answers it gives."""
    peak = a.max(axis=axis, keepdims=True)
    shift = np.where(np.isinf(peak), 0, peak)
    with np.errstate(divide="ignore"):
        total: Array = np.log(np.exp(a - shift).sum(axis=axis, keepdims=True)) + shift
    return total.squeeze(axis)


@dataclass(frozen=True)
class LogChain:
    """A hidden Markov model too long to enumerate, by the recursions of its definition.

    Attributes:
        initial: log a(z_1), (S,).
        transition: log A(z_i, z_{i+1}), (S, S).
        emission: log B(z_i, x_i), (S, V).
    """

    initial: Array
    transition: Array
    emission: Array

    def evidence(self, x: Integers, mask: NDArray[np.bool_]) -> Array:
        """log P(token i as seen | z_i), (N, S): zero where the token is not known."""
        nothing = np.zeros_like(self.initial)
        return np.stack(
            [self.emission[:, v] if k else nothing for v, k in zip(x, mask, strict=True)]
        )

    def predicted(self, evidence: Array) -> Array:
        """log P(z_i, tokens seen before i), (N, S)."""
        found = [self.initial]
        for seen in evidence[:-1]:
            found.append(log_sum((found[-1] + seen)[:, None] + self.transition, axis=0))
        return np.stack(found)

    def retrodicted(self, evidence: Array) -> Array:
        """log P(tokens seen after i | z_i), (N, S)."""
        found = [np.zeros_like(self.initial)]
        for seen in evidence[:0:-1]:
            found.append(log_sum(self.transition + (found[-1] + seen), axis=1))
        return np.stack(found[::-1])

    def log_prob(self, x: Integers) -> float:
        """Log p(x)."""
        evidence = self.evidence(x, np.ones(len(x), dtype=bool))
        return float(log_sum(self.predicted(evidence)[-1] + evidence[-1], axis=0))

    def marginals(self, x: Integers, mask: NDArray[np.bool_], causal: bool) -> Array:
        """log P(x_i = v | the known tokens), (N, V), for every token that is not known itself.

        Causal: given the known tokens before i, for every token.
        """
        evidence = self.evidence(x, mask)
        of_state = self.predicted(evidence)
        if not causal:
            of_state = of_state + self.retrodicted(evidence)
        joint = log_sum(of_state[:, :, None] + self.emission, axis=1)  # (N, V)
        law: Array = joint - log_sum(joint, axis=1)[:, None]
        return law
