"""A target: a known law of sequences, with every conditional that an oracle network can need.

Each token is seen at its own noise level on a noise path: level 0 is a known token, level 1 one
that was not seen; categorical tokens have these two only. From the marginals of the clean tokens
given such a view follow the oracles of all families.
"""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from capcheck.errors import InputError
from capcheck.laws import TokenLaw
from capcheck.paths import PATHS, NoisePath
from capcheck.randomness import Randomness
from capcheck.sequences import SequenceSpec
from capcheck.targets.products import Products

IDS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
NARROW = 1e-4  # noise that a score is found through, in units of the narrowest component


class HeldOut(BaseModel):
    """How well a target built from most of the user's rows predicts the others.

    Attributes:
        rows: Rows held out.
        log_likelihood: Their mean log-likelihood under such a target, in nats per sequence.
        in_sample: The same for the rows that the target was built from.
        baseline: The held-out score of a law that no row is remembered by.
        baseline_name: Which law that is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    log_likelihood: float
    in_sample: float
    baseline: float
    baseline_name: str

    @property
    def memorises(self) -> bool:
        """Whether the baseline predicts unseen rows better than this target does."""
        return not self.log_likelihood >= self.baseline


class Picture(BaseModel):
    """How to show a sequence as an image: pixels = offset + tokens (flat) @ basis.

    Attributes:
        rows: Height in pixels.
        columns: Width in pixels.
        offset: (rows x columns,) pixel values of the sequence of zeros.
        basis: (N d, rows x columns).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    columns: int
    offset: tuple[float, ...]
    basis: tuple[tuple[float, ...], ...]


class Provenance(BaseModel):
    """Where a target comes from, and how exact it is.

    Attributes:
        description: One line for readers of a report.
        exactness: How the law relates to what the user asked for: `analytic` (in closed form),
            `enumerated`, or `fitted surrogate` (built from the user's rows).
        bandwidth: Smoothing of the rows, in standard deviations of each token, if there is one.
        held_out: How far a surrogate is from the user's data, if rows could be held out.
        source: Name of the data, if it was loaded.
        preparation: What was done to the data before it became tokens.
        picture: How to show a sequence as an image, if it is one.
        vocabulary: What each value of a categorical token stands for, if it has a name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str
    exactness: Literal["analytic", "enumerated", "fitted surrogate"] = "analytic"
    bandwidth: float | None = None
    held_out: HeldOut | None = None
    source: str | None = None
    preparation: str | None = None
    picture: Picture | None = None
    vocabulary: tuple[str, ...] | None = None


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
        """Mean (N d,) and covariance (N d, N d) if the law is a single Gaussian, else None."""
        return None


class CategoricalTarget(Target):
    """A law of sequences of integers in 0..V-1."""


def fingerprint(name: str, facts: object, tensors: Iterable[Tensor]) -> str:
    """SHA-256 over a law's name, its plain facts and its parameters in float64."""
    digest = hashlib.sha256(repr((name, facts)).encode())
    for tensor in tensors:
        digest.update(repr(tuple(tensor.shape)).encode())
        for part in tensor.split(4096):  # a tensor may be larger than memory
            wide = part.double() if part.is_floating_point() else part
            digest.update(wide.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def require_orthonormal(matrix: Tensor, size: int) -> None:
    """Raise InputError unless the matrix is orthonormal of that size."""
    if tuple(matrix.shape) != (size, size):
        raise InputError(
            f"matrix must have shape {(size, size)} for the flat sequence, "
            f"got {tuple(matrix.shape)}."
        )
    if matrix.is_complex():
        raise InputError(f"matrix must be real, got {matrix.dtype}.")
    wide = matrix.double()
    error = float((wide @ wide.T - torch.eye(size).to(wide)).abs().max())
    if not error < 1e-6:
        raise InputError(
            f"matrix must be orthonormal, got one whose M M^T is off by {error:.3g}; "
            "use for example the Q of a QR decomposition."
        )


def require_weights(weights: Tensor, count: int) -> Tensor:
    """Normalised weights of mixture components.

    Raises:
        InputError: Wrong shape, negative, not finite or all 0.
    """
    if tuple(weights.shape) != (count,):
        raise InputError(f"weights must have shape ({count},), got {tuple(weights.shape)}.")
    if not bool(weights.isfinite().all()):
        raise InputError("weights must be finite, got NaN or infinity.")
    if not (bool((weights >= 0).all()) and float(weights.sum()) > 0):
        raise InputError("weights must be non-negative and not all zero; drop or fix the rows.")
    return weights / weights.sum()


def require_tables(tables: Mapping[str, Tensor]) -> list[Tensor]:
    """Tables of probabilities or potentials, cut from any graph they were computed in.

    Raises:
        InputError: One is not of floating-point numbers, its type or device is not that of the
            first, or a number is negative, infinite or NaN.
    """
    first, like = next(iter(tables.items()))
    for name, table in tables.items():
        if not table.is_floating_point():
            raise InputError(
                f"{name} must hold floating-point numbers, got {table.dtype}; call its double()."
            )
        if (table.dtype, table.device) != (like.dtype, like.device):
            raise InputError(
                f"{name} must have the type and device of {first}, {like.dtype} on {like.device}, "
                f"got {table.dtype} on {table.device}; convert it with to({first})."
            )
        if not bool((table.isfinite() & (table >= 0)).all()):
            raise InputError(f"{name} must be finite and not negative; repair it.")
    return [table.detach() for table in tables.values()]


def require_grid(grid: tuple[int, int] | None, tokens: int) -> None:
    """Raise InputError unless the grid, if there is one, holds the tokens."""
    if grid is None:
        return
    whole = len(grid) == 2 and all(isinstance(side, int) and side > 0 for side in grid)
    if not whole or grid[0] * grid[1] != tokens:
        raise InputError(
            f"grid must be whole numbers (rows, columns) that hold the {tokens} tokens, "
            f"got {grid!r}."
        )


def require_levels(levels: Tensor, tokens: int) -> None:
    """Raise InputError unless the noise levels are one in [0, 1] for each token, (N,)."""
    if tuple(levels.shape) != (tokens,):
        raise InputError(
            f"levels must have shape ({tokens},), one for each token, got {tuple(levels.shape)}."
        )
    if levels.is_complex():
        raise InputError(f"levels must be real and in [0, 1], got {levels.dtype}; convert them.")
    allowed = (levels >= 0) & (levels <= 1)
    if not bool(allowed.all()):
        worst = float(levels[~allowed][0])
        raise InputError(f"levels must be in [0, 1], got {worst:g}; 0 is known and 1 is unseen.")


def require_one_law(target: Target, field: str) -> None:
    """Raise InputError if the rows of a target have laws of their own, as given tokens make."""
    if target.rows is not None:
        raise InputError(
            f"{field} needs one law for all rows, got tokens that are given; leave either out."
        )
