"""Pictures of samples: a mosaic of images in one PNG, which stands in the page as its data."""

from __future__ import annotations

import base64
import dataclasses
import io
import math
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from capcheck.results.family import FamilyResult
from capcheck.results.measurement import Cell
from capcheck.results.settings import TargetSummary

__all__ = ["SHOWN", "Mosaic", "are_images", "chosen_cells", "mosaic"]

SHOWN = 36  # most samples of a mosaic
PIXELS = 190.0  # least width of a mosaic on the screen, in pixels
RAMP = ("#101b3b", "#2a9d8f", "#f7e27a")  # colours of the first, middle and last symbol


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mosaic:
    """A mosaic of samples.

    Attributes:
        title: Title of the samples.
        uri: The picture, as a `data:` address.
        width: Width on the screen, in pixels.
        height: Height on the screen, in pixels.
        count: Number of samples in it.
    """

    title: str
    uri: str
    width: int
    height: int
    count: int


def chosen_cells(found: FamilyResult) -> list[Cell]:
    """The smallest, a middle and the largest of the budgets whose samples differ."""
    distinct: list[Cell] = []
    for cell in found.cells:
        if len(cell.examples) and all(cell.examples != other.examples for other in distinct):
            distinct.append(cell)
    few = len(distinct) <= 3
    return distinct if few else [distinct[0], distinct[len(distinct) // 2], distinct[-1]]


def are_images(target: TargetSummary) -> bool:
    """Whether samples are shown as images: pictures, grids of tokens, and lines of token ids."""
    return (
        target.provenance.picture is not None
        or target.kind == "categorical"
        or target.grid is not None
    )


def mosaic(title: str, samples: Any, target: TargetSummary) -> Mosaic:
    """The mosaic of some samples: six images by six, or one line for each sequence without a grid.

    Args:
        title: Title of the samples.
        samples: (rows, N, d) or (rows, N) nested lists.
        target: The target, which says how samples become images.
    """
    images, empty = _images(samples[:SHOWN], target)  # (rows, height, width[, 3])
    rows, height, width = images.shape[:3]
    across = min(6, rows) if height > 1 else 1
    down = math.ceil(rows / across)
    gap = int(height > 1)
    shape = (down * (height + gap) - gap, across * (width + gap) - gap, 3)
    canvas = np.full(shape, empty, dtype=np.uint8)
    for index, image in enumerate(images):
        top, left = (index // across) * (height + gap), (index % across) * (width + gap)
        canvas[top : top + height, left : left + width] = image
    file = io.BytesIO()
    Image.fromarray(canvas).quantize(64).save(file, "PNG", optimize=True)
    zoom = max(1, round(PIXELS / canvas.shape[1]))
    return Mosaic(
        title=title,
        uri=f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}",
        width=canvas.shape[1] * zoom,
        height=canvas.shape[0] * zoom,
        count=rows,
    )


def _images(samples: Any, target: TargetSummary) -> tuple[np.ndarray, int]:
    """Images (rows, height, width, 3) in bytes, and the shade between them."""
    values = np.asarray(samples, dtype=np.float64)
    rows = len(values)
    picture = target.provenance.picture
    if picture is not None:
        offset, basis = np.asarray(picture.offset), np.asarray(picture.basis)
        low, high = offset.min(), offset.max()
        unit = 1.25 * (high - low) or 1.0  # single images exceed the range of their mean
        shades = 1 - ((offset + values.reshape(rows, -1) @ basis - low) / unit).clip(0, 1)
        return _grey(shades.reshape(rows, picture.rows, picture.columns)), 255
    height, width = target.grid or (1, target.tokens)
    if target.kind == "categorical":
        shades = values.reshape(rows, height, width) / max(target.dim - 1, 1)
        return (_grey(0.85 * (1 - shades)) if target.dim <= 2 else _coloured(shades)), 255
    tokens = values.reshape(rows, height, width, -1)
    own = np.asarray(target.examples, dtype=np.float64).reshape(-1, tokens.shape[-1])
    return _channels(tokens, own), 255


def _grey(shades: np.ndarray) -> np.ndarray:
    """Shades between 0, black, and 1, white, as bytes in three channels."""
    return np.repeat(np.rint(255 * shades)[..., None], 3, axis=-1).astype(np.uint8)


def _coloured(shares: np.ndarray) -> np.ndarray:
    """Places between 0 and 1 on a ramp of colours."""
    flat = Image.fromarray(np.rint(255 * shares).astype(np.uint8).reshape(len(shares), -1))
    ramp = ImageOps.colorize(flat, RAMP[0], RAMP[2], RAMP[1])
    found: np.ndarray = np.asarray(ramp).reshape(*shares.shape, 3)
    return found


def _channels(tokens: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Tokens of numbers as colours: their three leading components, or shades of the only ones.

    Args:
        tokens: (rows, height, width, d).
        own: (tokens, d) of the target, which give the components and the range of the colours.
    """
    if own.shape[-1] > 3:
        axes = np.linalg.eigh(np.cov(own.T))[1][:, :-4:-1]
        tokens, own = tokens @ axes, own @ axes
    low, high = np.quantile(own, [0.01, 0.99], axis=0)
    shares = ((tokens - low) / np.where(high > low, high - low, 1.0)).clip(0, 1)
    if shares.shape[-1] < 3:
        return _grey(shares[..., 0])
    found: np.ndarray = np.rint(255 * shares).astype(np.uint8)
    return found
