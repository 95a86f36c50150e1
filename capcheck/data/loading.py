"""Loading builds a target from a name, file or folder: it reads, lays out and fits a law."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np

from capcheck.core.errors import InputError, near
from capcheck.data import named
from capcheck.data.files import read
from capcheck.data.laws import build_law
from capcheck.data.layout import Layout, picture, standardised, token_shape, whitened
from capcheck.data.text import (
    END,
    read_bytes,
    read_documents,
    windows,
    words_of,
)
from capcheck.targets.from_data.empirical import require_finite
from capcheck.targets.target import Target

__all__ = ["NAMED", "WINDOW", "load_target", "target_of_rows"]

NAMED = ("digits", "patches", "text")
WINDOW = 16  # default number of tokens of a window of text


def load_target(
    data: str, layout: Layout, *, law: str = "auto", bandwidth: float | None = None
) -> Target:
    """Build a target from a file, a folder of images, or data that ships with a dependency.

    Args:
        data: Path of a .npy, .npz, .csv, .parquet, .pt, .safetensors or .txt file, or of a folder
            of images; or a name of data of scikit-learn: `digits` (1,797 handwritten digits of 8x8
            pixels, by default 8 whitened principal components), `patches` (8,480 grey 8x8 patches
            of photographs, by default 16 whitened principal components) or `text` (characters of
            English descriptions of data sets).
        layout: Layout of the data as sequences.
        law: Name of the law, see `capcheck.data.laws`; by default `auto`.
        bandwidth: Smoothing as for `from_samples`.

    Raises:
        InputError: The data do not exist, cannot be read or are not finite, or the layout or law
            does not fit them.
    """
    target = _loaded(data, layout, law, bandwidth)
    again = data if data in NAMED else os.path.abspath(data)
    recipe = {"data": again, "layout": dataclasses.asdict(layout), "law": law}
    target.recipe = recipe | {"bandwidth": bandwidth}
    return target


def _loaded(data: str, layout: Layout, law: str, bandwidth: float | None) -> Target:
    if data == "text" or Path(data).suffix.lower() == ".txt":
        return _of_text(data, layout, law, bandwidth)
    _refuse(layout, data, "text", unit="characters", split="file")
    array = _named(data) if data in NAMED else _array(data)
    return target_of_rows(array, data, layout, law=law, bandwidth=bandwidth)


def target_of_rows(
    array: np.ndarray, name: str, layout: Layout, *, law: str, bandwidth: float | None
) -> Target:
    """Build a target from rows of numbers or token ids.

    Args:
        array: The rows, (n, ...): (n, tokens), (n, tokens, dim) or images (n, height, width,
            channels) of numbers, (n, tokens) or a grid (n, rows, columns) of token ids, or one
            long row of token ids, which is cut into windows.
        name: Name of the data, for the provenance and for errors.
        layout: See `load_target`.
        law: See `load_target`.
        bandwidth: See `load_target`.

    Raises:
        InputError: The rows are not finite, or the layout or law does not fit them.
    """
    if layout.kind == "categorical" or (layout.kind is None and array.dtype.kind in "iu"):
        return _of_token_ids(array, name, layout, law, bandwidth)
    return _of_numbers(array, name, layout, law, bandwidth)


def _of_text(data: str, layout: Layout, law: str, bandwidth: float | None) -> Target:
    _refuse(layout, data, "numbers", token_dim=None, pca=None, grid=None)
    if layout.kind == "continuous":
        raise InputError(f"kind of data {data!r} must be categorical, as it is text.")
    documents: list[str] | list[bytes] | list[list[str]]
    share = 0.0  # of the words that are one symbol
    if data == "text":
        _refuse(layout, data, "a text file", unit="characters", split="file")
        documents = named.text()
    elif layout.unit == "bytes":
        documents = read_bytes(Path(data), split=layout.split)
    elif layout.unit == "words":
        documents, share = words_of(read_documents(Path(data), split=layout.split))
    else:
        documents = read_documents(Path(data), split=layout.split)
    cut = windows(documents, layout.tokens or WINDOW)
    target = build_law(cut.ids, law, grid=None, bandwidth=bandwidth, vocabulary=len(cut.vocabulary))
    padding = ", the last of a document padded with an end symbol" if cut.padded else ""
    gap = " " if layout.unit == "words" else ""  # labels that follow each other make a text
    frequent = len(cut.vocabulary) - cut.padded - 1
    others = f", the {frequent:,} most frequent and one symbol for all others ({share:.2%})"
    return target.with_provenance(
        source=_name(data),
        preparation=f"{len(cut.ids)} windows of {cut.ids.shape[1]} {layout.unit}"
        + (others if share else "")
        + padding,
        vocabulary=tuple(label if label == END else label + gap for label in cut.vocabulary),
    )


def _of_token_ids(
    array: np.ndarray, data: str, layout: Layout, law: str, bandwidth: float | None
) -> Target:
    _refuse(layout, data, "real numbers", token_dim=None, pca=None)
    if array.dtype.kind == "f":
        whole = (array == np.round(array)) & (np.abs(array) < 2**53)  # false for NaN, too
        if not whole.all():
            raise InputError(
                f"kind of data {data!r} cannot be categorical, as not all its numbers are whole."
            )
        array = array.astype(np.int64)
    names: tuple[str, ...] | None = None
    windows_of = ""
    if array.ndim == 1:
        cut = windows([array.tolist()], layout.tokens or WINDOW)
        padding = ", the last padded with an end symbol" if cut.padded else ""
        windows_of = f"windows of {cut.ids.shape[1]}{padding}; "
        array, names = cut.ids, cut.vocabulary
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.ndim == 4:
        raise InputError(
            f"data {data!r} must have one token id per place, got images of {array.shape[3]} "
            "channels; give --kind continuous."
        )
    shape = array.shape[1:]
    natural = Layout(grid=(shape[0], shape[1])) if len(shape) == 2 else Layout()
    ids, symbols = _renumbered(array.reshape(len(array), -1))
    if layout.tokens not in (None, ids.shape[1]):
        raise InputError(
            f"tokens must be the {ids.shape[1]} ids of a row, got {layout.tokens}; leave it out."
        )
    _, _, grid = token_shape(
        (ids.shape[1],),
        dataclasses.replace(natural, tokens=layout.tokens, grid=layout.grid or natural.grid),
    )
    target = build_law(ids, law, grid=grid, bandwidth=bandwidth, vocabulary=len(symbols))
    names = names or tuple(map(str, symbols))
    own = names[:-1] if names[-1] == END else names  # the end symbol has no number to lose
    renumbered = own != tuple(map(str, range(len(own))))
    return target.with_provenance(
        source=_name(data),
        preparation=f"{windows_of}{len(names)} token ids{', renumbered' if renumbered else ''}",
        vocabulary=names if renumbered or own is not names else None,
    )


def _of_numbers(
    array: np.ndarray, data: str, layout: Layout, law: str, bandwidth: float | None
) -> Target:
    rows = _numbers(array, data)
    shape = rows.shape[1:]
    if data in NAMED:
        shape = (8, 8, 1)
        layout = _named_layout(data, layout, rows)
    flat = rows.reshape(len(rows), -1)
    prepared = whitened(flat, layout.pca) if layout.pca else standardised(flat)
    N, d, grid = token_shape((layout.pca,) if layout.pca else shape, layout)
    target = build_law(prepared.rows.reshape(-1, N, d), law, grid=grid, bandwidth=bandwidth)
    return target.with_provenance(
        source=_name(data),
        preparation=prepared.preparation,
        unit=1.0,
        picture=picture(shape, layout, prepared),
    )


def _named(data: str) -> np.ndarray:
    return named.digits() if data == "digits" else named.patches()


def _named_layout(data: str, layout: Layout, rows: np.ndarray) -> Layout:
    """The layout of named data: principal components, unless it asks for the grid of pixels."""
    if layout.pca is None and layout.grid is None:
        dim = layout.token_dim or 1
        tokens = layout.tokens or max({"digits": 8, "patches": 16}[data] // dim, 1)
        rank = int(
            np.linalg.matrix_rank(rows.reshape(len(rows), -1) - rows.reshape(len(rows), -1).mean(0))
        )
        if tokens * dim > rank:
            raise InputError(
                f"tokens x token-dim must be at most {rank}, the principal components of {data}, "
                f"got {tokens} x {dim}; give --grid 8x8 for pixels as tokens."
            )
        return dataclasses.replace(layout, tokens=tokens, token_dim=dim, pca=tokens * dim)
    if layout.pca is None and layout.grid != (8, 8):
        raise InputError(
            f"grid of {data} must be 8x8, its pixels, unless pca makes other tokens, "
            f"got {'x'.join(map(str, layout.grid or ()))}."
        )
    return layout


def _array(data: str) -> np.ndarray:
    path = Path(data)
    if path.suffix == "" and not os.path.exists(path):
        raise InputError(f"data {data!r} does not exist; {near(data, NAMED)}")
    return read(data)


def _numbers(array: np.ndarray, data: str) -> np.ndarray:
    """The array as finite float32 or float64 rows of at least two dimensions."""
    rows = array if array.dtype.kind == "f" else array.astype(np.float64)
    require_finite(rows, f"data {data!r}")
    return rows[:, None] if rows.ndim == 1 else rows


def _renumbered(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Token ids renumbered to 0..V-1 in rising order, and the old id of each new one.

    Ids are kept if at least half of 0..max(ids) occur.
    """
    symbols, dense = np.unique(ids, return_inverse=True)
    if int(symbols[0]) >= 0 and int(symbols[-1]) < 2 * len(symbols):
        return ids, np.arange(symbols[-1] + 1)
    return dense.reshape(ids.shape), symbols


def _refuse(layout: Layout, data: str, of: str, **defaults: object) -> None:
    """Raise InputError if the layout sets an option that applies only to `of`, not to `data`."""
    for name, default in defaults.items():
        value = getattr(layout, name)
        if value != default:
            option = name.replace("_", "-")
            raise InputError(
                f"{option} lays out {of}, got {value!r} for data {data!r}; leave it out."
            )


def _name(data: str) -> str:
    if data in NAMED:
        return data
    return os.fsencode(Path(data).name).decode("utf-8", "backslashreplace")
