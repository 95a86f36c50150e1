"""Mixtures of Gaussians with full covariances, by scipy's densities and the information form.

A sequence of N tokens in R^d is a vector of N d coordinates. Component c of weight w_c is
N(mu_c, S_c). A token seen at level t is y = alpha x + sigma e; sigma = 0 is a known token. Given
what is seen, component c has

    precision  P = inv(S_c)[U, U] + diag(alpha^2 / sigma^2),        U = coordinates not known,
    mean       mu_U + inv(P) (alpha (y - alpha mu) / sigma^2 - inv(S_c)[U, K] (x_K - mu_K)),
    weight     w_c N(y; alpha mu_c, alpha S_c alpha + sigma^2).

The same conditionals by Bayes' rule and quadrature, for tokens of dimension 1, check this form.
Nothing here is shared with the code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import integrate, stats
from scipy.special import logsumexp, softmax

Array = NDArray[np.float64]


def log_normal(x: Array, mean: Array, covariance: Array) -> Array:
    """Log-density of N(mean, covariance) at x (..., D): (...); 0 in no dimensions."""
    if mean.size == 0:
        return np.zeros(x.shape[:-1])
    u = np.diag(covariance) ** -0.5  # in units of their deviations, coordinates lose fewest digits
    scaled = u[:, None] * covariance * u
    return np.asarray(stats.multivariate_normal.logpdf(u * x, u * mean, scaled) + np.log(u).sum())


def inverse(matrix: Array) -> Array:
    """The inverse of a positive definite matrix, of its correlations: of a unit diagonal."""
    u = np.diag(matrix) ** -0.5
    inverted: Array = u[:, None] * np.linalg.inv(u[:, None] * matrix * u) * u
    return inverted


@dataclass(frozen=True)
class Token:
    """The law of one token: sum_c w_c N(m_c, C_c); shapes (K,), (K, d), (K, d, d)."""

    weights: Array
    means: Array
    covariances: Array

    def mean(self) -> Array:
        """(d,)."""
        mean: Array = self.weights @ self.means
        return mean

    def variance(self) -> Array:
        """Variance of each coordinate, (d,)."""
        own = np.stack([np.diag(C) for C in self.covariances])
        variance: Array = self.weights @ (own + (self.means - self.mean()) ** 2)
        return variance

    def log_prob(self, value: Array) -> Array:
        """Log-density at value (..., d): (...)."""
        terms = [log_normal(value, m, C) for m, C in zip(self.means, self.covariances, strict=True)]
        return np.asarray(logsumexp(np.stack(terms, axis=-1), b=self.weights, axis=-1))

    def cdf(self, value: Array) -> Array:
        """P(token <= value) at value (...), d = 1."""
        z = (value[..., None] - self.means[:, 0]) / np.sqrt(self.covariances[:, 0, 0])
        below: Array = stats.norm.cdf(z) @ self.weights
        return below


class Gaussians:
    """sum_c w_c N(mu_c, S_c).

    Args:
        means: (K, N, d).
        covariances: (K, N d, N d).
        weights: (K,), normalised here; equal by default.
    """

    def __init__(
        self, means: ArrayLike, covariances: ArrayLike, weights: ArrayLike | None = None
    ) -> None:
        self.means = np.asarray(means, dtype=np.float64)
        self.covariances = np.asarray(covariances, dtype=np.float64)
        self.K, self.N, self.d = self.means.shape
        w = np.ones(self.K) if weights is None else np.asarray(weights, dtype=np.float64)
        self.weights: Array = w / w.sum()
        self.flat: Array = self.means.reshape(self.K, -1)  # (K, N d)

    @classmethod
    def product(
        cls, means: ArrayLike, scales: ArrayLike, weights: ArrayLike | None = None
    ) -> Gaussians:
        """Independent coordinates; scales (N, d) or (K, N, d)."""
        mu = np.asarray(means)
        s = np.broadcast_to(np.asarray(scales), mu.shape).reshape(len(mu), -1)
        return cls(mu, np.stack([np.diag(row**2) for row in s]), weights)

    def noisy(self, alpha: Array, sigma: Array) -> Gaussians:
        """The law of alpha_i x_i + sigma_i e_i; alpha and sigma (N,)."""
        a, s = np.repeat(alpha, self.d), np.repeat(sigma, self.d)
        covariances = [a[:, None] * S * a + np.diag(s**2) for S in self.covariances]
        return Gaussians(alpha[:, None] * self.means, np.stack(covariances), self.weights)

    def transformed(self, Q: Array) -> Gaussians:
        """The law of Q x, x flattened; Q (N d, N d)."""
        means = np.stack([(Q @ mu).reshape(self.N, self.d) for mu in self.flat])
        return Gaussians(means, np.stack([Q @ S @ Q.T for S in self.covariances]), self.weights)

    def draw(self, n: int, rng: np.random.Generator) -> Array:
        """Draw n sequences, (n, N, d)."""
        chosen = rng.choice(self.K, size=n, p=self.weights)
        rows = [rng.multivariate_normal(self.flat[c], self.covariances[c]) for c in chosen]
        return np.stack(rows).reshape(n, self.N, self.d)

    def mean(self) -> Array:
        """(N, d)."""
        mean: Array = np.einsum("k,knd->nd", self.weights, self.means)
        return mean

    def variance(self) -> Array:
        """Variance of each coordinate, (N, d)."""
        total = np.zeros(self.N * self.d)
        for w, mu, S in zip(self.weights, self.flat, self.covariances, strict=True):
            total += w * (np.diag(S) + (mu - self.mean().reshape(-1)) ** 2)
        return total.reshape(self.N, self.d)

    def log_prob(self, x: Array) -> float:
        """Joint log-density at x (N, d)."""
        kernel = zip(self.flat, self.covariances, strict=True)
        terms = np.array([log_normal(x.reshape(-1), mu, S) for mu, S in kernel])
        return float(logsumexp(terms, b=self.weights))

    def log_evidence(self, x: Array, alpha: Array, sigma: Array, seen: Iterable[int]) -> Array:
        """Log of w_c N(y_seen; alpha mu_c, alpha S_c alpha + sigma^2), (K,)."""
        at = self.coordinates([j for j in seen if alpha[j] > 0])
        law, y = self.noisy(alpha, sigma), x.reshape(-1)
        with np.errstate(divide="ignore"):
            found = np.log(self.weights)
        for c in range(self.K):
            found[c] += log_normal(y[at], law.flat[c][at], law.covariances[c][np.ix_(at, at)])
        return found

    def clean(self, i: int, x: Array, alpha: Array, sigma: Array, seen: Sequence[int]) -> Token:
        """The law of clean token i, not known itself, given the tokens `seen` at their levels."""
        log_w = self.log_evidence(x, alpha, sigma, seen)
        posteriors = [self._component(c, i, x, alpha, sigma, seen) for c in range(self.K)]
        return Token(
            softmax(log_w),
            np.stack([mean for mean, _ in posteriors]),
            np.stack([covariance for _, covariance in posteriors]),
        )

    def denoised(self, i: int, x: Array, alpha: Array, sigma: Array, seen: Sequence[int]) -> Array:
        """E[x_i clean | seen], (d,); a known token is itself."""
        if i in seen and sigma[i] == 0:
            value: Array = x[i]
            return value
        return self.clean(i, x, alpha, sigma, seen).mean()

    def rosenblatt(self, x: Array) -> Array:
        """P(coordinate k <= x_k | the coordinates before it) of x (n, N, d): (n, N d).

        For draws of this law the columns are uniform on (0, 1) and independent.
        """
        y = x.reshape(len(x), -1)
        u = np.empty_like(y)
        for k in range(y.shape[1]):
            log_w, below = np.empty((len(y), self.K)), np.empty((len(y), self.K))
            for c, (mu, S) in enumerate(zip(self.flat, self.covariances, strict=True)):
                log_w[:, c] = np.log(self.weights[c]) + log_normal(y[:, :k], mu[:k], S[:k, :k])
                P = inverse(S[: k + 1, : k + 1])
                mean = mu[k] - (y[:, :k] - mu[:k]) @ P[k, :k] / P[k, k]
                below[:, c] = stats.norm.cdf(y[:, k], mean, P[k, k] ** -0.5)
            u[:, k] = (softmax(log_w, axis=1) * below).sum(axis=1)
        return u

    def kernel_mean(self, x: Array, h: float) -> float:
        """E exp(-|x - Y|^2 / (2 h^2)) = sum_c w_c (2 pi h^2)^{D/2} N(x; mu_c, S_c + h^2 I)."""
        D = self.N * self.d
        terms = [
            log_normal(x.reshape(-1), mu, S + h**2 * np.eye(D))
            for mu, S in zip(self.flat, self.covariances, strict=True)
        ]
        return float(np.exp(logsumexp(terms, b=self.weights) + D / 2 * np.log(2 * np.pi * h**2)))

    def kernel_self_mean(self, h: float) -> float:
        """The same for a second draw: the kernel mean at 0 of the law of Y - Y'."""
        pairs = [(a, b) for a in range(self.K) for b in range(self.K)]
        difference = Gaussians(
            np.stack([self.means[a] - self.means[b] for a, b in pairs]),
            np.stack([self.covariances[a] + self.covariances[b] for a, b in pairs]),
            np.array([self.weights[a] * self.weights[b] for a, b in pairs]),
        )
        return difference.kernel_mean(np.zeros((self.N, self.d)), h)

    def coordinates(self, tokens: Iterable[int]) -> list[int]:
        """Places of those tokens in the flattened sequence."""
        return [j * self.d + k for j in tokens for k in range(self.d)]

    def _component(
        self, c: int, i: int, x: Array, alpha: Array, sigma: Array, seen: Sequence[int]
    ) -> tuple[Array, Array]:
        known = self.coordinates([j for j in seen if sigma[j] == 0])
        free = [k for k in range(self.N * self.d) if k not in known]
        mu, y = self.flat[c], x.reshape(-1)
        precision = inverse(self.covariances[c])
        P = precision[np.ix_(free, free)]
        push = -precision[np.ix_(free, known)] @ (y[known] - mu[known])
        for j in seen:
            if sigma[j] > 0 and alpha[j] > 0:
                for k in self.coordinates([j]):
                    place = free.index(k)
                    P[place, place] += (alpha[j] / sigma[j]) ** 2
                    push[place] += alpha[j] * (y[k] - alpha[j] * mu[k]) / sigma[j] ** 2
        covariance = inverse(P)  # levels of 1e-4 put 1e8 on its diagonal, which costs no digits
        at = [free.index(k) for k in self.coordinates([i])]
        return mu[free][at] + (covariance @ push)[at], covariance[np.ix_(at, at)]

    # The same by Bayes' rule on the clean token's value, tokens of dimension 1.

    def joint_with(
        self, i: int, x: Array, alpha: Array, sigma: Array, seen: Sequence[int]
    ) -> Callable[[float], float]:
        """p(x_i clean = v, noisy tokens seen) of v: joint with the others, times N(y_i; .)."""
        others = [j for j in seen if j != i and alpha[j] > 0]
        a, s = alpha.copy(), sigma.copy()
        a[i], s[i] = 1, 0
        law, at = self.noisy(a, s), [i, *others]
        components = [
            stats.multivariate_normal(law.flat[c][at], law.covariances[c][np.ix_(at, at)])
            for c in range(self.K)
        ]

        def density(v: float) -> float:
            y = np.array([v, *x[others, 0]])
            terms = [component.logpdf(y) for component in components]
            own = stats.norm.logpdf(x[i, 0], alpha[i] * v, sigma[i]) if i in seen else 0
            return float(np.exp(logsumexp(terms, b=self.weights) + own))

        return density

    def clean_moments(
        self, i: int, x: Array, alpha: Array, sigma: Array, seen: Sequence[int]
    ) -> tuple[float, float, float]:
        """Normaliser, mean and variance of clean token i by adaptive quadrature."""
        reach = 10 * np.sqrt(self.covariances[:, i, i])
        low, high = (self.flat[:, i] - reach).min(), (self.flat[:, i] + reach).max()
        points = list(self.flat[:, i])
        if i in seen and alpha[i] > 0:
            centre, width = x[i, 0] / alpha[i], sigma[i] / alpha[i]
            points += [centre - 6 * width, centre, centre + 6 * width]
        points = sorted(p for p in points if low < p < high)
        density = self.joint_with(i, x, alpha, sigma, seen)
        height = max(density(p) for p in points)  # of order 1 for the quadrature's tolerance

        def moments(v: float) -> Array:
            return np.array([1, v, v**2]) * density(v) / height

        found = integrate.quad_vec(moments, low, high, points=points, epsabs=1e-14, epsrel=1e-11)[0]
        mean = found[1] / found[0]
        return found[0] * height, mean, found[2] / found[0] - mean**2


def autoregressive(tokens: int, rho: float) -> Gaussians:
    """x_1 ~ N(0, 1), x_{i+1} = rho x_i + sqrt(1 - rho^2) e: built from the recursion's map."""
    L = np.zeros((tokens, tokens))
    L[0, 0] = 1
    for i in range(1, tokens):
        L[i] = rho * L[i - 1]
        L[i, i] = np.sqrt(1 - rho**2)
    return Gaussians(np.zeros((1, tokens, 1)), (L @ L.T)[None])
