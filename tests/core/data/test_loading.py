"""From a name, a file or a folder to a target, against what was written to the file."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from safetensors.torch import save_file
from sklearn import datasets
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from capcheck.core.errors import InputError
from capcheck.data import Layout, load_target, text
from capcheck.data.laws import build_law
from capcheck.targets import CategoricalMixture, MarkovChain, ProductMixture


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
    target = load_target(str(tmp_path / "rows.npy"), Layout(), law="rows")
    assert isinstance(target, ProductMixture)
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
        (Layout(pca=9), "pca must be between 1 and 4 for 60 rows of 4 numbers, got 9"),
    ],
)
def test_layouts_that_do_not_fit_are_refused(file: str, layout: Layout, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_target(file, layout)


@pytest.mark.parametrize(
    ("array", "pca", "message"),
    [
        (np.ones((5, 3)), 2, "pca must be of rows that differ, got 5 equal; leave pca out"),
        (np.ones((1, 3)), 1, "pca must be of rows that differ, got 1 equal"),
        (np.arange(10.0)[:, None], 2, "pca must be 1 for 10 rows of 1 numbers, got 2"),
        (np.arange(6.0).reshape(3, 2), 2, "pca must be at most the rank 1 of the data, got 2"),
    ],
)
def test_components_that_there_are_not_are_refused(
    tmp_path: Path, array: np.ndarray, pca: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):  # and no warning of a library
        load_target(saved(tmp_path, array), Layout(pca=pca))


@pytest.mark.parametrize("mapped", [False, True])
def test_float32_rows_stay_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapped: bool
) -> None:
    monkeypatch.setattr("capcheck.data.arrays.MAPPED_ABOVE", 0 if mapped else 1 << 28)
    monkeypatch.setattr("capcheck.data.layout.PART", 16)  # several parts
    rows = (1000 + np.random.default_rng(3).normal(size=(60, 4))).astype(np.float32)
    target = load_target(saved(tmp_path, rows), Layout(), bandwidth=0.5)
    assert isinstance(target, ProductMixture)
    assert (target.means.dtype, target.dtype) == (torch.float32, torch.float64)
    wide = rows.astype(np.float64)
    centred = wide - wide.mean(0)
    expected = centred / np.sqrt((centred**2).mean())
    assert target.means[..., 0].numpy() == pytest.approx(expected, rel=1e-6, abs=1e-7)
    narrow = (rows - rows.mean(0, dtype=np.float32)) / np.sqrt((centred**2).mean())
    assert np.abs(narrow - expected).max() > 1e-6  # what float32 alone would make of them
    components = load_target(saved(tmp_path, rows), Layout(pca=2), bandwidth=0.5)
    assert isinstance(components, ProductMixture)
    assert components.means.dtype == torch.float64


def test_a_law_without_a_name_is_none(file: str, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text(3 * SENTENCE)
    for data in (file, str(tmp_path / "x.txt")):
        with pytest.raises(InputError, match="law '' is unknown; known are"):
            load_target(data, Layout(), law="")


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
        ("no rows", "none of them 0"),
        ("objects", "cannot be read"),
        ("text", "must hold real numbers, got <U1; convert it"),
        ("scalar", r"must have 1 to 4 dimensions, .*, got shape \(\); reshape it"),
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
    with pytest.raises(InputError, match=r"a folder of images \(\.bmp, .*\), got none"):
        load_target(str(tmp_path), Layout())
    (tmp_path / "x.mat").write_text("x")
    with pytest.raises(InputError, match=r"ends in \.npy, .*, got '\.mat'; convert it"):
        load_target(str(tmp_path / "x.mat"), Layout())


def saved(tmp_path: Path, array: np.ndarray) -> str:
    np.save(tmp_path / "data.npy", array)
    return str(tmp_path / "data.npy")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The rows that every call of the law's builder is given."""
    rows: list[np.ndarray] = []

    def recording(given: np.ndarray, *arguments: Any, **facts: Any) -> Any:
        rows.append(given)
        return build_law(given, *arguments, **facts)

    monkeypatch.setattr("capcheck.data.loading.build_law", recording)
    return rows


def strings(ids: np.ndarray, vocabulary: tuple[str, ...] | None) -> str:
    """All windows, joined, without the end symbols."""
    assert vocabulary is not None
    return "".join(vocabulary[token] for token in ids.ravel()).replace("␃", "")


