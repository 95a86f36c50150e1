"""Losses of parallel decoding on lists, in closed form: nats per sequence, in random order.

A step that draws a block B of tokens at once, given those known, loses the total correlation of B
given them, and the losses of the steps add up. Three laws of N tokens:

    copy: one of V symbols, all equally likely, N times;
    shuffle: a permutation of N symbols, all equally likely;
    replacement: one of N places, all equally likely, is 1 and all others are 0.

All three are symmetric in their tokens, so that a loss depends only on the sizes of the steps.

Source: Kang et al. 2025, "ParallelBench", https://arxiv.org/abs/2510.04767, for the loss as total
    correlation, and for shuffled and replaced lists; the sums for two tokens a step are derived
    here.
"""

from __future__ import annotations

import math


def copy_at_once(N: int, V: int) -> float:
    """(N - 1) ln V: N entropies of ln V, less that of a sequence, which is ln V too."""
    return (N - 1) * math.log(V)


def copy_by_twos(N: int, V: int) -> float:
    """ln V, of the first two tokens; all that follow are known. One token loses nothing."""
    return math.log(V) if N > 1 else 0.0


def shuffle_at_once(N: int) -> float:
    """N ln N - ln N!: each token is any of N symbols, a sequence any of N! permutations."""
    return N * math.log(N) - math.lgamma(N + 1)


def shuffle_by_twos(N: int) -> float:
    """The sum of ln(n / (n - 1)) over n = N, N - 2, .. >= 2, the number of tokens left.

    Two of the n symbols left are one of n (n - 1) pairs, each of the two alone one of n:
    2 ln n - ln(n (n - 1)) = ln(n / (n - 1)). A last token alone loses nothing.
    """
    return sum(math.log(n / (n - 1)) for n in range(N, 1, -2))


def replacement_at_once(N: int) -> float:
    """(N - 1) ln(N / (N - 1)).

    A token is 1 with probability 1 / N: its entropy is (1/N) ln N + (1 - 1/N) ln(N / (N - 1)).
    N of them are ln N + (N - 1) ln(N / (N - 1)), and a sequence has the entropy ln N.
    """
    return (N - 1) * math.log(N / (N - 1))


def replacement_by_twos(N: int) -> float:
    """The sum over n = N, N - 2, .. >= 2 of (f(n) - 2 f(n - 1) + f(n - 2)) / N, f(n) = n ln n.

    With probability n / N the 1 is among the n tokens left; else all of them are 0, and known to
    be. Two of the n are then (1, 0) or (0, 1) with probability 1/n each, and (0, 0) with
    (n - 2) / n, while each alone is 1 with probability 1/n. Twice the entropy of one less that of
    the two: the terms (2/n) ln n cancel, and what is left is

        2 ((n - 1)/n) ln(n / (n - 1)) - ((n - 2)/n) ln(n / (n - 2))
        = (f(n) - 2 f(n - 1) + f(n - 2)) / n.
    """

    def f(n: int) -> float:
        return n * math.log(n) if n > 0 else 0.0

    return sum(f(n) - 2 * f(n - 1) + f(n - 2) for n in range(N, 1, -2)) / N
