"""Laws of masked diffusion that masks known tokens again, by enumeration of single changes.

A state is a tuple of values, in which MASK stands for a masked token. From alpha_t to alpha_s, with
sigma the probability that a known token is masked again, Wang et al. 2025 (ReMDM) draw every
token of the next state, independently given the state, from

    (1 - sigma) [x_i] + sigma [MASK]    if it is known,
    c p(x_i | known) + (1 - c) [MASK]   if it is masked,

with c = (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t). The law of the states is the sum over all
states before, written as loops over a joint table.

Source: https://arxiv.org/abs/2503.00307
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reference.unmasking import MASK, conditional

Array = NDArray[np.float64]
State = tuple[int, ...]


def sigma_of(rule: str, alpha_t: float, alpha_s: float, eta: float | None = None) -> float:
    """The probability that a known token is masked again in a step from alpha_t to alpha_s."""
    largest = 1.0 if alpha_t == 0 else min(1.0, (1 - alpha_s) / alpha_t)
    if rule == "max":
        return largest
    if rule == "cap":
        assert eta is not None
        return min(eta, largest)
    if rule == "rescale":
        assert eta is not None
        return eta * largest
    return {"none": 0.0, "full": 1 - alpha_s}[rule]


def loop_steps(k: int, eta: float) -> tuple[list[float], list[float]]:
    """The probabilities of remasking in k steps of ReMDM-loop, and alpha before and after each.

    With the paper's numbers alpha is 0.9 for t from 0.55 down to 0.05, where tokens are masked
    again; before and after it is linear in t.
    """
    times = [1 - j / k for j in range(k + 1)]
    alphas = np.interp(times, [0, 0.05, 0.55, 1], [1, 0.9, 0.9, 0]).tolist()
    sigmas = []
    for t, s in itertools.pairwise(times):
        inside = s >= 0.05 - 1e-9 and t <= 0.55 + 1e-9
        sigmas.append(min(eta, 0.1 / 0.9) if inside else 0.0)
    return sigmas, alphas


def states_after(
    p: Array,
    sigmas: Sequence[float],
    k: int,
    q: Array | None = None,
    given: Sequence[int] = (),
    alphas: Sequence[float] | None = None,
) -> dict[State, float]:
    """The law of the states after as many of k steps as there are numbers sigma.

    Args:
        p: Table from which the given tokens are drawn.
        sigmas: The probability of remasking in each step.
        k: Number of steps from alpha = 0 to 1.
        alphas: alpha before each step and at the end, 0, 1/k, .., 1 if not given.
        q: Table that the network knows; p if there is none.
        given: Tokens that are known from the start, and stay so.
    """
    q = p if q is None else q
    law: dict[State, float] = defaultdict(float)
    for x, probability in np.ndenumerate(p):
        law[tuple(v if i in given else MASK for i, v in enumerate(x))] += float(probability)
    for j, sigma in enumerate(sigmas):
        alpha_t, alpha_s = (j / k, (j + 1) / k) if alphas is None else alphas[j : j + 2]
        c = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)
        after: dict[State, float] = defaultdict(float)
        for state, mass in law.items():
            choices = []
            for i, value in enumerate(state):
                if i in given:
                    choices.append([(value, 1.0)])
                elif value != MASK:
                    choices.append([(value, 1 - sigma), (MASK, sigma)])
                else:
                    laws = conditional(q, state, i)
                    choices.append([*((v, c * w) for v, w in enumerate(laws)), (MASK, 1 - c)])
            for outcome in itertools.product(*([o for o in each if o[1] > 0] for each in choices)):
                chance = math.prod(weight for _, weight in outcome)
                after[tuple(value for value, _ in outcome)] += mass * chance
        law = after
    return law


def law_of_remasking(
    p: Array,
    rule: str,
    k: int,
    eta: float | None = None,
    q: Array | None = None,
    given: Sequence[int] = (),
) -> Array:
    """The law of the sequences after k steps, a table as p."""
    alphas = None
    if rule == "loop":
        assert eta is not None
        sigmas, alphas = loop_steps(k, eta)
    else:
        sigmas = [sigma_of(rule, j / k, (j + 1) / k, eta) for j in range(k)]
    found = np.zeros_like(p)
    for state, mass in states_after(p, sigmas, k, q, given, alphas).items():
        if MASK in state:
            assert mass < 1e-12
        else:
            found[state] += mass
    return found
