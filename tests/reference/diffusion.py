"""What samplers do to a Gaussian coordinate N(0, v): closed forms from the papers."""

import numpy as np

PATHS = {
    "linear": (lambda t: 1 - t, lambda t: t),
    "cosine": (lambda t: np.cos(np.pi * t / 2), lambda t: np.sin(np.pi * t / 2)),
}


def ddim_variance(v, k, path):
    """Variance after k uniform DDIM steps from N(0, 1): the squared product of the factors."""
    a, s = PATHS[path]
    times = np.linspace(1, 0, k + 1)
    factor = 1.0
    for t, u in zip(times[:-1], times[1:], strict=True):
        factor *= (a(u) * a(t) * v + s(u) * s(t)) / (a(t) ** 2 * v + s(t) ** 2)
    return factor**2


def flow_map_factor(v, t, s, path):
    """Factor of the exact probability-flow map from t to s."""
    a, sig = PATHS[path]
    return np.sqrt((a(s) ** 2 * v + sig(s) ** 2) / (a(t) ** 2 * v + sig(t) ** 2))
