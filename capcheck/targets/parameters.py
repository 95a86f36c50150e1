"""Validation of the parameters of laws: real tensors whose squares their precision can hold.

A standard deviation s enters densities as s^2 and 1 / s^2. A law is therefore refused unless every
s is in [1/LIMIT, LIMIT] and every |mean| at most LIMIT, where LIMIT^2 and 1/LIMIT^2 are normal
numbers of the law's precision (`LIMITS`). Weights are normalised to sum_c w_c = 1 in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral

import torch
from torch import Tensor

from capcheck.core.arguments import real_number, shown, whole_number
from capcheck.core.errors import InputError
from capcheck.targets.provenance import Provenance

__all__ = [
    "EVEN",
    "LIMITS",
    "MOST",
    "Grid",
    "mixture_weights",
    "require_count",
    "require_deviations",
    "require_grid",
    "require_levels",
    "require_orthonormal",
    "require_precision",
    "require_provenance",
    "require_reals",
    "require_scored",
    "require_share",
    "require_size",
    "require_tables",
    "require_tensor",
    "require_weights",
]

LIMITS = {torch.float64: 1e100, torch.float32: 1e15}
MOST = 2**31 - 1  # largest count, far more than any memory holds
EVEN = 1e100  # weights whose sum is outside (1/EVEN, EVEN) are first divided by the largest

Grid = tuple[int, int] | None  # (rows, columns) of the tokens, if they have any


def require_tensor(name: str, value: object) -> Tensor:
    """The tensor, detached from its graph.

    Raises:
        InputError: The value is not a tensor of real numbers.
    """
    if not isinstance(value, Tensor):
        raise InputError(
            f"{name} must be a tensor, got {type(value).__name__}; make one with torch.tensor."
        )
    if value.is_complex():
        raise InputError(f"{name} must be real numbers, got {value.dtype}; take the real part.")
    return value.detach()


def require_precision(name: str, dtype: object) -> None:
    """Raise InputError unless the precision is float32 or float64."""
    if not isinstance(dtype, torch.dtype) or dtype not in LIMITS:
        raise InputError(
            f"{name} must be float32 or float64, got {shown(dtype)}; convert to float64."
        )


def require_reals(name: str, value: object, axes: str) -> Tensor:
    """The floating-point tensor of three non-empty axes, detached from its graph.

    Args:
        name: Name of the tensor in messages.
        value: The tensor.
        axes: Names of its axes in messages.

    Raises:
        InputError: The value is not a tensor, or has another precision or shape.
    """
    tensor = require_tensor(name, value)
    if tensor.dim() != 3 or tensor.numel() == 0 or tensor.dtype not in LIMITS:
        raise InputError(
            f"{name} must be floating-point numbers (float32 or float64) of shape {axes}, none of "
            f"them 0, got {tensor.dtype} of {tuple(tensor.shape)}."
        )
    return tensor


def require_size(name: str, values: Tensor) -> None:
    """Raise InputError unless all values are finite and at most LIMIT in size."""
    if not bool(values.isfinite().all()):
        raise InputError(f"{name} must be finite, got NaN or infinity; repair them.")
    limit = LIMITS[values.dtype]
    if not float(values.abs().max()) <= limit:
        raise InputError(
            f"{name} must be at most {limit:g} in size, got {float(values.abs().max()):g}; "
            "rescale the tokens."
        )


def require_deviations(name: str, values: Tensor) -> None:
    """Raise InputError unless all standard deviations are in [1/LIMIT, LIMIT]."""
    if not bool((values.isfinite() & (values > 0)).all()):
        broken = values[~(values.isfinite() & (values > 0))]
        raise InputError(
            f"{name} must be finite and positive, got {float(broken[0]):g}; repair them."
        )
    limit = LIMITS[values.dtype]
    low, high = float(values.min()), float(values.max())
    if not (1 / limit <= low and high <= limit):
        raise InputError(
            f"{name} must be from {1 / limit:g} to {limit:g} in {values.dtype}, got "
            f"{high if high > limit else low:g}; rescale the tokens."
        )


def mixture_weights(weights: object, count: int, like: Tensor) -> Tensor:
    """Normalised weights of components, (count,), in the precision and on the device of `like`.

    Args:
        weights: (count,) real numbers, or None for equal ones.
        count: Number of components.
        like: A tensor of the law.

    Raises:
        InputError: The weights have another type or shape, are negative, not finite or all 0.
    """
    if weights is None:
        return require_weights(like.new_ones(count, dtype=torch.float64), count).to(like)
    given = require_tensor("weights", weights)
    if given.dtype == torch.bool:
        raise InputError(f"weights must be real numbers, got {given.dtype}; convert to float64.")
    w = given.to(like.device, torch.float64)
    if w.numel() > 0 and bool(w.isfinite().all()) and not 1 / EVEN < float(w.sum()) < EVEN:
        w = w / w.abs().max().clamp(min=torch.finfo(w.dtype).tiny)
    return require_weights(w, count).to(like)


def require_share(name: str, value: object) -> float:
    """The value as a float in [0, 1).

    Raises:
        InputError: The value is not a real number in [0, 1).
    """
    return real_number(name, value, "at least 0 and below 1", lambda share: 0 <= share < 1)


def require_count(name: str, value: object, *, least: int = 1, most: int | None = None) -> int:
    """The value as an integer of at least `least` and at most `most`.

    Raises:
        InputError: The value is not an integer, or outside this range.
    """
    return whole_number(name, value, least, most)


def require_orthonormal(matrix: Tensor, size: int) -> None:
    """Raise InputError unless the matrix is real, (size, size) and orthonormal to 1e-6."""
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
    """Normalised weights of mixture components, (count,).

    Raises:
        InputError: The weights have another shape, are negative, not finite or all 0.
    """
    if tuple(weights.shape) != (count,):
        raise InputError(f"weights must have shape ({count},), got {tuple(weights.shape)}.")
    if not bool(weights.isfinite().all()):
        raise InputError("weights must be finite, got NaN or infinity.")
    if not (bool((weights >= 0).all()) and float(weights.sum()) > 0):
        raise InputError("weights must be non-negative and not all zero; drop or fix the rows.")
    return weights / weights.sum()


def require_tables(tables: Mapping[str, Tensor]) -> list[Tensor]:
    """The tables of probabilities or potentials, detached from their graphs.

    Raises:
        InputError: A table does not hold floating-point numbers, differs from the first in type or
            device, or holds a negative, infinite or NaN number.
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


