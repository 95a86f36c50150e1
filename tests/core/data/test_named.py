from __future__ import annotations

import string

import numpy as np
import pytest
from sklearn import datasets

from capcheck.data import named
from capcheck.data.text import windows


def test_digits_are_the_pixels() -> None:
    rows = named.digits()
    assert rows.shape == (1797, 64)
    assert rows.dtype == np.float64
    assert (rows.min(), rows.max()) == (0, 16)
    assert np.array_equal(rows[0].reshape(8, 8), datasets.load_digits().images[0])


@pytest.mark.parametrize(("image", "down", "across"), [(0, 0, 0), (0, 52, 79), (1, 7, 33)])
def test_patches_are_cut_row_by_row(image: int, down: int, across: int) -> None:
    patches = named.patches()
    assert patches.shape == (2 * 53 * 80, 8, 8)  # 427 // 8 = 53 and 640 // 8 = 80
    assert patches.dtype == np.float64
    photograph = datasets.load_sample_images().images[image].astype(float)
    for row, column in ((0, 0), (3, 6), (7, 7)):
        red, green, blue = photograph[8 * down + row, 8 * across + column]
        got = patches[image * 53 * 80 + down * 80 + across, row, column]
        assert got == pytest.approx((red + green + blue) / 3)


def test_patches_are_pictures_and_not_scrambled_pixels() -> None:
    patches = named.patches()
    neighbours = np.abs(np.diff(patches, axis=-1)).mean()
    strangers = np.abs(np.diff(np.random.default_rng(0).permutation(patches.ravel()))).mean()
    assert 0 <= patches.min() < 10
    assert 245 < patches.max() <= 255
    assert neighbours < strangers / 4


def test_text_is_prose_of_43_symbols() -> None:
    documents = named.text()
    assert len(documents) == 6
    assert set("".join(documents)) == set(string.ascii_lowercase + string.digits + " .,:()-")
    assert len(windows(documents, 16).vocabulary) == 26 + 10 + 7 + 1  # and the end symbol
    assert 12_000 < sum(map(len, documents)) < 16_000
    for document in documents:
        assert document == document.strip()
        assert "  " not in document
        assert "--" not in document


def test_text_keeps_the_words() -> None:
    iris, *_, linnerud = named.text()
    assert "this is perhaps the best known database to be found in the" in iris
    assert "number of instances: 150 (50 in each of three classes)" in iris
    assert "linnerud dataset" in linnerud