SENTENCE = "the cat sat on the mat, and so did the dog. "


def test_a_users_text_becomes_windows_of_its_characters(
    tmp_path: Path, seen: list[np.ndarray]
) -> None:
    path = tmp_path / "story.txt"
    path.write_text(3 * SENTENCE)  # 132 characters: 17 windows of 8, the last with 4 of them
    target = load_target(str(path), Layout(tokens=8))
    assert isinstance(target, MarkovChain)
    (ids,) = seen
    assert ids.shape == (17, 8)
    assert strings(ids, target.provenance.vocabulary) == 3 * SENTENCE
    assert (target.spec.tokens, target.spec.dim) == (8, len(set(SENTENCE)) + 1)
    assert target.provenance.source == "story.txt"
    assert "17 windows of 8 characters, the last of a document padded" in str(
        target.provenance.preparation
    )


def test_lines_of_text_are_documents_of_their_own(tmp_path: Path, seen: list[np.ndarray]) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("abcdef\n\nabc\nfedcba\n")
    target = load_target(str(path), Layout(tokens=4, split="lines"))
    words = target.provenance.vocabulary
    assert words == ("a", "b", "c", "d", "e", "f", "␃")
    rows = ["".join(words[token] for token in row) for row in seen[0]]
    assert rows == ["abcd", "ef␃␃", "abc␃", "fedc", "ba␃␃"]


def test_text_can_be_read_as_bytes(tmp_path: Path, seen: list[np.ndarray]) -> None:
    path = tmp_path / "raw.txt"
    raw = "é, a".encode() * 8
    path.write_bytes(raw)
    target = load_target(str(path), Layout(tokens=5, unit="bytes"), law="markov:1")
    assert target.provenance.vocabulary == (" ", ",", "a", "0xa9", "0xc3")
    assert seen[0].ravel().tolist() == [sorted(set(raw)).index(byte) for byte in raw]


def test_text_can_be_read_as_words(
    tmp_path: Path, seen: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "story.txt"
    path.write_text(3 * SENTENCE)  # 39 words of 11 kinds: 5 windows of 8, the last with 7 of them
    target = load_target(str(path), Layout(tokens=8, unit="words"), law="markov:1")
    words = target.provenance.vocabulary
    assert words is not None
    assert (seen[0].shape, target.spec.dim) == ((5, 8), 12)
    # Labels that follow each other make the text, with a space behind every word.
    assert strings(seen[0], words) == 3 * "the cat sat on the mat , and so did the dog . "
    assert target.provenance.preparation == (
        "5 windows of 8 words, the last of a document padded with an end symbol"
    )
    monkeypatch.setattr(text, "MOST_WORDS", 4)
    target = load_target(str(path), Layout(tokens=13, unit="words"), law="markov:1")
    # Kept are nine times `the`, and the first three of the words that come three times.
    assert target.provenance.vocabulary == (", ", ". ", "<unk> ", "and ", "the ")
    assert target.provenance.preparation == (
        "3 windows of 13 words, the 4 most frequent and one symbol for all others (53.85%)"
    )
    assert target.recipe is not None
    assert target.recipe["layout"]["unit"] == "words"


@pytest.mark.parametrize("split", ["file", "lines"])
def test_text_has_any_law_that_token_ids_have(tmp_path: Path, split: Any) -> None:
    path = tmp_path / "x.txt"
    path.write_text("\n".join([SENTENCE] * 8))
    target = load_target(str(path), Layout(tokens=4, split=split), law="rows")
    assert isinstance(target, CategoricalMixture)


def test_integers_are_token_ids(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 3, (60, 4))
    target = load_target(saved(tmp_path, ids), Layout())
    assert isinstance(target, CategoricalMixture)
    assert (target.spec.kind, target.spec.tokens, target.spec.dim) == ("categorical", 4, 3)
    assert target.provenance.preparation == "3 token ids"
    # A token's mean is its share in the data, mixed with its marginal law: that share, smoothed by
    # one distinct row's worth of the law of all tokens together.
    n, share = len(np.unique(ids, axis=0)), (ids[:, 0] == 1).mean()
    pooled = (4 * n * (ids == 1).mean() + 1 / 3) / (4 * n + 1)
    own, lam = (n * share + pooled) / (n + 1), target._components.smoothing
    assert float(target.spec.mean[0, 1]) == pytest.approx((1 - lam) * share + lam * own)


def test_integers_can_be_numbers(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 3, (60, 4))
    target = load_target(saved(tmp_path, ids), Layout(kind="continuous"), law="rows")
    assert isinstance(target, ProductMixture)
    assert (target.means**2).mean() == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint8, np.int16, np.bool_])
