"""A target: a known law of sequences, with every conditional that an oracle network can need.

Each token is seen at its own noise level on a noise path: level 0 is a known token, level 1 one
that was not seen; categorical tokens have these two only. From the marginals of the clean tokens
given such a view follow the oracles of all families.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Protocol, Self

import torch
from torch import Tensor

from capcheck.core.errors import InputError, UnfitError
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import SequenceSpec
from capcheck.laws import TokenLaw
from capcheck.noise.paths import PATHS, NoisePath
from capcheck.targets.products import Products
from capcheck.targets.provenance import Provenance

__all__ = [
    "IDS",
    "NARROW",
    "CategoricalTarget",
    "ContinuousTarget",
    "Parts",
    "Target",
    "fingerprint",
    "require_one_law",
]

IDS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
NARROW = 1e-4  # noise that a score is found through, in units of the narrowest component


class Target(ABC):
    """A law of sequences of N tokens; final classes are a `ContinuousTarget` or its twin.

    Attributes:
        provenance: Where the law comes from, and how exact it is.
    """

    provenance: Provenance

    def with_provenance(self, **facts: object) -> Self:
        """The same law with other facts about where it comes from; see `Provenance`."""
        twin = copy.copy(self)
        twin.provenance = self.provenance.model_copy(update=facts)
        twin.__dict__.pop("standardised", None)  # it may have been found with other facts
        return twin

    @property
    @abstractmethod
    def spec(self) -> SequenceSpec:
        """Number, kind, size and first two moments of the tokens."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Floating-point type of every computation."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where every computation runs."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Content hash: equal for equal parameters, whatever machine built them."""

    @abstractmethod
    def to(self, *, device: torch.device | str, dtype: torch.dtype) -> Self:
        """The same law, computed elsewhere or in another precision."""

    @abstractmethod
    def sample(self, n: int, rng: Randomness) -> Tensor:
        """Independent sequences: (n, N, d), or (n, N) integers."""

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
        """The law of every clean token given every token seen at its own noise level.

        Where known categorical tokens have probability 0 together, a conditional is 0/0: the
        unconditional marginals stand in its place.

        Args:
            x: (n, N, d) tokens as seen, alpha(t) x_0 + sigma(t) e; or (n, N) integers. What stands
                at level 1 is ignored.
            levels: (n, N) in [0, 1]; categorical tokens have levels 0 and 1 only.
            path: The noise path that the levels refer to; known and unseen tokens need none.
            causal: Token i is conditioned on the tokens before it only.

        Returns:
            An (n, N) token law.
        """

    def _require(self, x: Tensor, levels: Tensor | None = None) -> None:
        """Raise InputError unless x, and the levels that its tokens are seen at, can be.

        Values of tokens at level 1 mean nothing, and are not looked at.
        """
        spec = self.spec
        shape = (spec.tokens, *spec.token_shape)
        if tuple(x.shape[1:]) != shape or x.dim() != 1 + len(shape) or len(x) == 0:
            raise InputError(
                f"x must have shape (rows, {', '.join(map(str, shape))}) with at least one row, "
                f"got {tuple(x.shape)}."
            )
        if x.is_floating_point() != (spec.kind == "continuous") or x.is_complex():
            raise InputError(f"x must hold {spec.kind} tokens, got {x.dtype}; convert it.")
        if spec.kind == "categorical" and x.dtype not in IDS:
            raise InputError(f"x must hold token ids as int64, got {x.dtype}; convert it.")
        seen = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        if levels is not None:
            if levels.shape != x.shape[:2]:
                raise InputError(
                    f"levels must have shape {tuple(x.shape[:2])}, one for each token, got "
                    f"{tuple(levels.shape)}."
                )
            two = spec.kind == "categorical"
            allowed = (levels == 0) | (levels == 1) if two else (levels >= 0) & (levels <= 1)
            if not bool(allowed.all()):
                worst = float(levels[~allowed][0])
                rule = "0 (known) or 1 (unseen)" if two else "in [0, 1]"
                raise InputError(f"levels must be {rule}, got {worst:g}.")
            seen = levels < 1
        if spec.kind == "categorical":
            outside = ((x < 0) | (x >= spec.dim)) & seen
            if bool(outside.any()):
                raise InputError(
                    f"x must hold integers from 0 to {spec.dim - 1}, got {int(x[outside][0])}."
                )

    @abstractmethod
    def kernel_mean(self, x: Tensor, bandwidth: float) -> Tensor:
        """E k(x, Y) over the target's Y, (n,); see `kernel_self_mean` for the kernel."""

    @abstractmethod
    def kernel_self_mean(self, bandwidth: float) -> float | None:
        """E k(Y, Y') over independent Y and Y', or None if the sum is too large.

        The kernel is exp(-|x - y|^2 / (2 bandwidth^2)); categorical tokens are one-hot vectors in
        it, which makes it the product of exp(-[x_i != y_i] / bandwidth^2).
        """

    @property
    def rows(self) -> int | None:
        """Rows that it must be asked about, where each has a law of its own; else None."""
        return None

    def products(self) -> Products | None:
        """The law as a mixture of products of token laws, or None if it is not given as one."""
        return None


