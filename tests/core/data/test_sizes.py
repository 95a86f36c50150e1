"""Small files that claim to be large: counted before anything is decompressed or copied."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from click.testing import CliRunner
from pyarrow import parquet

from capcheck.cli.app import cli
from capcheck.core.errors import InputError
from capcheck.data import Layout, contents, load_target
from capcheck.data.arrays import read_array

ZEROS = 1 << 21  # numbers of a file that a smaller limit makes a bomb
FEW = 1 << 20


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that files of a test can exceed."""
    monkeypatch.setattr(contents, "MOST_NUMBERS", FEW)


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("it was unfolded")


def claiming(path: Path, shape: tuple[int, ...], version: tuple[int, int] = (1, 0)) -> str:
    """An .npz file whose array says it is of that shape, and holds a few zeros."""
    head = io.BytesIO()
    facts: Any = {"descr": "<f8", "fortran_order": False, "shape": shape}
    write = {
        (1, 0): np.lib.format.write_array_header_1_0,
        (2, 0): np.lib.format.write_array_header_2_0,
    }
    write[version](head, facts)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows.npy", head.getvalue() + bytes(1 << 20))
    return str(path)


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("shape", [(1 << 30, 1), (1 << 40, 1 << 40), (2, 1 << 62)])
def test_an_npz_that_says_it_is_huge_is_not_unfolded(
    tmp_path: Path, shape: tuple[int, ...], version: tuple[int, int]
) -> None:
    source = claiming(tmp_path / "bomb.npz", shape, version)
    with pytest.raises(InputError, match=f"at most 536870912 numbers, got {math.prod(shape)} out"):
        read_array(source)


def test_a_compressed_npz_is_counted_before_it_is_read(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "zeros.npz"
    np.savez_compressed(path, zeros=np.zeros((ZEROS, 1)), few=np.ones((4, 1)))
    assert path.stat().st_size < FEW / 10
    assert read_array(f"{path}#few").tolist() == [[1.0]] * 4
    monkeypatch.setattr(np.lib.format, "read_array", never)
    with pytest.raises(InputError, match=f"got {ZEROS} out of"):
        read_array(f"{path}#zeros")


def test_what_a_file_really_holds_may_be_of_any_size(tmp_path: Path, small: None) -> None:
    numbers = np.random.default_rng(0).integers(0, 256, size=(ZEROS, 1), dtype=np.uint8)
    np.savez(tmp_path / "rows.npz", rows=numbers)
    assert read_array(str(tmp_path / "rows.npz")).shape == (ZEROS, 1)
    torch.save(torch.from_numpy(numbers), tmp_path / "rows.pt")
    assert read_array(str(tmp_path / "rows.pt")).shape == (ZEROS, 1)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(10**6, 10**5),
        torch.zeros(2).as_strided((10**9, 8), (0, 0)),
        torch.zeros(1, dtype=torch.bfloat16).expand(10**10, 1),
        torch.zeros(9).as_strided((10**10, 2), (0, 1)),
    ],
)
@pytest.mark.parametrize("named", [False, True])
def test_a_tensor_that_repeats_its_storage_is_not_unfolded(
    tmp_path: Path, tensor: torch.Tensor, named: bool
) -> None:
    path = tmp_path / "view.pt"
    torch.save({"x": tensor, "y": torch.ones(3)} if named else tensor, path)
    assert path.stat().st_size < 10_000
    with pytest.raises(InputError, match=f"at most .* numbers, got {tensor.numel()} out of"):
        read_array(f"{path}#x" if named else str(path))
    if named:
        assert read_array(f"{path}#y").tolist() == [1, 1, 1]


def test_a_small_view_is_read(tmp_path: Path) -> None:
    torch.save(torch.arange(3.0).expand(4, 3), tmp_path / "view.pt")
    assert read_array(str(tmp_path / "view.pt")).tolist() == [[0.0, 1, 2]] * 4


def test_a_compressed_pt_is_counted_before_it_is_read(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, packed = tmp_path / "plain.pt", tmp_path / "packed.pt"
    torch.save(torch.zeros(ZEROS, 1).double(), plain)
    assert read_array(str(plain)).shape == (ZEROS, 1)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))
    assert packed.stat().st_size < FEW / 10
    monkeypatch.setattr(torch, "load", never)
    with pytest.raises(InputError, match=r"at most .* numbers, got 2\d{6} out of"):
        read_array(str(packed))


def test_a_parquet_of_equal_numbers_is_counted_before_it_is_read(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "equal.parquet"
    table = pyarrow.table({"a": np.zeros(ZEROS), "b": np.arange(ZEROS) % 2})
    parquet.write_table(table, path, row_group_size=ZEROS // 4)
    assert path.stat().st_size < FEW / 10
    monkeypatch.setattr(parquet.ParquetFile, "read", never)
    with pytest.raises(InputError, match=f"got {2 * ZEROS} out of"):
        read_array(str(path))
    with pytest.raises(InputError, match=f"got {ZEROS} out of"):
        read_array(f"{path}#a")


def test_rows_that_no_memory_holds_are_the_users_to_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "rows.npy", np.zeros((3, 2)))

    def full(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr("capcheck.data.arrays.real_rows", full)
    with pytest.raises(InputError, match=r"must fit into memory, and does not; keep fewer rows\."):
        read_array(str(tmp_path / "rows.npy"))


def test_at_the_shell_it_is_a_sentence(tmp_path: Path) -> None:
    source = claiming(tmp_path / "bomb.npz", (1 << 40, 4))
    found = CliRunner().invoke(cli, ["check", "--family", "gpt", "--data", source])
    assert isinstance(found.exception, InputError)
    assert found.exception.exit_code == 2


NUL = ["a\0b.npy", "a\0b", "a\0/b.npz", "x\0.txt", "a\0b.pt#x", "nul\0dir/x.parquet", "\0"]


@pytest.mark.parametrize("source", NUL)
def test_a_name_with_a_nul_is_no_file(source: str, tmp_path: Path) -> None:
    for name in (source, str(tmp_path / source)):
        with pytest.raises(InputError, match=r"does not exist|must be a file|no folder"):
            load_target(name, Layout())
