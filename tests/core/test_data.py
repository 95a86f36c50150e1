from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from capcheck.data import Layout, load_target
from capcheck.errors import InputError
from capcheck.targets import ProductMixture


@pytest.fixture
def file(rows: np.ndarray, tmp_path: Path) -> str:
    np.save(tmp_path / "rows.npy", rows)
    return str(tmp_path / "rows.npy")


def test_digits_are_whitened_principal_components(digits: ProductMixture) -> None:
    expected = PCA(8, whiten=True, svd_solver="full").fit_transform(load_digits().data)
    assert digits.means[..., 0].numpy() == pytest.approx(expected)
    assert digits.provenance.source == "digits"


def test_pictures_lead_back_to_pixels(digits: ProductMixture) -> None:
    picture = digits.provenance.picture
    assert picture is not None
    pixels = np.array(picture.offset) + digits.means[..., 0].numpy() @ np.array(picture.basis)
    fitted = PCA(8, svd_solver="full").fit(load_digits().data)
    expected = fitted.inverse_transform(fitted.transform(load_digits().data))
    assert pixels == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("layout", "shape", "grid"),
    [
        (Layout(), (4, 1), None),
        (Layout(tokens=2), (2, 2), None),
        (Layout(token_dim=4), (1, 4), None),
        (Layout(grid=(2, 2)), (4, 1), (2, 2)),
        (Layout(pca=3), (3, 1), None),
        (Layout(pca=2, token_dim=2), (1, 2), None),
    ],
)
def test_layouts(
    file: str, layout: Layout, shape: tuple[int, int], grid: tuple[int, int] | None
) -> None:
    spec = load_target(file, layout).spec
    assert (spec.tokens, spec.dim) == shape
    assert spec.grid == grid


def test_images_become_a_token_per_pixel(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.random.default_rng(0).normal(size=(30, 4, 2, 3)))
    spec = load_target(str(tmp_path / "images.npy"), Layout()).spec
    assert (spec.tokens, spec.dim, spec.grid) == (8, 3, (4, 2))


def test_rows_are_standardised_by_one_number(tmp_path: Path, rows: np.ndarray) -> None:
    np.save(tmp_path / "rows.npy", 40 * rows + 7)
    target = load_target(str(tmp_path / "rows.npy"), Layout())
    means = target.means[..., 0].numpy()
    assert (means**2).mean() == pytest.approx(1)
    assert np.corrcoef(means[:, 0], rows[:, 0])[0, 1] == pytest.approx(1)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (Layout(tokens=3), "tokens x token-dim must be the 4 numbers"),
        (Layout(tokens=2, token_dim=3), "got 2 x 3"),
        (Layout(grid=(3, 3)), "got 9 x 1"),
        (Layout(grid=(2, 2), tokens=2), "hold the 2 tokens, got 2x2"),
        (Layout(pca=9), "pca must be between 1 and 4"),
    ],
)
def test_layouts_that_do_not_fit_are_refused(file: str, layout: Layout, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_target(file, layout)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (Layout(tokens=100), "at most 61, the principal components of digits, got 100 x 1"),
        (Layout(token_dim=99), "got 1 x 99"),
        (Layout(grid=(4, 4)), "grid of digits must be 8x8.*got 4x4"),
    ],
)
def test_layouts_that_do_not_fit_digits_are_refused(layout: Layout, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_target("digits", layout)


def content(kind: str) -> np.ndarray | bytes:
    rows = np.ones((5, 3))
    if kind == "nan":
        rows[1, 1] = np.nan
    elif kind == "infinity":
        rows[2, 0] = -np.inf
    elif kind == "huge":
        rows[2, 0] = 1e200
    elif kind == "integers":
        return rows.astype(int)
    elif kind == "no rows":
        return rows[:0]
    elif kind == "objects":
        return np.array([{"a": 1}, None], dtype=object)
    elif kind == "text":
        return np.array(["a", "b"])
    elif kind == "scalar":
        return np.array(3.0)
    elif kind == "empty":
        return b""
    elif kind == "truncated":
        return b"\x93NUMPY\x01\x00"
    elif kind == "garbage":
        return b"hello world, this is not an array"
    return rows


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nan", "NaN or infinity in 1 of 5 rows"),
        ("infinity", "NaN or infinity in 1 of 5 rows"),
        ("huge", "below 1e\\+100 in size"),
        ("integers", "integers would be token ids"),
        ("no rows", "none of them 0"),
        ("objects", "cannot be read"),
        ("text", "floating-point numbers"),
        ("scalar", "must have shape"),
        ("empty", "is an empty file"),
        ("truncated", "cannot be read"),
        ("garbage", "cannot be read"),
        ("one row", "at least 2 distinct rows"),
    ],
)
def test_bad_files_are_refused_in_one_sentence(tmp_path: Path, kind: str, message: str) -> None:
    path = tmp_path / "bad.npy"
    made = content(kind)
    if isinstance(made, bytes):
        path.write_bytes(made)
    else:
        np.save(path, made, allow_pickle=True)
    with pytest.raises(InputError, match=message) as caught:
        load_target(str(path), Layout())
    assert "\n" not in str(caught.value)


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'digits'"):
        load_target("digts", Layout())
    with pytest.raises(InputError, match="does not exist; check the path"):
        load_target(str(tmp_path / "none.npy"), Layout())
    with pytest.raises(InputError, match="is a folder"):
        load_target(str(tmp_path), Layout())
    (tmp_path / "x.mat").write_text("x")
    with pytest.raises(InputError, match=r"must be a \.npy file"):
        load_target(str(tmp_path / "x.mat"), Layout())
