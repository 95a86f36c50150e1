"""D3PM with uniform noise by brute force: matrices, and all V^N sequences at every level.

Everything is written out from the paper: the noise of each step is a matrix Q_j over symbols, the
noise of several steps is their product, and posteriors follow from Bayes' rule. The predictions
p(x_0i | x_t) are sums over all clean sequences.

Source: Austin et al. 2021, "Structured Denoising Diffusion Models in Discrete State-Spaces",
equations 1 to 4, https://arxiv.org/abs/2107.03006
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Symbols = tuple[int, ...]
Predict = Callable[[Symbols, int], Array]  # a noisy sequence and the level j -> (N, V)


def noise_of_step(j: int, k: int, V: int) -> Array:
    """Q_j from level (j - 1) / k to j / k, (V, V), row by row the law of the noisier symbol."""
    beta = 1 - (1 - j / k) / (1 - (j - 1) / k)
    return (1 - beta) * np.eye(V) + beta * np.ones((V, V)) / V


def noise_up_to(j: int, k: int, V: int) -> Array:
    """Q_1 Q_2 .. Q_j, (V, V)."""
    product: Array = functools.reduce(
        np.matmul, (noise_of_step(i, k, V) for i in range(1, j + 1)), np.eye(V)
    )
    return product


def posterior(z: int, x_0: int, j: int, k: int, V: int) -> Array:
    """q(x_{j-1} | x_j = z, x_0), (V,)."""
    law = noise_of_step(j, k, V)[:, z] * noise_up_to(j - 1, k, V)[x_0]
    found: Array = law / noise_up_to(j, k, V)[x_0, z]
    return found


def clean_marginals(p: Array, z: Symbols, noise: Sequence[Array]) -> Array:
    """p(x_0i = v | z) for every token, (N, V), with noise matrix noise[i] on token i."""
    N, V = p.ndim, p.shape[0]
    found = np.zeros((N, V))
    for x, mass in np.ndenumerate(p):
        weight = mass * np.prod([noise[i][x[i], z[i]] for i in range(N)])
        for i in range(N):
            found[i, x[i]] += weight
    found /= found[0].sum()
    return found


def predictor(p: Array, k: int, given: Sequence[int] = ()) -> Predict:
    """The exact predictions of a table at every level of k steps; given tokens are clean."""
    V = p.shape[0]

    @functools.cache
    def predict(z: Symbols, j: int) -> Array:
        Q = noise_up_to(j, k, V)
        return clean_marginals(p, z, [np.eye(V) if i in given else Q for i in range(p.ndim)])

    return predict


def step_laws(predict: Predict, z: Symbols, j: int, k: int) -> Array:
    """The laws of all tokens after the step from z at level j / k, (N, V)."""
    prediction = predict(z, j)
    V = prediction.shape[1]
    rows = [
        sum(prediction[i, v] * posterior(z[i], v, j, k, V) for v in range(V)) for i in range(len(z))
    ]
    return np.array(rows)


def published_step(p: Array, z: Symbols, j: int, k: int) -> Array:
    """Equation 4 of the paper, with each token's law given all other noisy tokens, (N, V)."""
    V, found = p.shape[0], []
    Q, Q_j, before = noise_up_to(j, k, V), noise_of_step(j, k, V), noise_up_to(j - 1, k, V)
    for i in range(p.ndim):
        unseen = [np.ones((V, V)) / V if m == i else Q for m in range(p.ndim)]
        law = clean_marginals(p, z, unseen)[i]
        joint = sum(law[v] * Q_j[:, z[i]] * before[v] for v in range(V))
        found.append(joint / joint.sum())
    return np.array(found)


def laws_after_every_step(
    predict: Predict, p: Array, k: int, *, corrector: int = 0, given: Sequence[int] = ()
) -> list[Array]:
    """The law (V, .., V) of the sequences after each of k steps, the last of which is the result.

    Args:
        predict: The network.
        p: Table of the target, of which given tokens are drawn.
        k: Number of steps.
        corrector: Repetitions of every step but the first, each after its own noise.
        given: Indices of the tokens that are clean from the start.
    """
    N, V = p.ndim, p.shape[0]
    free = [i for i in range(N) if i not in given]
    law = np.broadcast_to(p.sum(axis=tuple(free), keepdims=True) / V ** len(free), p.shape)
    laws = []
    for j in range(k, 0, -1):
        Q = noise_of_step(j, k, V)
        for repetition in range(1 + (corrector if j < k else 0)):
            if repetition:
                for i in free:
                    law = np.moveaxis(np.tensordot(law, Q, axes=(i, 0)), -1, i)
            law = moved(law, lambda z, j=j: step_laws(predict, z, j, k), given)  # type: ignore[misc]
        laws.append(law)
    return laws


def moved(law: Array, of: Callable[[Symbols], Array], given: Sequence[int]) -> Array:
    """The law after a step that draws all free tokens independently given the sequence z."""
    after = np.zeros(law.shape)
    for z in itertools.product(range(law.shape[0]), repeat=law.ndim):
        each = [np.eye(law.shape[0])[z[i]] if i in given else q for i, q in enumerate(of(z))]
        after += law[z] * functools.reduce(np.multiply.outer, each)
    return after
