"""Layout: the map from rows of numbers to sequences of tokens, and from sequences back to pixels.

An array (n, N) holds n rows of N tokens of dimension 1, (n, N, d) has tokens of dimension d, and
(n, H, W, C) holds images with one token per pixel. With `pca`, rows are replaced by their whitened
principal components. All other rows are centred and divided by one number that makes the mean
variance 1, the variance of the noise that paths start from; relative divergences do not change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from capcheck.core.arguments import one_of, shown, whole_number
from capcheck.core.errors import InputError
from capcheck.core.sequences import Kind
from capcheck.targets.parameters import MOST
from capcheck.targets.provenance import Picture

__all__ = [
    "LARGEST_PICTURE",
    "PART",
    "Layout",
    "Prepared",
    "picture",
    "standardised",
    "token_shape",
    "whitened",
]

PART = 1 << 20  # most numbers that are centred at once
LARGEST_PICTURE = 1 << 16  # most numbers of a picture's basis that a manifest stores


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The user's choices of how data become sequences of tokens; None means the default.

    Attributes:
        tokens: Number N of tokens; for text, the length of a window.
        token_dim: Dimension d of a continuous token.
        pca: Number of whitened principal components that replace a row.
        grid: (rows, columns) of the tokens.
        kind: `continuous` or `categorical`; integers are categorical unless this says otherwise.
        unit: Tokens of text: `characters`, `bytes` or `words`.
        split: Documents of text: the whole `file`, or each of its `lines`.
    """

    tokens: int | None = None
    token_dim: int | None = None
    pca: int | None = None
    grid: tuple[int, int] | None = None
    kind: Kind | None = None
    unit: Literal["characters", "bytes", "words"] = "characters"
    split: Literal["file", "lines"] = "file"

    def __post_init__(self) -> None:
        """Check the types, and keep NumPy integers as ints and a list as a tuple.

        Raises:
            InputError: A number is no whole number of at least 1, or a name is unknown.
        """
        own = object.__setattr__
        for name in ("tokens", "token_dim", "pca"):
            if (value := getattr(self, name)) is not None:
                own(self, name, whole_number(name, value, 1, MOST))
        if self.grid is not None:
            if not isinstance(self.grid, (tuple, list)) or len(self.grid) != 2:
                raise InputError(
                    f"grid must be whole numbers (rows, columns), got {shown(self.grid)}."
                )
            own(self, "grid", tuple(whole_number("grid", side, 1, MOST) for side in self.grid))
        if self.kind is not None:
            one_of("kind", self.kind, get_args(Kind))
        one_of("unit", self.unit, ("characters", "bytes", "words"))
        one_of("split", self.split, ("file", "lines"))


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Centred and scaled rows (n, D), and the affine map back: pixels = offset + row @ basis."""

    rows: np.ndarray
    preparation: str
    offset: np.ndarray  # (pixels,)
    basis: np.ndarray  # (D, pixels)


def whitened(rows: np.ndarray, components: int) -> Prepared:
    """The leading principal components of rows (n, D), each of variance 1.

    Raises:
        InputError: The rows are all equal, or have fewer principal components.
    """
    most = min(rows.shape[1], len(rows) - 1)
    if not np.ptp(rows, axis=0).any():
        raise InputError(f"pca must be of rows that differ, got {len(rows)} equal; leave pca out.")
    if not 1 <= components <= most:
        rule = "1" if most == 1 else f"between 1 and {most}"
        raise InputError(
            f"pca must be {rule} for {len(rows)} rows of {rows.shape[1]} numbers, got {components}."
        )
    rows = rows.astype(np.float64, copy=False)
    from sklearn.decomposition import PCA  # scikit-learn takes a second to load

    fitted = PCA(components, whiten=True, svd_solver="full").fit(rows)
    scale = np.sqrt(fitted.explained_variance_)
    if not scale[-1] > 1e-10 * scale[0]:
        rank = int((scale > 1e-10 * scale[0]).sum())
        raise InputError(f"pca must be at most the rank {rank} of the data, got {components}.")
    share = fitted.explained_variance_ratio_.sum()
    return Prepared(
        rows=fitted.transform(rows),
        preparation=f"{components} whitened principal components ({share:.0%} of the variance)",
        offset=fitted.mean_,
        basis=scale[:, None] * fitted.components_,
    )


def standardised(rows: np.ndarray) -> Prepared:
    """Rows (n, D), centred and divided by one number that makes the mean variance 1.

    The computation is in float64 and in parts; the result has the precision of the rows.
    """
    size = max(1, PART // rows.shape[1])
    parts = [slice(start, start + size) for start in range(0, len(rows), size)]
    mean = rows.mean(0, dtype=np.float64)
    squares = sum(float(((rows[part] - mean) ** 2).sum()) for part in parts)
    scale = math.sqrt(squares / rows.size) or 1.0
    made = np.empty(rows.shape, dtype=rows.dtype)
    for part in parts:
        made[part] = (rows[part] - mean) / scale
    return Prepared(
        rows=made,
        preparation=f"centred and divided by {scale:.4g}",
        offset=mean,
        basis=scale * np.eye(rows.shape[1]) if rows.shape[1] ** 2 <= LARGEST_PICTURE else np.eye(0),
    )


def token_shape(
    natural: tuple[int, ...], layout: Layout
) -> tuple[int, int, tuple[int, int] | None]:
    """Number of tokens, their dimension and their grid, from a row's shape and the layout.

    Raises:
        InputError: The tokens, their dimension and their grid do not fit the row.
    """
    size = int(np.prod(natural))
    grid = layout.grid
    if len(natural) == 3:
        grid = grid or (natural[0], natural[1])
        natural = (natural[0] * natural[1], natural[2])
    tokens = layout.tokens or (grid[0] * grid[1] if grid else None)
    if tokens is None:
        dim = layout.token_dim or (natural[1] if len(natural) == 2 else 1)
        tokens = size // dim
    dim = layout.token_dim or size // tokens or 1
    if tokens * dim != size:
        raise InputError(
            f"tokens x token-dim must be the {size} numbers of a row, got {tokens} x {dim}; "
            "change one of them, or choose with pca how many numbers a row has."
        )
    if grid and grid[0] * grid[1] != tokens:
        raise InputError(f"grid must hold the {tokens} tokens, got {grid[0]}x{grid[1]}.")
    return tokens, dim, grid


def picture(shape: tuple[int, ...], layout: Layout, prepared: Prepared) -> Picture | None:
    """The map from rows to grey images, or None if rows are no grey images or the map is large."""
    if len(shape) == 3 and shape[2] == 1:
        shape = shape[:2]
    if len(shape) != 2 and layout.grid and layout.pca is None:
        shape = layout.grid
    is_image = len(shape) == 2 and shape[0] * shape[1] == len(prepared.offset)
    if not is_image or prepared.basis.size > LARGEST_PICTURE or prepared.basis.size == 0:
        return None
    return Picture(
        rows=shape[0],
        columns=shape[1],
        offset=tuple(prepared.offset.tolist()),
        basis=tuple(map(tuple, prepared.basis.tolist())),
    )
