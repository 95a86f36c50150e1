"""Named data: small real data sets that ship with scikit-learn and need no download.

`digits` are rows of pixels, `patches` are small grey images, and `text` is English prose.
"""

from __future__ import annotations

import re

import numpy as np

__all__ = ["PATCH", "digits", "patches", "text"]

PATCH = 8  # width and height of a patch, in pixels


def digits() -> np.ndarray:
    """Handwritten digits: float64 (1797, 64), pixels from 0 to 16 of 8x8 images.

    Source: UCI, Optical Recognition of Handwritten Digits, test set; `sklearn.load_digits`.
    """
    from sklearn import datasets  # scikit-learn takes a second to load

    return np.asarray(datasets.load_digits().data, dtype=np.float64)


def patches() -> np.ndarray:
    """Grey patches of photographs: float64 (8480, 8, 8), from 0 to 255.

    Each of the two photographs (427x640) is cut into 53 x 80 patches without overlap, row by row;
    the last 3 lines of pixels are not used. Grey is the mean of red, green and blue.

    Source: `sklearn.load_sample_images` (china.jpg, flower.jpg).
    """
    from sklearn import datasets

    images = np.asarray(datasets.load_sample_images().images, dtype=np.float64)  # (2, H, W, 3)
    grey = images.mean(axis=-1)
    down, across = grey.shape[1] // PATCH, grey.shape[2] // PATCH
    whole = grey[:, : down * PATCH, : across * PATCH]
    cut: np.ndarray = whole.reshape(-1, down, PATCH, across, PATCH)  # (2, down, 8, across, 8)
    return cut.swapaxes(2, 3).reshape(-1, PATCH, PATCH)


def text() -> list[str]:
    """English descriptions of six data sets, one document each, about 14,000 characters in all.

    The text has 43 symbols: lower-case letters, digits, space and the punctuation `.,:()-`. Every
    run of other characters, or of two or more dashes, becomes one space.

    Source: `DESCR` of scikit-learn's iris, digits, wine, breast_cancer, diabetes, linnerud.
    """
    from sklearn import datasets

    loaders = (
        datasets.load_iris,
        datasets.load_digits,
        datasets.load_wine,
        datasets.load_breast_cancer,
        datasets.load_diabetes,
        datasets.load_linnerud,
    )
    foreign = re.compile(r"(?:[^a-z0-9.,:()-]|-{2,})+")
    return [foreign.sub(" ", load().DESCR.lower()).strip() for load in loaders]
