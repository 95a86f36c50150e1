from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from pyarrow import parquet

from capcheck.core.errors import InputError
from capcheck.data import arrays
from capcheck.data.arrays import read_array
from capcheck.data.contents import library, reason

ROWS = np.random.default_rng(5).normal(size=(40, 3))
HOSTILE = ['it\'s "quoted"', "line\nbreak", "[red]x[bold]", "\x1b[31mred", "a#b", "{0}%s", "né"]
BINARY = tuple(suffix for suffix in arrays.SUFFIXES if suffix != ".csv")


def save(path: Path, array: np.ndarray) -> str:
    """Write one array by the library that owns the format."""
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez_compressed(path, rows=array)
    elif path.suffix == ".csv":
        path.write_text("\n".join(",".join(map(repr, row)) for row in array.tolist()))
    elif path.suffix == ".parquet":
        table = pyarrow.table({f"c{i}": array[:, i] for i in range(array.shape[1])})
        parquet.write_table(table, path)
    elif path.suffix == ".pt":
        torch.save(torch.from_numpy(array), path)
    else:
        safetensors.numpy.save_file({"rows": array}, path)
    return str(path)


def refuse(source: str, message: str) -> None:
    """Assert that reading fails in one printable sentence that names the source and the rule."""
    with pytest.raises(InputError, match=message) as caught:
        read_array(source)
    sentence = str(caught.value)
    assert sentence.isprintable()
    assert sentence.startswith(f"data {source!r} ")
    assert sentence.endswith((".", "?"))


@pytest.mark.parametrize("suffix", arrays.SUFFIXES)
@pytest.mark.parametrize("array", [ROWS, np.arange(-6, 6).reshape(4, 3) * 10**17], ids=["f", "i"])
def test_every_format_gives_back_what_was_saved(
    tmp_path: Path, suffix: str, array: np.ndarray
) -> None:
    read = read_array(save(tmp_path / f"rows{suffix}", array))
    assert read.dtype == array.dtype
    assert np.array_equal(read, array)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("suffix", arrays.SUFFIXES)
def test_hostile_names_are_read_and_shown_escaped(tmp_path: Path, suffix: str, name: str) -> None:
    path = tmp_path / f"{name}{suffix}"
    assert np.array_equal(read_array(save(path, ROWS)), ROWS)
    path.write_bytes(b"\x00\x01 no array\n[red]")
    refuse(str(path), "cannot be read|nothing but tensors|must be numbers")


def test_a_suffix_may_be_in_capitals(tmp_path: Path) -> None:
    Path(save(tmp_path / "rows.npy", ROWS)).rename(tmp_path / "ROWS.NPY")
    assert np.array_equal(read_array(str(tmp_path / "ROWS.NPY")), ROWS)


@pytest.mark.parametrize("suffix", BINARY)
def test_truncated_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    whole = Path(save(path, ROWS)).read_bytes()
    for kept in (1, 4, 7, 8, 20, *np.linspace(30, len(whole) - 1, 12, dtype=int)):
        path.write_bytes(whole[:kept])
        refuse(str(path), "cannot be read|nothing but tensors")


@pytest.mark.parametrize("suffix", arrays.SUFFIXES)
def test_foreign_content_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    for content in (b"hello world, this is no array", b"\x89PNG\r\n\x1a\n", b"PK\x05\x06", b"\n"):
        path.write_bytes(content)
        refuse(str(path), "cannot be read|nothing but tensors|must have a line|UTF-8|numbers sep")


class Intruder:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.trace,)


def infected(path: Path, kind: str, intruder: object) -> Callable[[], object]:
    """Write a file that runs code when unpickled; returns the loader that would do so."""
    objects = np.empty(1, dtype=object)
    objects[0] = intruder
    if kind == "npz":
        np.savez(path, rows=objects)
        return lambda: np.load(path, allow_pickle=True)["rows"]
    if kind == "npy":
        np.save(path, objects, allow_pickle=True)
        return lambda: np.load(path, allow_pickle=True)
    if kind == "pickle":
        path.write_bytes(pickle.dumps(intruder))
        return lambda: pickle.loads(path.read_bytes())
    torch.save({"rows": torch.ones(2), "other": intruder}, path)
    return lambda: torch.load(path, weights_only=False)