class ContinuousTarget(Target):
    """A law of sequences of vectors in R^d."""

    @abstractmethod
    def denoise(
        self, x: Tensor, levels: Tensor, path: NoisePath, *, causal: bool = False
    ) -> Tensor:
        """E[x_0 | x seen at those levels], (n, N, d).

        Args:
            x: (n, N, d) noisy tokens.
            levels: (n, N) in [0, 1].
            path: The noise path that the levels refer to.
            causal: Token i is conditioned on the tokens up to and including itself.
        """

    @abstractmethod
    def with_noise(self, levels: Tensor, path: NoisePath = PATHS["linear"]) -> ContinuousTarget:
        """The law of the noisy tokens alpha(t_i) x_i + sigma(t_i) e.

        Args:
            levels: (N,) level t_i of each token, in [0, 1].
            path: The noise path that the levels refer to.
        """

    @abstractmethod
    def transformed(self, matrix: Tensor) -> ContinuousTarget:
        """The law of `matrix @ x` for the flat sequence x, again cut into N tokens.

        Args:
            matrix: (N d, N d), orthonormal.

        Raises:
            InputError: The matrix is not orthonormal, or the result leaves the class of laws.
        """

    @abstractmethod
    def relative_to(self, origin: Tensor, unit: float) -> ContinuousTarget:
        """The law of (x - origin) / unit.

        Args:
            origin: (N, d), in token units.
            unit: Above 0, in token units.
        """

    @functools.cached_property
    def standardised(self) -> tuple[ContinuousTarget, Tensor, Tensor]:
        """The law of (x - m) / u, with m (N, d) and u (N, d), all of one number.

        m is the mean of every coordinate, and u the unit that `provenance` states, or else the one
        that makes the mean variance 1, without the smoothing of rows. Both are in the precision of
        the law, so that tokens and their law are moved alike. Variances that this precision cannot
        hold are taken in float64.
        """
        mean, smoothing = self.spec.mean, self.provenance.bandwidth or 0.0
        wide = self.to(device=self.device, dtype=torch.float64)
        own = float(wide.spec.variance.mean().sqrt()) / math.hypot(1, smoothing)
        unit = torch.full_like(mean, self.provenance.unit or own)
        return self.relative_to(mean, float(unit.flatten()[0])), mean, unit

    def in_basis(self, matrix: Tensor) -> tuple[ContinuousTarget, Tensor]:
        """The law of `matrix @ (x / units)`, and the (N, d) units that make it exact.

        Args:
            matrix: (N d, N d), orthonormal.

        Raises:
            InputError: The matrix is not orthonormal, or the result leaves the class of laws.
        """
        return self.transformed(matrix), torch.ones_like(self.spec.mean)

    def score(self, x: Tensor) -> Tensor:
        """The gradient of the log-density, in nats per token unit: (n, N, d).

        Of one Gaussian -C^-1 (x - m); otherwise by Tweedie's formula, (E[x_0 | x] - x) / s^2 with x
        seen through noise of a ten-thousandth of the narrowest component: right to about 1e-7 of
        its largest values.

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

        Where rows have means of their own, as given tokens make, the mean is (n, N d).
        """
        return None


class CategoricalTarget(Target):
    """A law of sequences of integers in 0..V-1."""


class Parts(Protocol):
    """A tensor, or what is read like one in parts along its first axis."""

    @property
    def shape(self) -> torch.Size:
        """Of the whole."""

    def split(self, split_size: int) -> Iterable[Tensor]:
        """Parts of at most that many rows."""


def fingerprint(name: str, facts: object, tensors: Iterable[Parts]) -> str:
    """SHA-256 over a law's name, its plain facts and its parameters in float64."""
    digest = hashlib.sha256(repr((name, facts)).encode())
    for tensor in tensors:
        digest.update(repr(tuple(tensor.shape)).encode())
        for part in tensor.split(4096):  # a tensor may be larger than memory
            wide = part.double() if part.is_floating_point() else part
            digest.update(wide.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def require_one_law(target: Target, field: str) -> None:
    """Raise UnfitError if the rows of a target have laws of their own, as given tokens make."""
    if target.rows is not None:
        raise UnfitError(
            f"{field} needs one law for all rows, got tokens that are given; leave either out."
        )
