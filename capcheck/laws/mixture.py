"""Mixtures of Gaussians as token laws p(x) = sum_c w_c N(x; m_c, C_c)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from capcheck.core.log_sums import exp_, log_sum_exp, log_sum_exp_, softmax_
from capcheck.core.randomness import Randomness, inverse_cdf
from capcheck.core.tiles import slices, tile_size
from capcheck.core.weighted import weighted_mean
from capcheck.laws.inversion import mixture_quantiles, normal_cdf, standardised
from capcheck.laws.token_law import DrawnRows, TokenLaw, require_scalar_tokens
from capcheck.noise.paths import NoisePath

__all__ = ["LOG_2PI", "TILE", "MixtureOfGaussians", "point_mass"]

LOG_2PI = math.log(2 * math.pi)
TILE = 1 << 18  # numbers (rows x tokens x components x d) that are processed at once


class MixtureOfGaussians(TokenLaw):
    """The laws p(x) = sum_c w_c N(x; m_c, C_c) on R^d.

    Shapes broadcast over rows, tokens and components; a variance of 0 is a point mass.

    Args:
        log_weights: Unnormalised log-weights, (n|1, N|1, K); -inf is weight 0.
        means: Means m_c, (n|1, N, K, d).
        variances: Diagonals of C_c, (n|1, N|1, K|1, d), or whole matrices C_c,
            (n|1, N|1, K|1, d, d), in squared units of the tokens.
        drawn: Rows of a larger law that these laws are, or None if they are no such part.
    """

    def __init__(
        self,
        log_weights: Tensor,
        means: Tensor,
        variances: Tensor,
        drawn: DrawnRows | None = None,
    ) -> None:
        self._drawn = drawn
        self.log_weights = log_weights - log_sum_exp(log_weights)[..., None]
        self.means = means
        self.variances = variances
        self._principal: tuple[Tensor | None, Tensor] | None = None
        self._exponentials: Tensor | None = None

    @property
    def _w(self) -> Tensor:
        """The weights, computed when they are first asked for."""
        if self._exponentials is None:
            self._exponentials = exp_(self.log_weights.clone())
        return self._exponentials

    @property
    def _axes(self) -> Tensor | None:
        """Principal axes of C as columns, (..., d, d); None if C is diagonal."""
        return self._axes_and_variances()[0]

    @property
    def _along(self) -> Tensor:
        """Variances along the principal axes, (..., d)."""
        return self._axes_and_variances()[1]

    def _axes_and_variances(self) -> tuple[Tensor | None, Tensor]:
        """Computed when they are first asked for, as laws are often picked from before."""
        if self._principal is None:
            if self.variances.dim() > self.means.dim():
                along, axes = torch.linalg.eigh(self.variances)
                self._principal = axes, along.clamp(min=0)
            else:
                self._principal = None, self.variances
        return self._principal

    @property
    def _shape(self) -> tuple[int, int]:
        rows = max(t.shape[0] for t in (self.log_weights, self.means, self.variances))
        return rows, self.means.shape[1]

    def sample(self, rng: Randomness) -> Tensor:
        """Component by inverse CDF, then its Gaussian: (n, N, d)."""
        n, N = self._shape
        drawn = self._drawn or DrawnRows(n, None)
        u, z = rng.uniform((drawn.n, N)), rng.normal((drawn.n, N, self.means.shape[-1]))
        return self.at(drawn.of(u), drawn.of(z))

    def rows(self, index: Tensor) -> MixtureOfGaussians:
        """The laws of the rows with these indices."""
        drawn = self._drawn or DrawnRows(self._shape[0], None)

        def some(x: Tensor) -> Tensor:
            return x if len(x) == 1 < drawn.n else x[index]

        # The number of rows is read off the parameters, so that one of them must have all rows.
        means = self.means.expand(self._shape[0], *self.means.shape[1:])[index]
        part = self._changed(some)
        part.means, part._drawn = means, drawn[index]
        return part

    def sample_where(self, rng: Randomness, chosen: Tensor) -> Tensor:
        """As `sample`, but for the chosen entries only; 0 elsewhere."""
        if self._drawn is not None:
            return self.sample(rng)
        n, N, d = *chosen.shape, self.means.shape[-1]
        return self.at_where(rng.uniform((n, N)), rng.normal((n, N, d)), chosen)

    def at_where(self, u: Tensor, z: Tensor, chosen: Tensor) -> Tensor:
        """As `at` for the chosen entries, (n, N) bool; 0 elsewhere: (n, N, d)."""
        index = chosen.nonzero(as_tuple=True)
        draws = z.new_zeros(z.shape, dtype=self.means.dtype)
        draws[index] = self.entries(*index).at(u[index][:, None], z[index][:, None])[:, 0]
        return draws

    def log_prob_where(self, x: Tensor, chosen: Tensor) -> Tensor:
        """As `log_prob`, but for the chosen entries only; 0 elsewhere."""
        index = chosen.nonzero(as_tuple=True)
        found = self.means.new_zeros(chosen.shape)
        found[index] = self.entries(*index).log_prob(x[index][:, None])[:, 0]
        return found

    def entries(self, rows: Tensor, tokens: Tensor) -> MixtureOfGaussians:
        """The laws of m entries, given by their rows and tokens (m,), as an (m, 1) law."""
        n, N = self._shape

        def own(x: Tensor) -> Tensor:
            return x.expand(n, N, *x.shape[2:])[rows, tokens][:, None]

        return self._changed(own)

    def at(self, u: Tensor, z: Tensor) -> Tensor:
        """The draws, (n, N, d), for uniforms u (n, N) and standard normals z (n, N, d)."""
        n, N, d = z.shape
        K = self.means.shape[2]
        component = inverse_cdf(self._w.expand(n, N, K), u[..., None])  # (n, N, 1)
        index = component[..., None].expand(n, N, 1, d)
        mean = self.means.expand(n, N, K, d).gather(2, index).squeeze(2)
        along = self._along.expand(n, N, K, d).gather(2, index).squeeze(2)
        noise = along.sqrt() * z.to(mean)
        if self._axes is not None:
            axes = self._axes.expand(n, N, K, d, d)
            axes = axes.gather(2, index[..., None].expand(n, N, 1, d, d)).squeeze(2)
            noise = (axes @ noise[..., None]).squeeze(-1)
        return mean + noise

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density (nats) of x (n, N, d): (n, N); of a point mass +inf on it, -inf off it."""
        if len(x) > self._size:
            parts = zip(x.split(self._size), self._split(len(x)), strict=True)
            return torch.cat([law.log_prob(of_rows) for of_rows, law in parts])
        if self._is_scalar and bool((self.variances > 0).all()):
            V = self.variances[..., 0]  # (n|1, N|1, 1)
            joint = (x - self.means[..., 0]).square_().mul_(-0.5 / V).add_(self.log_weights)
            return log_sum_exp_(joint) - 0.5 * (V[..., 0].log() + LOG_2PI)
        residual = x[:, :, None, :] - self.means  # (n, N, K, d)
        if self._axes is not None:
            residual = (residual[..., None, :] @ self._axes).squeeze(-2)
        atoms = self._along == 0
        along = torch.where(atoms, 1, self._along)
        log_density = (residual.square() / along).mul_(-0.5)
        if bool(atoms.any()):
            off_atom = torch.where(residual == 0, torch.inf, -torch.inf)
            log_density = torch.where(atoms, off_atom, log_density)
        log_density = log_density - 0.5 * (along.log() + LOG_2PI)
        return log_sum_exp_(self.log_weights + log_density.sum(-1))

    @property
    def _is_scalar(self) -> bool:
        """Whether tokens are numbers and all components share one variance."""
        return self.means.shape[3] == 1 and self.variances.shape[2:] == (1, 1)

    @property
    def _size(self) -> int:
        """Rows of a part; allocating larger temporaries costs more than the arithmetic."""
        return max(1, tile_size(TILE, self.means.device) // max(1, self.means[0].numel()))

    def _split(self, n: int) -> Iterator[MixtureOfGaussians]:
        """The laws of n rows in parts of `_size` rows, as views."""
        for rows in slices(n, self._size):

            def some(x: Tensor, rows: slice = rows) -> Tensor:
                return x if len(x) == 1 else x[rows]

            yield self._changed(some)

    def _changed(self, change: Callable[[Tensor], Tensor]) -> MixtureOfGaussians:
        """The laws with a change of rows or tokens applied to all parameters."""
        part = copy.copy(self)
        for name in ("log_weights", "means", "variances"):
            setattr(part, name, change(getattr(self, name)))
        if self._exponentials is not None:
            part._exponentials = change(self._exponentials)
        if self._principal is not None:
            axes, along = self._principal
            part._principal = None if axes is None else change(axes), change(along)
        return part

    def mean(self) -> Tensor:
        """Means of the tokens, (n, N, d)."""
        return weighted_mean(self._w, self.means)

    def variance(self) -> Tensor:
        """Variances of the tokens' coordinates, (n, N, d)."""
        deviation = self.means - self.mean()[:, :, None, :]
        own = self.variances if self._axes is None else self.variances.diagonal(dim1=-2, dim2=-1)
        return weighted_mean(self._w, own + deviation.square())

    def cdf(self, x: Tensor) -> Tensor:
        """P(token <= x) for x (n, N, 1): (n, N)."""
        require_scalar_tokens("cdf", self.means.shape[-1])
        w, m, s = self.on_the_line()
        return (w * normal_cdf(standardised(x, m, s))).sum(-1)

    def icdf(self, u: Tensor) -> Tensor:
        """The quantile of u (n, N): (n, N, 1); see `inversion`."""
        require_scalar_tokens("icdf", self.means.shape[-1])
        if len(u) > self._size:
            parts = zip(u.split(self._size), self._split(len(u)), strict=True)
            return torch.cat([law.icdf(of_rows) for of_rows, law in parts])
        return mixture_quantiles(*self.on_the_line(), u)[..., None]

    def on_the_line(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (n|1, N|1, K), means and deviations (n|1, N|1, K|1) of tokens of one number."""
        require_scalar_tokens("on_the_line", self.means.shape[-1])
        return self._w, self.means[..., 0], self._along[..., 0].sqrt()

    def denoise(self, x_t: Tensor, t: Tensor, path: NoisePath) -> Tensor:
        """E[x_0 | x_t] = sum_c r_c (m_c + alpha C_c V_c^-1 (x_t - alpha m_c)), (n, N, d).

        With V_c = alpha^2 C_c + sigma^2, and r_c the share of component c in the density of x_t. At
        sigma = 0 the answer is x_t itself.
        """
        if len(x_t) > self._size:
            rows = zip(x_t.split(self._size), t.split(self._size), strict=True)
            parts = zip(rows, self._split(len(x_t)), strict=True)
            return torch.cat([law.denoise(*of_rows, path) for of_rows, law in parts])
        if self._is_scalar:
            return self._scalar_denoised(x_t, t, path)[0]
        alpha = path.alpha(t).to(self.means)[:, :, None, None]  # (n, N, 1, 1)
        sigma = path.sigma(t).to(self.means)[:, :, None, None]
        residual = x_t.to(self.means)[:, :, None, :] - alpha * self.means  # (n, N, K, d)
        if self._axes is not None:
            residual = (residual[..., None, :] @ self._axes).squeeze(-2)
        V = alpha.square() * self._along + sigma.square()
        safe = torch.where(V > 0, V, 1)
        log_r = self.log_weights - 0.5 * (residual.square() / safe + safe.log()).sum(-1)
        share = softmax_(log_r)
        gain = alpha * self._along / safe
        if self._axes is None and gain.shape[2] == 1:  # one gain for all components
            average = weighted_mean(share, self.means)
            clean = average + gain[:, :, 0] * (x_t.to(average) - alpha[:, :, 0] * average)
        else:
            step = gain * residual
            if self._axes is not None:
                step = (self._axes @ step[..., None]).squeeze(-1)
            clean = weighted_mean(share, self.means + step)
        return torch.where(sigma[:, :, 0] > 0, clean, x_t.to(clean))

    def denoise_with_derivative(
        self, x_t: Tensor, t: Tensor, path: NoisePath
    ) -> tuple[Tensor, Tensor]:
        """The answer of `denoise` and its derivative sum_c r_c [A_c + (m_c(x) - m(x)) g_c^T].

        Here m_c(x) is the clean mean in component c, A_c = alpha C_c V_c^-1 its derivative, and
        g_c = -V_c^-1 (x - alpha m_c) that of the log-density of x in c.
        """
        if self._is_scalar:
            return self._scalar_derivative(x_t, t, path)
        alpha = path.alpha(t).to(self.means)[:, :, None, None]  # (n, N, 1, 1)
        sigma = path.sigma(t).to(self.means)[:, :, None, None]
        residual = x_t.to(self.means)[:, :, None, :] - alpha * self.means  # (n, N, K, d)
        if self._axes is not None:
            residual = (residual[..., None, :] @ self._axes).squeeze(-2)
        V = alpha.square() * self._along + sigma.square()
        safe = torch.where(V > 0, V, 1)
        log_r = self.log_weights - 0.5 * (residual.square() / safe + safe.log()).sum(-1)
        weights = softmax_(log_r)
        share = weights[..., None]  # (n, N, K, 1)
        gain = alpha * self._along / safe
        pull = -residual / safe
        step, slope = gain * residual, torch.diag_embed(gain)
        if self._axes is not None:
            step, pull = ((self._axes @ z[..., None]).squeeze(-1) for z in (step, pull))
            slope = self._axes @ slope @ self._axes.mT
        clean = self.means + step
        mean = weighted_mean(weights, clean)
        between = (share * (clean - mean[:, :, None])).mT @ pull  # (n, N, d, d)
        derivative = between + (share[..., None] * slope).sum(2)
        noisy = sigma[:, :, 0] > 0
        eye = torch.eye(derivative.shape[-1]).to(derivative)
        return (
            torch.where(noisy, mean, x_t.to(mean)),
            torch.where(noisy[..., None], derivative, eye),
        )

    def _scalar_denoised(
        self, x_t: Tensor, t: Tensor, path: NoisePath
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The answer of `denoise` for numbers of one variance, in few passes over the components.

        Returns:
            The answer (n, N, 1), and its parts: the shares of the components (n, N, K), and the
            means over these (n, N, 1).
        """
        alpha, sigma, V = self._levels(t, path)
        mu, x = self.means[..., 0], x_t.to(self.means)  # (n|1, N, K), (n, N, 1)
        share = softmax_((x - alpha * mu).square_().mul_(-0.5 / V).add_(self.log_weights))
        centre = torch.linalg.vecdot(share, mu)[..., None]
        gain = alpha * self.variances[..., 0] / V
        clean = centre + gain * (x - alpha * centre)
        return torch.where(sigma > 0, clean, x), share, centre

    def _scalar_derivative(self, x_t: Tensor, t: Tensor, path: NoisePath) -> tuple[Tensor, Tensor]:
        """The same with its derivative, gain + Var[m_c | x] alpha sigma^2 / V^2."""
        alpha, sigma, V = self._levels(t, path)
        clean, share, centre = self._scalar_denoised(x_t, t, path)
        deviation = self.means[..., 0] - centre
        spread = torch.linalg.vecdot(share, deviation.square_())[..., None]
        derivative = alpha * self.variances[..., 0] / V + spread * alpha * (sigma / V).square()
        return clean, torch.where(sigma > 0, derivative, 1)[..., None]

    def _levels(self, t: Tensor, path: NoisePath) -> tuple[Tensor, Tensor, Tensor]:
        """Of numbers: alpha and sigma, (n, N, 1), and V, or 1 where it is 0."""
        alpha, sigma = (of(t).to(self.means)[..., None] for of in (path.alpha, path.sigma))
        V = alpha.square() * self.variances[..., 0] + sigma.square()
        return alpha, sigma, torch.where(V > 0, V, 1)

    def coordinate(self, j: int, x: Tensor) -> MixtureOfGaussians:
        """The law of coordinate j given the token's earlier coordinates, which is again a mixture.

        Let S be the covariance of the earlier coordinates in a component, and c their covariance
        with coordinate j. The component becomes N(m_j + c^T S^-1 (x - m), C_jj - c^T S^-1 c), and
        its weight is multiplied by its density of the earlier coordinates.
        """
        own = self.means[..., [j]]  # (n|1, N, K, 1)
        if j == 0 and self._axes is None:
            return MixtureOfGaussians(self.log_weights, own, self.variances[..., [0]])
        residual = x[:, :, None, :j] - self.means[..., :j]  # (n, N, K, j)
        if self._axes is None:
            before = self.variances[..., :j]
            seen = -0.5 * (residual.square() / before + before.log()).sum(-1)
            return MixtureOfGaussians(self.log_weights + seen, own, self.variances[..., [j]])
        root = torch.linalg.cholesky(self.variances[..., :j, :j])  # of S
        innovation = torch.linalg.solve_triangular(root, residual[..., None], upper=False)
        gain = torch.linalg.solve_triangular(root, self.variances[..., :j, [j]], upper=False)
        seen = -0.5 * innovation.square().sum((-1, -2))
        seen = seen - root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        left = self.variances[..., [j], j] - gain.square().sum(-2)
        return MixtureOfGaussians(
            self.log_weights + seen, own + (gain * innovation).sum(-2), left.clamp(min=0)
        )

    def select(self, tokens: Sequence[int]) -> MixtureOfGaussians:
        """The laws of the tokens with these indices."""
        index, N = list(tokens), self._shape[1]

        def chosen(x: Tensor) -> Tensor:
            if x.shape[1] == 1 < N:
                return x
            if len(set(index)) == 1:  # a view, also where one token is asked for several times
                own = x[:, index[0], None]
                return own.expand(-1, len(index), *own.shape[2:])
            return x[:, index]

        return self._changed(chosen)

    def pick(self, index: Tensor) -> MixtureOfGaussians:
        """The law of one token of each row, as an (n, 1) law; see `TokenLaw`."""
        rows = torch.arange(len(index), device=index.device)

        def own(x: Tensor) -> Tensor:
            whole = x.expand(len(index), *x.shape[1:])
            return x if x.shape[1] == 1 < self._shape[1] else whole[rows, index][:, None]

        return self._changed(own)


def point_mass(x: Tensor) -> MixtureOfGaussians:
    """The point masses at tokens x (n, N, d)."""
    return MixtureOfGaussians(x.new_zeros(1, 1, 1), x[:, :, None], x.new_zeros(1, 1, 1, x.shape[2]))