@pytest.mark.parametrize(
    ("kind", "suffix", "message"),
    [
        ("npz", ".npz", "allow_pickle"),
        ("npy", ".npy", "Python objects in dtype"),
        ("pt", ".pt", "nothing but tensors"),
        ("pickle", ".npy", "cannot be read"),
        ("pickle", ".npz", "not a complete .npz archive"),
        ("pickle", ".pt", "nothing but tensors"),
        ("npy", ".npz", "not a complete .npz archive"),
        ("npz", ".npy", "cannot be read"),
        ("npz", ".pt", "cannot be read"),
        ("pt", ".npz", "must hold an array, got none"),
    ],
)
def test_pickles_are_refused_and_not_run(
    tmp_path: Path, kind: str, suffix: str, message: str
) -> None:
    made, trace = tmp_path / f"made.{kind}", tmp_path / "trace"
    load = infected(made, kind, Intruder(trace))
    path = made.rename(tmp_path / f"infected{suffix}")
    refuse(str(path), message)
    assert not trace.exists()
    path.rename(made)
    load()
    assert trace.exists()  # the file was a danger


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("?", "int64"),
        ("u1", "int64"),
        ("i2", "int64"),
        (">i4", "int64"),
        ("u8", "int64"),
        ("f2", "float32"),
        (">f4", "float32"),
        (">f8", "float64"),
        ("g", "float64"),
    ],
)
def test_numbers_are_widened_to_three_types(tmp_path: Path, dtype: str, expected: str) -> None:
    values = np.array([[0, 1], [1, 0]])
    for suffix in (".npy", ".npz"):
        read = read_array(save(tmp_path / f"rows{suffix}", values.astype(dtype)))
        assert read.dtype == np.dtype(expected)  # equal only in native byte order
        assert np.array_equal(read, values)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array(3.0), r"1 to 4 dimensions.*got shape \(\)"),
        (np.ones((1, 1, 1, 1, 1)), r"got shape \(1, 1, 1, 1, 1\)"),
        (np.ones((0, 3)), r"none of them 0, got shape \(0, 3\)"),
        (np.ones((3, 0)), r"got shape \(3, 0\)"),
        (np.ones(2, dtype=complex), "real numbers, got complex128"),
        (np.array(["a", "b"]), "real numbers, got <U1"),
        (np.array([b"a"]), "real numbers, got |S1"),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), "real numbers, got datetime64"),
        (np.array([3], dtype="timedelta64[s]"), "real numbers, got timedelta64"),
        (np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]), "real numbers, got"),
        (
            np.array([2**63], dtype=np.uint64),
            "at most 9223372036854775807, got 9223372036854775808",
        ),
    ],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_other_arrays_are_refused(
    tmp_path: Path, suffix: str, array: np.ndarray, message: str
) -> None:
    refuse(save(tmp_path / f"rows{suffix}", array), message)


def test_infinities_and_nans_are_the_callers_business(tmp_path: Path) -> None:
    read = read_array(save(tmp_path / "rows.npy", np.array([np.inf, np.nan, -np.inf])))
    assert np.array_equal(read, [np.inf, np.nan, -np.inf], equal_nan=True)
    if np.finfo(np.longdouble).max > np.finfo(np.float64).max:
        huge = np.array([np.finfo(np.longdouble).max])
        assert read_array(save(tmp_path / "huge.npy", huge)).tolist() == [np.inf]


def test_large_files_are_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save(tmp_path / "rows.npy", ROWS)
    assert not isinstance(read_array(source), np.memmap)
    monkeypatch.setattr(arrays, "MAPPED_ABOVE", 100)
    mapped = read_array(source)
    assert isinstance(mapped, np.memmap)
    assert not mapped.flags.writeable
    assert np.array_equal(mapped, ROWS)


def test_a_header_that_promises_too_much_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    header = io.BytesIO()
    shape = {"descr": "<f8", "fortran_order": False, "shape": (10**11, 1000)}
    np.lib.format.write_array_header_1_0(header, shape)
    (tmp_path / "rows.npy").write_bytes(header.getvalue() + bytes(80))
    refuse(str(tmp_path / "rows.npy"), "cannot be read.*save it with numpy.save")


def several(path: Path, **named: np.ndarray) -> str:
    """Write several named arrays."""
    if path.suffix == ".npz":
        np.savez(path, **named)  # type: ignore[arg-type]
    elif path.suffix == ".pt":
        torch.save({name: torch.from_numpy(array) for name, array in named.items()}, path)
    else:
        safetensors.numpy.save_file(named, path)
    return str(path)


@pytest.mark.parametrize("suffix", [".npz", ".pt", ".safetensors"])
def test_one_of_several_arrays_is_named(tmp_path: Path, suffix: str) -> None:
    source = several(tmp_path / f"two#2{suffix}", latents=ROWS, labels=np.arange(40))
    assert np.array_equal(read_array(f"{source}#latents"), ROWS)
    assert read_array(f"{source}#labels").tolist() == list(range(40))
    with pytest.raises(InputError, match=r"one array, got 2 \('la\w+', 'la\w+'\).*#la\w+'\.$"):
        read_array(source)
    refuse(f"{source}#latent", "got 'latent'; did you mean 'latents'?")
    refuse(f"{source}#zzz", "got 'zzz'; it holds '")
    refuse(f"{source}#", "got ''; it holds '")


