"""From a path to raw rows: array files and folders of images.

A reader turns one source into numbers or symbols and changes nothing else: what is centred,
whitened or cut into tokens is decided later. What is read is never executed or unpickled.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from capcheck.data.arrays import READERS, read_array
from capcheck.data.images import read_images


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
