"""What samplers do to a Gaussian coordinate N(0, v): closed forms from the papers."""

import itertools
import math
from collections.abc import Callable

import numpy as np

PATHS: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "linear": (lambda t: 1 - t, lambda t: t),
    "cosine": (lambda t: math.cos(math.pi * t / 2), lambda t: math.sin(math.pi * t / 2)),
}


def ddim_variance(v: float, k: int, path: str) -> float:
    """Variance after k uniform DDIM steps from N(0, 1): the squared product of the factors."""
    a, s = PATHS[path]
    times = [float(t) for t in np.linspace(1, 0, k + 1)]
    factor = 1.0
    for t, u in itertools.pairwise(times):
        factor *= (a(u) * a(t) * v + s(u) * s(t)) / (a(t) ** 2 * v + s(t) ** 2)
    return factor**2


def flow_map_factor(v: float, t: float, s: float, path: str) -> float:
    """Factor of the exact probability-flow map from t to s."""
    a, sig = PATHS[path]
    return math.sqrt((a(s) ** 2 * v + sig(s) ** 2) / (a(t) ** 2 * v + sig(t) ** 2))