@pytest.mark.parametrize("suffix", [".npz", ".pt", ".safetensors"])
def test_the_only_array_may_be_named(tmp_path: Path, suffix: str) -> None:
    source = several(tmp_path / f"one{suffix}", **{"a\nb": ROWS})
    assert np.array_equal(read_array(source), ROWS)
    assert np.array_equal(read_array(f"{source}#a\nb"), ROWS)
    refuse(several(tmp_path / f"none{suffix}"), "must hold an array, got none; save")


@pytest.mark.parametrize("suffix", [".npz", ".pt", ".safetensors"])
def test_many_names_are_cut_short(tmp_path: Path, suffix: str) -> None:
    many = {f"row\n{i}": np.ones(2) for i in range(30)}
    refuse(several(tmp_path / f"many{suffix}", **many), r"got 30 \('row\\n\d+'.* and 20 more\)")


@pytest.mark.parametrize("suffix", [".npy", ".csv", ".pt"])
def test_a_file_of_one_array_takes_no_name(tmp_path: Path, suffix: str) -> None:
    source = save(tmp_path / f"rows{suffix}", ROWS)
    refuse(f"{source}#rows", "must not name an array.*got 'rows'; leave out '#rows'")


def test_damage_inside_an_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, rows=ROWS)
    whole = path.read_bytes()
    for place, message in ((400, "CRC"), (whole.index(b"PK\x01\x02"), "central directory")):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        refuse(str(path), f"cannot be read.*{message}")


def test_other_files_in_an_archive_do_not_count(tmp_path: Path) -> None:
    source = save(tmp_path / "rows.npz", ROWS)
    with zipfile.ZipFile(source, "a") as archive:
        archive.writestr("notes.txt", "not an array")
    assert np.array_equal(read_array(source), ROWS)
    refuse(f"{source}#notes.txt", "got 'notes.txt'; it holds 'rows'")
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("rows.npy", "not an array")
    refuse(source, "no array in spite of its name")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_half_precision_is_widened(tmp_path: Path, suffix: str, dtype: torch.dtype) -> None:
    half = torch.tensor([[1.5, -0.25]]).to(dtype)  # both are exact in all three
    path = tmp_path / f"half{suffix}"
    if suffix == ".pt":
        torch.save(half, path)
    else:
        safetensors.torch.save_file({"half": half}, path)
    read = read_array(str(path))
    assert read.dtype == np.float32
    assert read.tolist() == [[1.5, -0.25]]


@pytest.mark.parametrize(
    "saved",
    [
        torch.tensor([1.0, 2.0], requires_grad=True),
        torch.nn.Parameter(torch.tensor([1.0, 2.0])),
        {"epoch": 3, "note": "x", "latents": torch.tensor([1.0, 2.0])},
        torch.tensor([1 - 1j, 2 - 2j]).conj().real,
        torch.tensor([-1j, -2j]).conj().imag,
    ],
    ids=["grad", "parameter", "dict", "conj", "neg"],
)
def test_tensors_of_every_sort_are_numbers(tmp_path: Path, saved: object) -> None:
    torch.save(saved, tmp_path / "saved.pt")
    assert read_array(str(tmp_path / "saved.pt")).tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ([torch.ones(2)], "must hold a tensor, got a list; save"),
        (3.5, "must hold a tensor, got a float"),
        ({"epoch": 3, "state": {"w": torch.ones(2)}}, "must hold an array, got none"),
        (torch.ones(2, dtype=torch.complex64), "real numbers, got complex64"),
        (torch.eye(2).to_sparse(), "must be a dense tensor, got a torch.sparse_coo one; pad or"),
        (torch.empty(2, 2, device="meta"), "must be a dense tensor, got a meta one"),
        (Path("x"), "nothing but tensors"),
        (np.ones(2), "nothing but tensors"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_things_that_torch_saves_are_refused(
    tmp_path: Path, saved: object, message: str
) -> None:
    torch.save(saved, tmp_path / "saved.pt")
    refuse(str(tmp_path / "saved.pt"), message)


@pytest.mark.filterwarnings("ignore:.*prototype stage:UserWarning")  # of making them here
def test_nested_tensors_are_refused(tmp_path: Path) -> None:
    torch.save(torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), tmp_path / "saved.pt")
    refuse(str(tmp_path / "saved.pt"), "must be a dense tensor, got a nested one; pad or convert")


def test_warnings_of_a_library_are_not_shown() -> None:
    with library("x", "save it"):
        warnings.warn("a prototype", UserWarning, stacklevel=1)
    with pytest.raises(UserWarning):  # which is an error elsewhere
        warnings.warn("a prototype", UserWarning, stacklevel=1)


def test_what_a_library_said_becomes_one_short_printable_line() -> None:
    assert reason(MemoryError()) == "MemoryError"
    assert reason(ValueError("a\x1b[31m.\nb")) == "a [31m"
    assert len(reason(ValueError("x" * 999))) <= 160