def require_grid(grid: object, tokens: int) -> Grid:
    """The grid as a tuple, or None.

    Raises:
        InputError: It is neither None nor (rows, columns) of `tokens` places in all.
    """
    if grid is None:
        return None
    sides = grid if isinstance(grid, (tuple, list)) else ()
    if len(sides) == 2 and all(isinstance(side, Integral) for side in sides):
        rows, columns = int(sides[0]), int(sides[1])
        if rows > 0 and rows * columns == tokens:
            return rows, columns
    raise InputError(
        f"grid must be whole numbers (rows, columns) that hold the {tokens} tokens, "
        f"got {shown(grid)}."
    )


def require_provenance(provenance: object) -> None:
    """Raise InputError unless it is None or a `Provenance`."""
    if not isinstance(provenance, (Provenance, type(None))):
        raise InputError(
            f"provenance must be a Provenance, got {shown(provenance)}; write "
            "Provenance(description='...')."
        )


def require_scored(scored: tuple[int, ...] | None, tokens: int) -> None:
    """Raise InputError unless `scored` is None or rising indices of some tokens."""
    if scored is None:
        return
    if not isinstance(scored, tuple):
        raise InputError(f"scored must be a tuple of tokens, got {shown(scored)}; write (0,).")
    for one in scored:
        whole_number("scored", one)
    if not scored or not set(scored) <= set(range(tokens)) or sorted({*scored}) != list(scored):
        raise InputError(
            f"scored must list some of the tokens 0 to {tokens - 1} in rising order, "
            f"got {shown(scored)}."
        )


def require_levels(levels: Tensor, tokens: int) -> None:
    """Raise InputError unless the noise levels are (N,), real and in [0, 1]."""
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
