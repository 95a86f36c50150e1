"""From the user's data to a target: loading, preparation and layout into tokens.

An array (n, N) is n rows of N tokens of dimension 1, (n, N, d) has tokens of dimension d, and
(n, H, W, C) is images with a token per pixel. `pca` replaces a row by its whitened principal
components first. Anything else is centred and divided by one number, so that the mean variance of
a token is 1: noise paths start from unit noise, and relative divergences do not change.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from capcheck.errors import InputError, near
from capcheck.targets.empirical import LARGE, from_samples
from capcheck.targets.product_mixture import ProductMixture
from capcheck.targets.target import Picture

NAMED = ("digits",)
LARGEST_PICTURE = 1 << 16  # numbers of a picture's basis that are worth storing in a manifest


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How rows become sequences of tokens.

    Attributes:
        tokens: Number N of tokens.
        token_dim: Dimension d of a token.
        pca: Number of whitened principal components that replace a row.
        grid: (rows, columns) of the tokens.
    """

    tokens: int | None = None
    token_dim: int | None = None
    pca: int | None = None
    grid: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """Rows (n, D) that are ready to be cut into tokens, and how to go back to pixels."""

    rows: np.ndarray
    preparation: str
    offset: np.ndarray  # (pixels,)
    basis: np.ndarray  # (D, pixels)


def load_target(
    data: str, layout: Layout, *, bandwidth: float | Literal["auto"] = "auto"
) -> ProductMixture:
    """Build a target from a file or from data that ships with a dependency.

    Args:
        data: Path of a `.npy` file of real numbers, or `digits` (scikit-learn's 1,797 handwritten
            digits of 8x8 pixels; 8 whitened principal components as tokens unless the layout says
            otherwise).
        layout: How rows become sequences.
        bandwidth: As for `from_samples`.

    Raises:
        InputError: No such data, unreadable, not finite, or a layout that does not fit it.
    """
    array, layout = _digits(layout) if data == "digits" else (_npy(data), layout)
    shape = array.shape[1:] if data != "digits" else (8, 8)
    flat = array.reshape(len(array), -1)
    prepared = _whitened(flat, layout.pca) if layout.pca else _standardised(flat)
    natural = (layout.pca,) if layout.pca else array.shape[1:]
    N, d, grid = _token_shape(natural, layout)
    target = from_samples(prepared.rows.reshape(-1, N, d), bandwidth=bandwidth, grid=grid)
    return target.with_provenance(
        source=data if data in NAMED else Path(data).name,
        preparation=prepared.preparation,
        picture=_picture(shape, layout, prepared),
    )


def _digits(layout: Layout) -> tuple[np.ndarray, Layout]:
    array = load_digits().data
    if layout.pca is None and layout.grid is None:
        dim = layout.token_dim or 1
        tokens = layout.tokens or max(8 // dim, 1)
        rank = int(np.linalg.matrix_rank(array - array.mean(0)))
        if tokens * dim > rank:
            raise InputError(
                f"tokens x token-dim must be at most {rank}, the principal components of digits, "
                f"got {tokens} x {dim}; give --grid 8x8 for pixels as tokens."
            )
        layout = Layout(tokens=tokens, token_dim=dim, pca=tokens * dim)
    elif layout.pca is None and layout.grid != (8, 8):
        raise InputError(
            "grid of digits must be 8x8, its pixels, unless pca makes other tokens, "
            f"got {'x'.join(map(str, layout.grid or ()))}."
        )
    return array, layout


def _npy(data: str) -> np.ndarray:
    path = Path(data)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        hint = f" {near(data, NAMED)}" if path.suffix == "" else " check the path."
        raise InputError(f"data {data!r} {what};{hint}")
    if path.suffix != ".npy":
        raise InputError(f"data must be a .npy file or one of {', '.join(NAMED)}, got {data!r}.")
    if path.stat().st_size == 0:
        raise InputError(f"data {data!r} is an empty file; save an array of rows to it.")
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(
            f"data {data!r} cannot be read as an array of numbers "
            f"({str(error).splitlines()[0].rstrip('.')}); save it with numpy.save."
        ) from None
    return _real_rows(array, data)


def _real_rows(array: np.ndarray, data: str) -> np.ndarray:
    if not np.issubdtype(array.dtype, np.floating):
        hint = (
            "integers would be token ids, which this version cannot take; save pixels as floats."
            if np.issubdtype(array.dtype, np.integer)
            else "save it as float64."
        )
        raise InputError(
            f"data {data!r} must hold floating-point numbers, got {array.dtype}; {hint}"
        )
    if array.ndim == 1:
        array = array[:, None]
    if not 2 <= array.ndim <= 4 or array.size == 0:
        raise InputError(
            f"data {data!r} must have shape (rows, tokens), (rows, tokens, dim) or "
            f"(rows, height, width, channels), none of them 0, got {array.shape}."
        )
    rows = array.astype(np.float64)
    if np.abs(rows[np.isfinite(rows)]).max(initial=0) >= LARGE:
        raise InputError(f"data {data!r} must be below {LARGE:g} in size; rescale it.")
    bad = int((~np.isfinite(rows.reshape(len(rows), -1))).any(axis=1).sum())
    if bad:
        raise InputError(
            f"data {data!r} must be finite, got NaN or infinity in {bad} of {len(rows)} rows; "
            "drop or repair them."
        )
    return rows


def _whitened(rows: np.ndarray, components: int) -> _Prepared:
    most = min(rows.shape[1], len(rows) - 1)
    if not 1 <= components <= most:
        raise InputError(
            f"pca must be between 1 and {most} for {len(rows)} rows of {rows.shape[1]} numbers, "
            f"got {components}."
        )
    fitted = PCA(components, whiten=True, svd_solver="full").fit(rows)
    scale = np.sqrt(fitted.explained_variance_)
    if not scale[-1] > 1e-10 * scale[0]:
        rank = int((scale > 1e-10 * scale[0]).sum())
        raise InputError(f"pca must be at most the rank {rank} of the data, got {components}.")
    share = fitted.explained_variance_ratio_.sum()
    return _Prepared(
        rows=fitted.transform(rows),
        preparation=f"{components} whitened principal components ({share:.0%} of the variance)",
        offset=fitted.mean_,
        basis=scale[:, None] * fitted.components_,
    )


def _standardised(rows: np.ndarray) -> _Prepared:
    mean = rows.mean(0)
    scale = float(np.sqrt(((rows - mean) ** 2).mean())) or 1.0
    return _Prepared(
        rows=(rows - mean) / scale,
        preparation=f"centred and divided by {scale:.4g}",
        offset=mean,
        basis=scale * np.eye(rows.shape[1]) if rows.shape[1] ** 2 <= LARGEST_PICTURE else np.eye(0),
    )


def _token_shape(
    natural: tuple[int, ...], layout: Layout
) -> tuple[int, int, tuple[int, int] | None]:
    """Number of tokens, their dimension and their grid, from a row's shape and the layout."""
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


def _picture(shape: tuple[int, ...], layout: Layout, prepared: _Prepared) -> Picture | None:
    """Rows that were grey images can be shown as such, if the way back is small enough."""
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
