"""From a path to raw rows: array files and folders of images.

A reader turns one source into numbers or symbols and changes nothing else: what is centred,
whitened or cut into tokens is decided later. What is read is never executed or unpickled.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from capcheck.data.arrays import READERS, place_and_name, read_array
from capcheck.data.images import read_images

__all__ = ["name_of", "read"]


def read(source: str) -> np.ndarray:
    """Read an array file, or a folder of images.

    Args:
        source: Path of a file that `read_array` takes, `#name` included, or of a folder that
            `read_images` takes.

    Returns:
        (rows, ...), 1 to 4 dimensions, float32, float64 or int64; images are float64 (n, H, W, C)
        of 0..255. Not checked for NaN and infinity.

    Raises:
        InputError: No such file, another kind of file, or not readable as numbers.
    """
    if os.path.isdir(source) and Path(source).suffix.lower() not in READERS:
        return read_images(Path(source))
    return read_array(source)


def name_of(source: str) -> str:
    """A folder's name for what is made of a source: that of its file, or of its folder.

    Letters, digits and `_.-` only; the array of `file.npz#name` is part of it, as in `file_name`.
    """
    place, array = place_and_name(source)
    path = Path(place)
    name = path.resolve().name if path.is_dir() else path.stem
    whole = name if array is None else f"{name}_{array}"
    return re.sub(r"[^\w.-]+", "_", whole).lstrip(".") or "data"