def test_whole_numbers_of_any_type_can_be_token_ids(tmp_path: Path, dtype: Any) -> None:
    ids = np.random.default_rng(0).integers(0, 2, (40, 3))
    made = load_target(saved(tmp_path, ids.astype(dtype)), Layout(kind="categorical"))
    expected = load_target(saved(tmp_path, ids), Layout())
    assert made.fingerprint == expected.fingerprint


@pytest.mark.parametrize("wrong", [0.5, np.nan, np.inf, -np.inf, 1e300])
def test_numbers_that_are_not_whole_are_no_token_ids(tmp_path: Path, wrong: float) -> None:
    rows = np.ones((5, 3))
    rows[1, 1], rows[0, 0] = wrong, 2
    with pytest.raises(InputError, match=r"cannot be categorical|token ids") as caught:
        load_target(saved(tmp_path, rows), Layout(kind="categorical"))
    assert "\n" not in str(caught.value)


def test_a_stream_of_tokens_is_cut_into_windows(tmp_path: Path, seen: list[np.ndarray]) -> None:
    stream = np.random.default_rng(0).integers(0, 5, 960)
    target = load_target(saved(tmp_path, stream), Layout())
    assert (target.spec.tokens, target.spec.dim) == (16, 5)
    assert seen[0].tolist() == stream.reshape(60, 16).tolist()
    load_target(saved(tmp_path, stream), Layout(tokens=12, grid=(3, 4)))
    assert seen[1].tolist() == stream.reshape(80, 12).tolist()


