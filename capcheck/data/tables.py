"""Readers of tables of numbers: .csv and .parquet files."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from capcheck.core.errors import InputError
from capcheck.data.contents import (
    LARGEST_INTEGER,
    chosen,
    library,
    no_choice,
    real_rows,
    reason,
    require_size,
)
from capcheck.data.text import utf8

__all__ = ["INTEGER", "read_csv", "read_parquet"]

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

INTEGER = re.compile(r"\s*[+-]?[0-9]+\s*")


def read_csv(path: Path, name: str | None, source: str) -> np.ndarray:
    """Read a .csv file of numbers separated by commas, (rows, columns); see `read_array`."""
    no_choice(name, source)
    reader = csv.reader(io.StringIO(utf8(path, cure="save it as UTF-8"), newline=""), strict=True)
    rows: list[np.ndarray] = []
    width = blank = 0
    with library(source, "save it as numbers separated by commas"):
        for cells in reader:
            if not cells:
                blank = blank or (reader.line_num if width else 0)
                continue
            numbers = [_number(cell) for cell in cells]
            is_header = not width and all(map(str.strip, cells)) and numbers == [None] * len(cells)
            width = width or len(cells)
            if blank or len(cells) != width:
                line, got = (blank, 0) if blank else (reader.line_num, len(cells))
                raise InputError(
                    f"data {source!r} must have {width} cells on every line, got {got} on line "
                    f"{line}; complete or remove it."
                )
            if not is_header:
                _check_cells(cells, numbers, reader.line_num, source)
                rows.append(np.array(numbers))
    if not rows:
        raise InputError(f"data {source!r} must have a line of numbers, got none; add its rows.")
    return np.stack(rows)


def _number(cell: str) -> int | float | None:
    if "_" in cell or not cell.isascii():  # which Python would take for numbers
        return None
    try:
        return int(cell) if INTEGER.fullmatch(cell) else float(cell)
    except ValueError:
        return None


def _check_cells(
    cells: Sequence[str], numbers: Sequence[int | float | None], line: int, source: str
) -> None:
    for column, (cell, number) in enumerate(zip(cells, numbers, strict=True), 1):
        if isinstance(number, float) or (
            number is not None and -LARGEST_INTEGER - 1 <= number <= LARGEST_INTEGER
        ):
            continue
        place = f"on line {line}, column {column}"
        if not cell.strip():
            raise InputError(
                f"data {source!r} must have a number in every cell, got an empty cell {place}; "
                "fill it, or leave out its row or column (in pandas: index=False)."
            )
        shown = cell if len(cell) <= 40 else cell[:37] + "..."
        if number is not None:
            raise InputError(
                f"data {source!r} must hold integers of at most {LARGEST_INTEGER}, got {shown!r} "
                f"{place}; write it with a decimal point."
            )
        raise InputError(
            f"data {source!r} must be numbers separated by commas, got {shown!r} {place}; only a "
            "first line without any number is a header."
        )


def read_parquet(path: Path, name: str | None, source: str) -> np.ndarray:
    """Read numeric columns or one column of lists, (rows, columns); see `read_array`."""
    try:
        from pyarrow import parquet
    except ImportError:
        raise InputError(
            f"data {source!r} must be read by pyarrow, which is not installed; "
            "pip install 'capcheck[parquet]'."
        ) from None
    cure = "save real numbers with pyarrow or pandas"
    with library(source, cure), parquet.ParquetFile(path) as file:
        names = list(file.schema_arrow.names)
        if name is not None or not names:
            names = [chosen(names, name, source, cure=cure)]
        require_size(_values_of(file, names), path, source)
        table = file.read(columns=names)
        if any(name.startswith("__index_level_") for name in names):
            raise InputError(
                f"data {source!r} must hold data only, got a row index of pandas; save it with "
                "index=False, or choose a column with #."
            )
        columns = [_column(table.column(name), name, source) for name in names]
    lists = [name for name, c in zip(names, columns, strict=True) if c.shape[1] != 1]
    if lists and len(columns) > 1:
        raise InputError(
            f"data {source!r} must be numeric columns or one column of lists, got the lists of "
            f"{lists[0]!r} among {len(columns)} columns; choose it: {f'{source}#{lists[0]}'!r}."
        )
    return np.concatenate(columns, axis=1)


def _values_of(file: pyarrow.parquet.ParquetFile, names: Sequence[str]) -> int:
    """Numbers in some columns: an encoding may hold a million equal ones in a few bytes."""
    chunks = (
        file.metadata.row_group(group).column(column)
        for group in range(file.metadata.num_row_groups)
        for column in range(file.metadata.num_columns)
    )
    return sum(one.num_values for one in chunks if one.path_in_schema.split(".")[0] in names)


def _column(column: pyarrow.ChunkedArray, name: str, source: str) -> np.ndarray:
    """Values of a column: numbers as (rows, 1), lists of equal length as (rows, length)."""
    from pyarrow import compute, types

    holds_lists = any(
        is_kind(column.type)
        for is_kind in (types.is_list, types.is_large_list, types.is_fixed_size_list)
    )
    number = column.type.value_type if holds_lists else column.type
    if not any(f(number) for f in (types.is_integer, types.is_floating, types.is_boolean)):
        raise InputError(
            f"data {source!r} must hold real numbers, got {reason(column.type)} in column "
            f"{name!r}; convert it, or choose another column with #."
        )
    parts = [chunk.flatten() if holds_lists else chunk for chunk in column.chunks]
    gaps = sum(part.null_count for part in parts) + (column.null_count if holds_lists else 0)
    if gaps:
        raise InputError(
            f"data {source!r} must have no gaps, got {gaps} null in column {name!r}; fill them, "
            "or drop their rows."
        )
    if holds_lists:
        lengths = compute.list_value_length(column).to_numpy()
        for row in np.flatnonzero(lengths != lengths[:1])[:1]:
            raise InputError(
                f"data {source!r} must have lists of one length in column {name!r}, got "
                f"{lengths[0]} in row 1 and {lengths[row]} in row {row + 1}; pad or cut them."
            )
    values = [np.empty(0, dtype=np.bool_), *(p.to_numpy(zero_copy_only=False) for p in parts)]
    return real_rows(np.concatenate(values), source).reshape(len(column), -1)
