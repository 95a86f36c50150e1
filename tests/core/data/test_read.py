from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from capcheck.core.errors import InputError
from capcheck.data.files import name_of, read

ROWS = np.arange(6.0).reshape(2, 3)


def refuse(source: str, message: str) -> None:
    """Assert that reading fails in one printable sentence."""
    with pytest.raises(InputError, match=message) as caught:
        read(source)
    assert str(caught.value).isprintable()
    assert str(caught.value).endswith((".", "?"))


def test_files_and_folders(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", a=ROWS, b=-ROWS)
    Image.new("L", (3, 2), 9).save(tmp_path / "a.png")
    assert np.array_equal(read(f"{tmp_path}/two.npz#b"), -ROWS)
    assert np.array_equal(read(str(tmp_path)), np.full((1, 2, 3, 1), 9.0))
    assert np.array_equal(read(f"{tmp_path}/"), np.full((1, 2, 3, 1), 9.0))


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", ROWS)
    assert np.array_equal(read("rows.npy"), ROWS)
    refuse("row.npy", r"^data 'row\.npy' does not exist; did you mean 'rows\.npy'\?$")
    refuse("", "^data '' does not exist; check the path.$")


@pytest.mark.parametrize("name", ["it's", "line\nbreak", "[red]x[bold]", "\x1b[31m", "\udcff"])
def test_a_near_name_is_suggested_whatever_it_holds(tmp_path: Path, name: str) -> None:
    np.save(tmp_path / f"{name} rows.npy", ROWS)
    with pytest.raises(InputError) as caught:
        read(f"{tmp_path}/{name} row.npy")
    missing, near = f"{tmp_path}/{name} row.npy", f"{tmp_path}/{name} rows.npy"
    assert str(caught.value) == f"data {missing!r} does not exist; did you mean {near!r}?"


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    refuse(f"{tmp_path}/qqqqq.csv", "does not exist; check the path")
    refuse(f"{tmp_path}/none/rows.npy", "does not exist; there is no folder '.*none'")
    refuse(f"{tmp_path}/rows.npy/x.npy", "does not exist|cannot be opened")
    refuse(f"{tmp_path}/row.npy#latents", r"does not exist; did you mean '.*rows\.npy'")
    refuse(f"{tmp_path}/{'x' * 999}.npy#y", "cannot be opened .*too long")
    refuse("null\0byte.npy", "does not exist")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".parquet", ".pt", ".safetensors"])
def test_empty_files_and_folders_named_like_files_are_refused(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"empty{suffix}").touch()
    refuse(f"{tmp_path}/empty{suffix}", "is an empty file; save the data to it")
    (tmp_path / f"folder{suffix}").mkdir()
    refuse(f"{tmp_path}/folder{suffix}", "is a folder; name a file in it")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.mat", r"ends in \.npy, \.npz, .* or a folder of images, got '\.mat'; convert it"),
        ("x.npy.gz", r"got '\.gz'; convert it"),
        ("x", "got 'no ending'; convert it"),
        ("x.png", r"or a folder of images, got '\.png'"),
        ("x.TXT", r"got '\.TXT'; it is text: read it as documents"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_text("1,2")
    refuse(f"{tmp_path}/{name}", message)


def test_what_is_neither_file_nor_folder_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    refuse(f"{tmp_path}/pipe.npy", "pipe.npy' is neither a file nor a folder")


def test_a_link_to_nothing_is_named_with_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "rows.npy").symlink_to(tmp_path / "gone.npy")
    refuse(f"{tmp_path}/rows.npy", r"rows.npy' is a link to '.*gone.npy', which does not exist")
    np.save(tmp_path / "gone.npy", ROWS)
    assert np.array_equal(read(f"{tmp_path}/rows.npy"), ROWS)


def test_arrays_of_one_file_have_names_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my.faces").mkdir()
    monkeypatch.chdir(tmp_path / "my.faces")
    np.savez("x.npz", a=ROWS, b=ROWS)
    assert name_of("x.npz") == name_of("there/x.npy") == "x"
    assert (name_of("x.npz#a"), name_of("x.npz#b")) == ("x_a", "x_b")
    assert name_of("x.npz#../../b c") == "x_.._.._b_c"
    assert name_of(".") == name_of("../my.faces") == name_of("../my.faces/") == "my.faces"
    assert name_of("digits") == "digits"
    assert name_of("/") == name_of("...") == "data"