def test_a_padded_stream_says_what_its_ids_became(tmp_path: Path, seen: list[np.ndarray]) -> None:
    stream = 10 * np.random.default_rng(0).integers(0, 5, 95)
    target = load_target(saved(tmp_path, stream), Layout(tokens=10))
    assert seen[0].ravel()[:95].tolist() == (stream // 10).tolist()
    assert seen[0].ravel()[95:].tolist() == 5 * [5]  # the end symbol
    assert target.provenance.vocabulary == ("0", "10", "20", "30", "40", "␃")
    how = "windows of 10, the last padded with an end symbol; 6 token ids"
    assert target.provenance.preparation == f"{how}, renumbered"
    target = load_target(saved(tmp_path, stream // 10), Layout(tokens=10))
    assert target.provenance.vocabulary == ("0", "1", "2", "3", "4", "␃")
    assert target.provenance.preparation == how  # their numbers are what they were
    target = load_target(saved(tmp_path, stream[:90] // 10), Layout(tokens=10))
    assert target.provenance.vocabulary is None
    assert target.provenance.preparation == "windows of 10; 5 token ids"


@pytest.mark.parametrize("shape", [(60, 3, 4), (60, 3, 4, 1)])
def test_grids_of_token_ids_keep_their_grid(
    tmp_path: Path, shape: tuple[int, ...], seen: list[np.ndarray]
) -> None:
    ids = np.random.default_rng(0).integers(0, 3, shape)
    spec = load_target(saved(tmp_path, ids), Layout()).spec
    assert (spec.tokens, spec.dim, spec.grid) == (12, 3, (3, 4))
    assert seen[0].tolist() == ids.reshape(60, 12).tolist()


def test_coloured_images_have_no_token_ids(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 3, (60, 3, 4, 3))
    with pytest.raises(InputError, match="one token id per place, got images of 3 channels"):
        load_target(saved(tmp_path, ids), Layout())


def test_sparse_and_negative_ids_are_renumbered_in_their_order(
    tmp_path: Path, seen: list[np.ndarray]
) -> None:
    dense = np.random.default_rng(0).integers(0, 4, (60, 3))
    for symbols in ([5, 900, 7_000, 2**40], [-7, -3, 0, 2]):
        target = load_target(saved(tmp_path, np.array(symbols)[dense]), Layout())
        assert seen[-1].tolist() == dense.tolist()
        assert target.spec.dim == 4
        assert target.provenance.preparation == "4 token ids, renumbered"
        assert target.provenance.vocabulary == tuple(map(str, symbols))


def test_ids_that_are_nearly_dense_keep_their_numbers(
    tmp_path: Path, seen: list[np.ndarray]
) -> None:
    ids = np.array([0, 2, 3])[np.random.default_rng(0).integers(0, 3, (60, 3))]
    target = load_target(saved(tmp_path, ids), Layout())
    assert seen[0].tolist() == ids.tolist()
    assert target.spec.dim == 4
    assert float(target.spec.mean[:, 1].max()) > 0  # smoothed: no id is impossible


@pytest.mark.parametrize("ending", ["csv", "parquet", "pt", "safetensors", "npz"])
@pytest.mark.parametrize("whole", [True, False])
def test_every_format_gives_the_target_of_its_numbers(
    tmp_path: Path, ending: str, whole: bool
) -> None:
    rng = np.random.default_rng(0)
    array = rng.integers(0, 3, (40, 3)) if whole else rng.normal(size=(40, 3))
    path = tmp_path / f"rows.{ending}"
    if ending == "csv":
        path.write_text("\n".join(",".join(map(repr, row)) for row in array.tolist()))
    elif ending == "parquet":
        parquet.write_table(pa.table({f"c{i}": array[:, i] for i in range(3)}), path)
    elif ending == "pt":
        torch.save(torch.from_numpy(array), path)
    elif ending == "safetensors":
        save_file({"rows": torch.from_numpy(array)}, path)
    else:
        np.savez(path, rows=array)
    target = load_target(str(path), Layout())
    expected = load_target(saved(tmp_path, array), Layout())
    assert target.fingerprint == expected.fingerprint
    assert target.provenance.source == path.name
    assert target.spec.kind == ("categorical" if whole else "continuous")


def test_one_array_of_several_is_chosen_by_name(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 3))
    np.savez(tmp_path / "two.npz", rows=rows, other=rows[:, :1])
    target = load_target(f"{tmp_path / 'two.npz'}#rows", Layout())
    assert target.spec.tokens == 3
    with pytest.raises(InputError, match="rows"):
        load_target(str(tmp_path / "two.npz"), Layout())


@pytest.mark.parametrize(("mode", "dim"), [("L", 1), ("RGB", 3)])
def test_a_folder_of_images_has_a_token_per_pixel(tmp_path: Path, mode: str, dim: int) -> None:
    rng = np.random.default_rng(0)
    shape = (4, 5) if mode == "L" else (4, 5, 3)
    pixels = rng.integers(0, 256, (30, *shape)).astype(np.uint8)
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{index:02}.png")
    target = load_target(str(tmp_path), Layout(), law="rows")
    assert isinstance(target, ProductMixture)
    assert (target.spec.tokens, target.spec.dim, target.spec.grid) == (20, dim, (4, 5))
    flat = pixels.reshape(30, 20, dim).astype(float)
    centred = flat - flat.mean(0)
    expected = centred / np.sqrt((centred**2).mean())
    assert target.means.numpy() == pytest.approx(expected)
    assert (target.provenance.picture is None) == (mode == "RGB")


def test_grey_images_can_be_token_ids(tmp_path: Path, seen: list[np.ndarray]) -> None:
    pixels = np.random.default_rng(0).integers(0, 4, (30, 2, 3)).astype(np.uint8)
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{index:02}.png")
    target = load_target(str(tmp_path), Layout(kind="categorical"))
    assert seen[0].tolist() == pixels.reshape(30, 6).tolist()
    assert (target.spec.grid, target.spec.dim) == ((2, 3), 4)


def test_patches_are_whitened_principal_components(seen: list[np.ndarray]) -> None:
    grey = np.asarray(datasets.load_sample_images().images, dtype=float).mean(-1)
    cut = [
        image[8 * i : 8 * i + 8, 8 * j : 8 * j + 8].ravel()
        for image in grey
        for i in range(53)
        for j in range(80)
    ]
    # A bandwidth that is given spares the search for one among 8,480 rows.
    target = load_target("patches", Layout(), bandwidth=0.5)
    assert (target.spec.tokens, target.spec.dim) == (16, 1)
    expected = PCA(16, whiten=True, svd_solver="full").fit_transform(np.array(cut))
    assert seen[0][..., 0] == pytest.approx(expected, abs=1e-8)
    picture = target.provenance.picture
    assert picture is not None
    assert np.array(picture.offset) == pytest.approx(np.mean(cut, 0))


def test_the_named_text_is_windows_that_join_to_its_documents(seen: list[np.ndarray]) -> None:
    target = load_target("text", Layout())
    words = target.provenance.vocabulary
    assert words is not None
    assert (target.spec.tokens, target.spec.dim) == (16, 44)
    assert words[-1] == "␃"
    loaders = ("iris", "digits", "wine", "breast_cancer", "diabetes", "linnerud")
    written = [getattr(datasets, f"load_{name}")().DESCR for name in loaders]
    joined = strings(seen[0], words)
    letters = re.sub("[^a-z]", "", joined)
    assert letters == re.sub("[^a-z]", "", "".join(written).lower())
    # Documents are not mixed: a window that is padded ends one, and there are six of them.
    padded = (seen[0] == 43).any(1)
    assert padded.sum() <= 6
    held_out = target.provenance.held_out
    assert held_out is not None
    assert not held_out.memorises
    assert target.provenance.exactness == "fitted surrogate"


def test_pixels_of_digits_can_be_token_ids(seen: list[np.ndarray]) -> None:
    target = load_target("digits", Layout(kind="categorical", grid=(8, 8)), law="classes:3")
    assert seen[0].tolist() == load_digits().data.astype(int).tolist()
    assert (target.spec.tokens, target.spec.dim, target.spec.grid) == (64, 17, (8, 8))


@pytest.mark.parametrize(
    ("data", "layout", "message"),
    [
        ("x.txt", Layout(pca=2), "pca lays out numbers, got 2"),
        ("x.txt", Layout(token_dim=2), "token-dim lays out numbers, got 2"),
        ("x.txt", Layout(grid=(2, 2)), r"grid lays out numbers, got \(2, 2\)"),
        ("x.txt", Layout(kind="continuous"), "must be categorical, as it is text"),
        ("text", Layout(unit="bytes"), "unit lays out a text file, got 'bytes'"),
        ("text", Layout(split="lines"), "split lays out a text file, got 'lines'"),
        ("ids.npy", Layout(pca=2), "pca lays out real numbers, got 2"),
        ("ids.npy", Layout(token_dim=2), "token-dim lays out real numbers, got 2"),
        ("ids.npy", Layout(unit="bytes"), "unit lays out text, got 'bytes'"),
        ("ids.npy", Layout(tokens=2), "tokens must be the 4 ids of a row, got 2"),
        ("ids.npy", Layout(grid=(3, 3)), "must be the 4 .* of a row, got 9"),
        ("rows.npy", Layout(split="lines"), "split lays out text, got 'lines'"),
        ("digits", Layout(unit="bytes"), "unit lays out text, got 'bytes' for data 'digits'"),
        ("patches", Layout(kind="categorical"), "not all its numbers are whole"),
        ("patches", Layout(grid=(4, 4)), "grid of patches must be 8x8"),
    ],
)
def test_options_that_do_not_belong_to_the_data_are_refused(
    tmp_path: Path, rows: np.ndarray, data: str, layout: Layout, message: str
) -> None:
    (tmp_path / "x.txt").write_text(3 * SENTENCE)
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(0, 3, (40, 4)))
    np.save(tmp_path / "rows.npy", rows)
    source = str(tmp_path / data) if "." in data else data
    with pytest.raises(InputError, match=message) as caught:
        load_target(source, layout)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"caf\xe9", "UTF-8 text, got the invalid byte 0xe9 at byte 3"),
        (b" \n ", "only whitespace"),
        (b"", "is an empty file"),
        (b"abc", "at least 2 distinct rows, got 1 in 1"),
    ],
)
def test_bad_text_is_refused_in_one_sentence(tmp_path: Path, raw: bytes, message: str) -> None:
    (tmp_path / "bad.txt").write_bytes(raw)
    with pytest.raises(InputError, match=message) as caught:
        load_target(str(tmp_path / "bad.txt"), Layout())
    assert "\n" not in str(caught.value)


def test_a_file_name_that_is_no_text_still_names_the_data(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.npy")
    np.save(path, np.random.default_rng(0).normal(size=(20, 2)))
    provenance = load_target(path, Layout()).provenance
    assert provenance.source == r"\xff.npy"
    provenance.model_dump_json()  # surrogates would be refused here
