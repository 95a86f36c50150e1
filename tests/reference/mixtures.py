"""Products-of-Gaussians mixtures by explicit loops and quadrature; shares nothing with the code."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import integrate

Array = NDArray[np.float64]


def normal(x: ArrayLike, mean: ArrayLike, deviation: ArrayLike) -> Array:
    """The density of N(mean, deviation^2); scipy's takes too long inside of quadrature."""
    z = np.subtract(x, mean) / deviation
    return np.asarray(np.exp(-0.5 * z * z) / (np.sqrt(2 * np.pi) * np.asarray(deviation)))


class Mixture:
    """means (K, N), scales (N,), weights (K,); tokens of dimension 1."""

    def __init__(self, means: ArrayLike, scales: ArrayLike, weights: ArrayLike) -> None:
        self.means, self.scales = np.asarray(means), np.asarray(scales)
        self.weights = np.asarray(weights) / np.sum(weights)

    def evidence(self, x: Array, alpha: Array, sigma: Array, tokens: Iterable[int]) -> Array:
        """Joint density of each component and the noisy tokens listed: (K,)."""
        total: Array = self.weights.copy()
        for i in tokens:
            width = np.hypot(alpha[i] * self.scales[i], sigma[i])
            total = total * normal(x[i], alpha[i] * self.means[:, i], width)
        return total

    def log_prob(self, x: Array) -> float:
        N = len(self.scales)
        return float(np.log(self.evidence(x, np.ones(N), np.zeros(N), range(N)).sum()))

    def clean_density(
        self, i: int, value: float, x: Array, alpha: Array, sigma: Array, seen: list[int]
    ) -> float:
        """p(x_i^0 = value | noisy tokens seen), by Bayes' rule on the clean token itself."""
        others = self.evidence(x, alpha, sigma, [j for j in seen if j != i])
        return self._joint(i, value, x, alpha, sigma, seen, others)

    def _joint(
        self, i: int, value: float, x: Array, alpha: Array, sigma: Array, seen: list[int],
        others: Array,
    ) -> float:  # fmt: skip
        joint = float((others * normal(value, self.means[:, i], self.scales[i])).sum())
        return joint * float(normal(x[i], alpha[i] * value, sigma[i])) if i in seen else joint

    def clean_moments(
        self, i: int, x: Array, alpha: Array, sigma: Array, seen: list[int]
    ) -> tuple[float, float, float]:
        """Normaliser, mean and variance of the clean token i by adaptive quadrature."""
        low = (self.means[:, i] - 12 * self.scales[i]).min()
        high = (self.means[:, i] + 12 * self.scales[i]).max()
        points = list(self.means[:, i])
        if i in seen and alpha[i] > 0:
            centre, width = x[i] / alpha[i], sigma[i] / alpha[i]
            points += [centre - 6 * width, centre, centre + 6 * width]
        points = sorted(p for p in points if low < p < high)
        others = self.evidence(x, alpha, sigma, [j for j in seen if j != i])

        def moment(power: int) -> float:
            f = lambda v: v**power * self._joint(i, v, x, alpha, sigma, seen, others)  # noqa: E731
            found = integrate.quad(f, low, high, points=points, limit=500, epsabs=0, epsrel=1e-11)
            return float(found[0])

        mass = moment(0)
        mean = moment(1) / mass
        return mass, mean, moment(2) / mass - mean**2
