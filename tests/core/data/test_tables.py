"""The tables among the array files: .csv and .parquet."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from capcheck.core.errors import InputError
from capcheck.data.arrays import read_array


def read_csv(folder: Path, content: str | bytes) -> np.ndarray:
    raw = content.encode() if isinstance(content, str) else content
    (folder / "table.csv").write_bytes(raw)
    return read_array(str(folder / "table.csv"))


def read_parquet(folder: Path, columns: Mapping[str, object], name: str = "") -> np.ndarray:
    parquet.write_table(pyarrow.table(dict(columns)), folder / "table.parquet")
    return read_array(str(folder / "table.parquet") + name)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("1,2\n3,4\n", [[1, 2], [3, 4]]),
        ("1,2\r\n3,4", [[1, 2], [3, 4]]),
        ("a,b\n1,2\n", [[1, 2]]),
        ("\ufeffa,b\n1,2\n\n\n", [[1, 2]]),
        ("\n\na\n-7\n+8", [[-7], [8]]),
        (' 1 ,"2"\n', [[1, 2]]),
        ('"a, b","c\nd"\n1,2', [[1, 2]]),
        ("9223372036854775807\n-9223372036854775808", [[2**63 - 1], [-(2**63)]]),
        ("1,2\n3,4.5", [[1.0, 2.0], [3.0, 4.5]]),
        ("1e3,.5\n-2.,+0.25E-1", [[1000.0, 0.5], [-2.0, 0.025]]),
        ("x\n1.0\ninf\n-inf", [[1.0], [np.inf], [-np.inf]]),
        ("18446744073709551616.0", [[2.0**64]]),
    ],
)
def test_csv(tmp_path: Path, content: str, expected: list[list[float]]) -> None:
    read = read_csv(tmp_path, content)
    assert read.tolist() == expected
    assert read.dtype == (np.int64 if isinstance(expected[0][0], int) else np.float64)


def test_csv_agrees_with_numpy_to_the_last_bit(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(50, 4)) * 10.0 ** np.arange(-150, 150, 75)
    np.savetxt(tmp_path / "table.csv", rows, delimiter=",", fmt="%.17g", header="a,b,c,d")
    assert np.array_equal(read_array(str(tmp_path / "table.csv")), rows)


def test_csv_passes_nan_on(tmp_path: Path) -> None:
    assert np.isnan(read_csv(tmp_path, "1,nan\n")).tolist() == [[False, True]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1,2\n3\n", "2 cells on every line, got 1 on line 2; complete"),
        ("a,b\n1,2,3\n", "2 cells on every line, got 3 on line 2"),
        ("1\n\n2\n", "1 cells on every line, got 0 on line 2"),
        ("1,2\n3,\n", "got an empty cell on line 2, column 2; fill it"),
        ("1, \n", "got an empty cell on line 1, column 2"),
        (",0,1\n0,5,6\n", r"empty cell on line 1, column 1.*in pandas: index=False"),
        (",a,b\n0,5,6\n", "empty cell on line 1, column 1"),
        ("a,b\n1,x\n", "got 'x' on line 2, column 2; only a first line"),
        ("id,0,1\n7,8,9\n", "got 'id' on line 1, column 1"),
        ("a,b\nc,d\n1,2\n", "got 'c' on line 2, column 1"),
        ("1;2\n3;4\n", "separated by commas, got '3;4' on line 2"),
        ("1_000\n1_000", "got '1_000' on line 2"),
        ("0x10\n0x10", "got '0x10' on line 2"),
        ("٣\n٣", "got '٣' on line 2"),
        ("1\n" + "y" * 999, r"got 'y{37}\.\.\.' on line 2"),
        ("1\n\x1b[31m", r"got '\\x1b\[31m' on line 2"),
        ("9223372036854775808", "at most 9223372036854775807, got '9223372036854775808' on"),
        (
            "1\n-9223372036854775809",
            "got '-9223372036854775809' on line 2, column 1; write it with",
        ),
        ("9" * 999, r"got '9{37}\.\.\.' on line 1"),
        ("a,b\n", "must have a line of numbers, got none"),
        ("\n \n", "must have a line of numbers|empty cell"),
        ('"1,2\n3', "cannot be read.*commas"),
        (b"1,2\n\xff,3\n", r"UTF-8 text, got the invalid byte 0xff at byte 4.*save it as UTF-8\."),
        ("1,2\n".encode("utf-16"), "invalid byte 0xff at byte 0"),
    ],
)
def test_csv_that_is_no_table_is_refused(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_csv(tmp_path, content)
    assert str(caught.value).isprintable()
    assert repr(str(tmp_path / "table.csv")) in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"a": [1, 2], "b": [3, 4]}, [[1, 3], [2, 4]]),
        ({"a": [1, 2], "b": [0.5, 1.5]}, [[1.0, 0.5], [2.0, 1.5]]),
        ({"a": [True, False]}, [[1], [0]]),
        ({"a": pyarrow.array([1, 2], pyarrow.uint64()), "b": [3, 4]}, [[1, 3], [2, 4]]),
        ({"a.b": [1], "a": [2]}, [[1, 2]]),
        ({"x": [[1, 2], [3, 4], [5, 6]]}, [[1, 2], [3, 4], [5, 6]]),
        (
            {"x": pyarrow.array([[1.5], [2.5]], pyarrow.large_list(pyarrow.float64()))},
            [[1.5], [2.5]],
        ),
        ({"x": pyarrow.array([[1, 2]], pyarrow.list_(pyarrow.int8(), 2))}, [[1, 2]]),
        ({"x": pyarrow.chunked_array([[[1, 2]], [[3, 4]]])}, [[1, 2], [3, 4]]),
    ],
)
def test_parquet(
    tmp_path: Path, columns: Mapping[str, object], expected: list[list[float]]
) -> None:
    read = read_parquet(tmp_path, columns)
    assert read.tolist() == expected
    assert read.dtype == (np.int64 if isinstance(expected[0][0], int) else np.float64)


def test_parquet_of_half_precision_and_many_groups(tmp_path: Path) -> None:
    rows = np.arange(100, dtype=np.float16).reshape(50, 2)
    table = pyarrow.table({"x": list(rows)})
    parquet.write_table(table, tmp_path / "table.parquet", row_group_size=7)
    read = read_array(str(tmp_path / "table.parquet"))
    assert read.dtype == np.float32
    assert np.array_equal(read, rows)


def test_a_parquet_column_is_chosen(tmp_path: Path) -> None:
    columns = {"x#y": [[1, 2], [3, 4]], "label": ["a", "b"], "n": [7, 8]}
    assert read_parquet(tmp_path, columns, "#x#y").tolist() == [[1, 2], [3, 4]]
    assert read_parquet(tmp_path, columns, "#n").tolist() == [[7], [8]]
    with pytest.raises(InputError, match=r"got 'labl'; did you mean 'label'\?"):
        read_parquet(tmp_path, columns, "#labl")


def test_a_folder_of_partitions_adds_no_column(tmp_path: Path) -> None:
    (tmp_path / "year=2020").mkdir()
    assert read_parquet(tmp_path / "year=2020", {"a": [1.5]}).tolist() == [[1.5]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": ["x", "y"]}, "real numbers, got string in column 'a'; convert it"),
        ({"a": [["x"], ["y"]]}, "real numbers, got list<.*string> in column 'a'"),
        ({"a": [[[1]], [[2]]]}, "real numbers, got list<.*list<.*int64>> in column 'a'"),
        ({"a": [None, None]}, "real numbers, got null in column 'a'"),
        ({"a": [{"b": 1}]}, "real numbers, got struct<b: int64> in column 'a'"),
        ({"a": np.array(["2020"], dtype="datetime64[s]")}, "real numbers, got timestamp"),
        ({"a\nb": [1, None, None]}, r"no gaps, got 2 null in column 'a\\nb'; fill"),
        ({"a": [[1, 2], None]}, "no gaps, got 1 null in column 'a'"),
        ({"a": [[1, None], [None, 2]]}, "no gaps, got 2 null in column 'a'"),
        ({"a": [[1, 2], [3, 4], [5]]}, "one length in column 'a', got 2 in row 1 and 1 in row 3"),
        ({"a": [[], []]}, "real numbers, got list<.*null>"),
        ({"a": pyarrow.array([[]], pyarrow.list_(pyarrow.int8()))}, "none of them 0"),
        ({"a": pyarrow.array([], pyarrow.int8())}, "none of them 0"),
        ({}, "must hold an array, got none"),
        ({"a": [[1, 2]], "b": [1]}, "the lists of 'a' among 2 columns; choose it: .*parquet#a'"),
        ({"a": [1], "__index_level_0__": [7]}, "row index of pandas; save it with index=False"),
        ({"a": pyarrow.array([2**63], pyarrow.uint64())}, "integers of at most"),
    ],
)
def test_parquet_that_is_no_table_is_refused(
    tmp_path: Path, columns: Mapping[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_parquet(tmp_path, columns)
    assert str(caught.value).isprintable()
    assert repr(str(tmp_path / "table.parquet")) in str(caught.value)


def test_parquet_without_pyarrow_names_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_parquet(tmp_path, {"a": [1]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install 'capcheck\[parquet\]'\.$"):
        read_array(str(tmp_path / "table.parquet"))
