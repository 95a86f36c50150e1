"""Products-of-Gaussians mixtures by explicit loops and quadrature; shares nothing with the code."""

import numpy as np
from scipy import integrate, stats


class Mixture:
    """means (K, N), scales (N,), weights (K,); tokens of dimension 1."""

    def __init__(self, means, scales, weights):
        self.means, self.scales = np.asarray(means), np.asarray(scales)
        self.weights = np.asarray(weights) / np.sum(weights)

    def evidence(self, x, alpha, sigma, tokens):
        """Joint density of each component and the noisy tokens listed: (K,)."""
        total = self.weights.copy()
        for i in tokens:
            width = np.hypot(alpha[i] * self.scales[i], sigma[i])
            total = total * stats.norm.pdf(x[i], alpha[i] * self.means[:, i], width)
        return total

    def log_prob(self, x):
        N = len(self.scales)
        return np.log(self.evidence(x, np.ones(N), np.zeros(N), range(N)).sum())

    def clean_density(self, i, value, x, alpha, sigma, seen):
        """p(x_i^0 = value | noisy tokens seen), by Bayes' rule on the clean token itself."""
        others = [j for j in seen if j != i]
        prior = self.evidence(x, alpha, sigma, others) * stats.norm.pdf(
            value, self.means[:, i], self.scales[i]
        )
        joint = prior.sum()
        if i in seen:
            joint = joint * stats.norm.pdf(x[i], alpha[i] * value, sigma[i])
        return joint

    def clean_moments(self, i, x, alpha, sigma, seen):
        """Normaliser, mean and variance of the clean token i by adaptive quadrature."""
        low = (self.means[:, i] - 12 * self.scales[i]).min()
        high = (self.means[:, i] + 12 * self.scales[i]).max()
        points = list(self.means[:, i])
        if i in seen and alpha[i] > 0:
            centre, width = x[i] / alpha[i], sigma[i] / alpha[i]
            points += [p for p in (centre - 6 * width, centre, centre + 6 * width)]
        points = sorted(p for p in points if low < p < high)

        def moment(power):
            f = lambda v: v**power * self.clean_density(i, v, x, alpha, sigma, seen)  # noqa: E731
            return integrate.quad(f, low, high, points=points, limit=500, epsabs=0, epsrel=1e-11)[0]

        mass = moment(0)
        mean = moment(1) / mass
        return mass, mean, moment(2) / mass - mean**2
