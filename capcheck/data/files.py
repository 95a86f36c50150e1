"""Readers of raw rows: array files and folders of images.

A reader returns the numbers of a source unchanged; `layout` centres, whitens and cuts them into
tokens later. Nothing that is read is executed or unpickled.
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
        source: Path of a file for `read_array`, which may end in `#name`, or of a folder for
            `read_images`.

    Returns:
        An array (rows, ...) of 1 to 4 dimensions, float32, float64 or int64; images are float64
        (n, H, W, C) from 0 to 255. Values are not checked for NaN and infinity.

    Raises:
        InputError: The file does not exist, is of another kind, or holds no readable numbers.
    """
    if os.path.isdir(source) and Path(source).suffix.lower() not in READERS:
        return read_images(Path(source))
    return read_array(source)


def name_of(source: str) -> str:
    """The name of a source's file or folder, fit for naming the results of the source.

    The name has only letters, digits and `_.-`; `file.npz#name` becomes `file_name`.
    """
    place, array = place_and_name(source)
    path = Path(place)
    name = path.resolve().name if os.path.isdir(path) else path.stem
    whole = name if array is None else f"{name}_{array}"
    return re.sub(r"[^\w.-]+", "_", whole).lstrip(".") or "data"
