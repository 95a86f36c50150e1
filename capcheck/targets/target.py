"""A target is a known law of sequences with the exact conditionals that oracle networks need.

Token i is observed at its own noise level t_i on a noise path, as alpha(t_i) x_i + sigma(t_i) e:
level 0 is a known token and level 1 an unseen one; categorical tokens have only these two levels.
The oracles of all families follow from the marginals of the clean tokens given such an observation.
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from capcheck.core.arguments import shown
from capcheck.core.errors import InputError, UnfitError
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import SequenceSpec
from capcheck.core.slopes import LARGE, DenseSlope, Slope
from capcheck.laws import TokenLaw
from capcheck.noise.paths import PATHS, NoisePath
from capcheck.targets.products import Products
from capcheck.targets.provenance import Provenance

__all__ = [
    "EXPONENTIAL",
    "HELD",
    "CategoricalTarget",
    "ContinuousTarget",
    "Target",
    "require_one_law",
    "require_target",
    "solution_cost",
]

EXPONENTIAL = 600  # multiply-adds in the time of one component's share, with all memory traffic
DIFFERENCE = 1e-5  # shift of central differences, in deviations of the noise and the law
HELD = 1 << 24  # most probabilities of all tokens of the rows of a run: 128 MiB
NARROW = 1e-4  # noise for Tweedie's formula, in deviations of the narrowest component


class Target(ABC):
    """A law of sequences of N tokens.

    A final class derives from `ContinuousTarget` or from `CategoricalTarget`.

    Attributes:
        provenance: Origin and exactness of the law.
        recipe: What the law can be built from again, as JSON: a spec, or data with a layout; None
            for a law that was made by a program.
    """

    provenance: Provenance
    recipe: Mapping[str, Any] | None = None
    _spec: SequenceSpec

    def with_provenance(self, **facts: object) -> Self:
        """The same law with the given fields of its `Provenance` replaced."""
        twin = copy.copy(self)
        twin.provenance = self.provenance.model_copy(update=facts)
        twin.__dict__.pop("standardised", None)  # its unit depends on the provenance
        return twin

    @property
    def spec(self) -> SequenceSpec:
        """Number, kind, size and first two moments of the tokens."""
        return self._spec

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Floating-point type of every computation."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Device of every computation."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of the law's parameters, equal for equal parameters on every machine."""

    @abstractmethod
    def to(self, *, device: torch.device | str, dtype: torch.dtype) -> Self:
        """The same law on a device and in a precision."""

    @abstractmethod
    def sample(self, n: int, rng: Randomness) -> Tensor:
        """Draw n independent sequences: (n, N, d), or (n, N) integers."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """Joint log-density of the sequences x, in nats: (n,); -inf off the support."""

    @abstractmethod
    def marginals(
        self,
        x: Tensor,
        levels: Tensor,
        path: NoisePath = PATHS["linear"],
        causal: bool = False,
    ) -> TokenLaw:
        """The law of every clean token given all tokens, each observed at its own noise level.

        If the known categorical tokens have joint probability 0, the conditional is 0/0 and the
        unconditional marginals are returned in its place.

        Args:
            x: Observed tokens alpha(t) x_0 + sigma(t) e, (n, N, d); or (n, N) integers. Values at
                level 1 are ignored.
            levels: Noise levels, (n, N) in [0, 1]; 0 or 1 for categorical tokens.
            path: Noise path of the levels; irrelevant if all levels are 0 or 1.
            causal: Whether token i is conditioned only on the tokens before it.

        Returns:
            An (n, N) token law.

        Raises:
            InputError: Tokens or levels of another shape, type or range.
        """

    def one_by_one(self, x: Tensor) -> Iterator[TokenLaw]:
        """The law (n, 1) of each token given the tokens before it, from the first to the last.

        Args:
            x: Tokens, (n, N, d), or (n, N) integers. The caller may fill in a token in place
                before it asks for the law of the next one.
        """
        place = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
        for i in range(x.shape[1]):
            yield self.marginals(x, (place >= i).to(self.dtype)).select([i])

    @abstractmethod
    def kernel_mean(self, x: Tensor, bandwidth: float) -> Tensor:
        """Kernel mean E k(x, Y) over Y of the target, (n,); `kernel_self_mean` defines k."""

    @abstractmethod
    def kernel_self_mean(self, bandwidth: float) -> float | None:
        """Mean E k(Y, Y') over independent Y and Y' of the target, or None if too expensive.

        The kernel is `k(x, y) = exp(-|x - y|^2 / (2 bandwidth^2))`. Categorical tokens enter it as
        one-hot vectors, so that k is the product over tokens of exp(-[x_i != y_i] / bandwidth^2).
        """

    @property
    def rows_at_once(self) -> int | None:
        """Rows of a run whose conditionals are held at once; None for any number."""
        return None

    @property
    def rows_in_step(self) -> int | None:
        """As `rows_at_once`, of rows that know the same tokens, or first ones; at least as many."""
        return self.rows_at_once

    @property
    def rows(self) -> int | None:
        """Number of rows if each row of a batch has a law of its own, else None."""
        return None

    @property
    def left_to_right(self) -> bool:
        """Whether `marginals` has laws given the first tokens only; not so by default.

        Reading any other law then raises `UnfitError`.
        """
        return False

    def own_order_cost(self, tokens: int) -> float:
        """Multiply-adds of one row's conditionals in an order that no other row shares; 0 if few.

        Args:
            tokens: Number of tokens that become known one after the other.
        """
        return 0.0

    def products(self) -> Products | None:
        """The law as a mixture of products of token laws, or None if it has no such form."""
        return None


class ContinuousTarget(Target):
    """A law of sequences of vectors in R^d."""

    @abstractmethod
    def denoise(
        self, x: Tensor, levels: Tensor, path: NoisePath, *, causal: bool = False
    ) -> Tensor:
        """The posterior mean E[x_0 | x] of the clean tokens, (n, N, d).

        Args:
            x: Noisy tokens, (n, N, d).
            levels: Noise levels of the tokens, (n, N) in [0, 1].
            path: Noise path of the levels.
            causal: Whether token i is conditioned only on the tokens up to and including itself
                (in `marginals`, on those before it).
        """

    def denoise_with_derivative(
        self,
        x: Tensor,
        levels: Tensor,
        path: NoisePath,
        tokens: Sequence[int],
        *,
        causal: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """The posterior mean of some clean tokens, and its derivative in their noisy values.

        For tokens with noise the derivative is Cov[x_0 | x] diag(alpha / sigma^2). This default
        takes central differences of `denoise`.

        Args:
            x: Noisy tokens, (n, N, d).
            levels: Noise levels of the tokens, (n, N) in [0, 1].
            path: Noise path of the levels.
            tokens: Indices of S tokens, in rising order.
            causal: As for `denoise`.

        Returns:
            The means (n, S, d) and their derivatives (n, S d, S d), both in float64.
        """
        wide, x = self.to(device=self.device, dtype=torch.float64), x.double()
        levels, chosen = levels.double(), list(tokens)
        scale = path.sigma(levels) + path.alpha(levels) * self.spec.smallest_variance**0.5
        columns = []
        for i, j in itertools.product(chosen, range(x.shape[2])):
            shift = torch.zeros_like(x)
            shift[:, i, j] = DIFFERENCE * scale[:, i]
            ends = [
                wide.denoise(x + sign * shift, levels, path, causal=causal)[:, chosen].flatten(1)
                for sign in (1, -1)
            ]
            columns.append((ends[0] - ends[1]) / (2 * shift[:, i, j, None]))
        mean = wide.denoise(x, levels, path, causal=causal)[:, chosen]
        return mean, torch.stack(columns, 2)

    def denoise_with_slope(
        self,
        x: Tensor,
        levels: Tensor,
        path: NoisePath,
        tokens: Sequence[int],
        *,
        causal: bool = False,
    ) -> tuple[Tensor, Slope]:
        """The same as `denoise_with_derivative`, the derivative in the form that costs least."""
        mean, derivative = self.denoise_with_derivative(x, levels, path, tokens, causal=causal)
        return mean, DenseSlope(derivative)

    @property
    def derivative_cost(self) -> float:
        """Multiply-adds of one row of `denoise_with_slope` for all tokens and of its use, about.

        An exponential counts as many. This default is that of one Gaussian.
        """
        numbers = self.spec.mean.numel()
        return numbers**2 + EXPONENTIAL + solution_cost(numbers)

    @abstractmethod
    def with_noise(self, levels: Tensor, path: NoisePath = PATHS["linear"]) -> ContinuousTarget:
        """The law of the noisy tokens alpha(t_i) x_i + sigma(t_i) e.

        Args:
            levels: Level t_i of each token, (N,) in [0, 1].
            path: Noise path of the levels.
        """

    @abstractmethod
    def transformed(self, matrix: Tensor) -> ContinuousTarget:
        """The law of `matrix @ x` for the flattened sequence x, reshaped to N tokens.

        Args:
            matrix: (N d, N d), orthonormal.

        Raises:
            InputError: The matrix is not orthonormal, or the class cannot represent the result.
        """

    @abstractmethod
    def relative_to(self, origin: Tensor, unit: float) -> ContinuousTarget:
        """The law of (x - origin) / unit.

        Args:
            origin: Origin, (N, d), in token units.
            unit: Unit in token units, above 0.
        """

    @functools.cached_property
    def standardised(self) -> tuple[ContinuousTarget, Tensor, Tensor]:
        """The law of (x - m) / u, the mean m (N, d), and the unit u (N, d) with equal entries.

        The unit u is `provenance.unit`, or if that is None the value that makes the mean variance
        of the rows 1, before they were smoothed. Both m and u are in the precision of the law, so
        that tokens and their law are moved alike. The variances are computed in float64, as the
        precision of the law may not hold them.
        """
        mean, smoothing = self.spec.mean, self.provenance.bandwidth or 0.0
        wide = self.to(device=self.device, dtype=torch.float64)
        own = float(wide.spec.variance.mean().sqrt()) / math.hypot(1, smoothing)
        unit = torch.full_like(mean, self.provenance.unit or own)
        return self.relative_to(mean, float(unit.flatten()[0])), mean, unit

    def in_basis(self, matrix: Tensor) -> tuple[ContinuousTarget, Tensor]:
        """The law of `matrix @ (x / units)`, and the units (N, d) for which it is exact.

        Args:
            matrix: (N d, N d), orthonormal.

        Raises:
            InputError: The matrix is not orthonormal, or the class cannot represent the result.
        """
        return self.transformed(matrix), torch.ones_like(self.spec.mean)

    def log_prob_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both at x (n, N, d), for classes that have them in the time of one: (n,), (n, N, d)."""
        return self.log_prob(x), self.score(x)

    def score(self, x: Tensor) -> Tensor:
        """The gradient of the log-density at x, in nats per token unit: (n, N, d).

        For a single Gaussian it is -C^-1 (x - m). Otherwise it is Tweedie's formula,
        (E[x_0 | x] - x) / s^2, with noise s of `NARROW` standard deviations of the narrowest
        component; its error is about 1e-7 of the largest values.

        Args:
            x: (n, N, d).
        """
        wide = self.to(device=self.device, dtype=torch.float64)
        if (moments := wide.gaussian()) is not None:
            mean, covariance = moments
            residual = x.to(mean).flatten(1) - mean
            pull: Tensor = torch.linalg.solve(covariance, residual.T).T
            return -pull.reshape(x.shape).to(x.dtype)
        s = NARROW * wide.spec.smallest_variance**0.5
        path = PATHS["linear"]
        t = torch.full(x.shape[:2], s / (1 + s), dtype=torch.float64, device=x.device)
        alpha = path.alpha(t)[..., None]
        noisy = x.to(torch.float64) * alpha
        clean = wide.denoise(noisy, t, path)
        score: Tensor = (clean - x) / s**2
        return score.to(x.dtype)

    def gaussian(self) -> tuple[Tensor, Tensor] | None:
        """Mean (N d,) and covariance (N d, N d) if the law is a single Gaussian, else None.

        If each row has a law of its own (see `rows`), the mean is (n, N d).
        """
        return None


class CategoricalTarget(Target):
    """A law of sequences of integers in 0..V-1."""

    @property
    def rows_at_once(self) -> int:
        """As many rows as have `HELD` probabilities, of which procedures hold several copies."""
        return max(1, HELD // (self._spec.tokens * self._spec.dim))

    @property
    def conditional_cost(self) -> float:
        """Multiply-adds of one row of `marginals` for all tokens; 0, as by default, if few."""
        return 0.0

    @property
    def noisy_cost(self) -> float:
        """Multiply-adds of one row of `noisy_marginals` for all tokens; 0 if few."""
        return self.conditional_cost

    def noisy_marginals(self, x: Tensor, keep: Tensor) -> TokenLaw | None:
        """The law of every clean token given all tokens, each seen with uniform noise of its own.

        A noisy token is the clean one with probability `keep`, and a symbol drawn uniformly from
        all V otherwise; see `capcheck.noise.uniform`. With `keep` 0 everywhere these are the
        unconditional marginals, and a token with `keep` 1 is a point mass.

        Args:
            x: Noisy tokens, (n, N) integers; values where `keep` is 0 are ignored.
            keep: Keep-probability of each token, (n, N) in [0, 1].

        Returns:
            An (n, N) token law; None, as by default, if it is not known.

        Raises:
            InputError: Tokens or keep-probabilities of another shape, type or range.
        """
        return None

    def log_prob_of_values(self, x: Tensor, token: int) -> Tensor | None:
        """The joint log-probability (nats) of x (n, N) with each value of one token, (n, V).

        None, as by default, if it costs as much as V calls of `log_prob`.
        """
        return None

    def support(self) -> tuple[Tensor, Tensor] | None:
        """The sequences of positive probability, (K, N), and their log-probabilities, (K,).

        None, as by default, if the law does not list them.
        """
        return None

    def mean_conditional_entropies(self) -> Tensor | None:
        """The mean of H(X_i | X_S) over sets S of m tokens and other tokens i, for m = 0..N-1.

        Returns:
            (N,) in nats; None, as by default, if there is no closed form.
        """
        return None


def solution_cost(numbers: int) -> float:
    """Multiply-adds of solving with a matrix that is written out; small ones cost no time."""
    return numbers**3 if numbers > LARGE else 0.0


def require_target(target: object) -> None:
    """Raise InputError unless the value is a target."""
    if isinstance(target, Target):
        return
    cure = "from_spec" if isinstance(target, str) else "from_samples"
    raise InputError(
        f"target must be a Target, got {shown(target)}; make one with capcheck.targets.{cure}."
    )


def require_one_law(target: Target, field: str) -> None:
    """Raise UnfitError if each row has a law of its own, as in a conditional law."""
    if target.rows is not None:
        raise UnfitError(
            f"{field} needs one law for all rows, got tokens that are given; leave either out."
        )
