"""Readers of array files: .npy, .npz, .csv, .parquet, .pt and .safetensors.

The result is float32, float64 or int64 with rows on its first axis: narrower floats are widened to
float32, other integers and booleans to int64. A file of several arrays needs a name, as in
`file.npz#latents`. Nothing is unpickled: objects that only a pickle can hold are refused. The
numbers that a small file would expand to are counted first, and refused if there are too many.
"""

from __future__ import annotations

import math
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from safetensors import safe_open

from capcheck.core.errors import InputError
from capcheck.data.contents import chosen, library, no_choice, real_rows, require_size
from capcheck.data.tables import read_csv, read_parquet
from capcheck.data.text import existing_file
from capcheck.targets.from_data.empirical import as_array

__all__ = ["MAPPED_ABOVE", "READERS", "SUFFIXES", "place_and_name", "read_array"]

MAPPED_ABOVE = 1 << 28  # bytes above which a .npy file is mapped instead of read


def read_array(source: str) -> np.ndarray:
    """Read one array of real numbers.

    Args:
        source: Path of the file. `path#name` chooses an array of a .npz, .pt or .safetensors file
            or a column of a .parquet file, and is required if a file holds several arrays. A .csv
            file holds numbers separated by commas; the result is integer if all of them are, and
            the first line is a header if it holds no number. A .parquet file holds numeric columns,
            or one column of lists of equal length.

    Returns:
        An array (rows, ...) of 1 to 4 dimensions, none of them 0; (rows, columns) for .csv and
        .parquet. A large .npy file is memory-mapped and read-only. Values are not checked for NaN
        and infinity.

    Raises:
        InputError: The file does not exist, is damaged, of another format, ragged, has gaps, holds
            several arrays of which none was chosen, or does not hold real numbers.
    """
    place, name = place_and_name(source)
    path = existing_file(place)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        is_text = path.suffix.lower() == ".txt"
        hint = "it is text: read it as documents" if is_text else "convert it"
        raise InputError(
            f"data {source!r} must be a file that ends in {', '.join(SUFFIXES)} or a folder of "
            f"images, got {path.suffix or 'no ending'!r}; {hint}."
        )
    try:
        return real_rows(reader(path, name, source), source)
    except MemoryError:
        raise InputError(
            f"data {source!r} must fit into memory, and does not; keep fewer rows."
        ) from None


def place_and_name(source: str) -> tuple[str, str | None]:
    """Split a source at the first # that follows the path of a file, as file names may hold #."""
    for cut, character in enumerate(source):
        if character == "#" and os.path.isfile(source[:cut]):
            return source[:cut], source[cut + 1 :]
    return source, None


def _npy(path: Path, name: str | None, source: str) -> np.ndarray:
    no_choice(name, source)
    with library(source, "save it with numpy.save"):
        mapped = open_memmap(path, mode="r")  # which also compares the shape with the file's size
        return mapped if path.stat().st_size > MAPPED_ABOVE else np.array(mapped)


def _npz(path: Path, name: str | None, source: str) -> np.ndarray:
    cure = "save it with numpy.savez"
    with library(source, cure):
        if not zipfile.is_zipfile(path):
            raise ValueError("not a complete .npz archive")
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            names = [member[:-4] for member in archive.zip.namelist() if member.endswith(".npy")]
            member = chosen(names, name, source, cure=cure) + ".npy"
            require_size(_numbers_of(archive.zip, member), path, source)
            array = archive[member]
        if not isinstance(array, np.ndarray):
            raise ValueError("a member that is no array in spite of its name")
        return array


def _numbers_of(archive: zipfile.ZipFile, name: str) -> float:
    """Count of numbers that a member of an .npz archive claims to hold, in units of 8 bytes."""
    with archive.open(name) as member:
        try:
            version = np.lib.format.read_magic(member)
        except ValueError:
            return 0  # not an array, which its reader reports
        read = np.lib.format
        read_header = (
            read.read_array_header_1_0 if version == (1, 0) else read.read_array_header_2_0
        )
        shape, _, dtype = read_header(member)
    return math.prod(shape) * max(1.0, dtype.itemsize / 8)


def _pt(path: Path, name: str | None, source: str) -> np.ndarray:
    cure = "save a tensor, or a dict of tensors, with torch.save"
    with library(source, cure):
        if zipfile.is_zipfile(path):  # PyTorch writes no compressed archive, but reads one
            with zipfile.ZipFile(path) as archive:
                whole = sum(member.file_size for member in archive.infolist())
            require_size(whole / 8, path, source)
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            raise InputError(
                f"data {source!r} must hold nothing but tensors, and what is damaged or holds "
                f"other objects is not unpickled, as that could run its code; {cure}."
            ) from None
        if isinstance(loaded, torch.Tensor):
            no_choice(name, source)
            require_size(loaded.numel(), path, source)
            return as_array(loaded, f"data {source!r}")
        if not isinstance(loaded, dict):
            kind = type(loaded).__name__
            raise InputError(f"data {source!r} must hold a tensor, got a {kind}; {cure}.")
        tensors = {str(k): v for k, v in loaded.items() if isinstance(v, torch.Tensor)}
        tensor = tensors[chosen(list(tensors), name, source, cure=cure)]
        require_size(tensor.numel(), path, source)
        return as_array(tensor, f"data {source!r}")


def _safetensors(path: Path, name: str | None, source: str) -> np.ndarray:
    cure = "save it with safetensors"
    with library(source, cure), safe_open(path, framework="pt") as file:
        tensor = file.get_tensor(chosen(list(file.keys()), name, source, cure=cure))
        return as_array(tensor, f"data {source!r}")


READERS: dict[str, Callable[[Path, str | None, str], np.ndarray]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".csv": read_csv,
    ".parquet": read_parquet,
    ".pt": _pt,
    ".safetensors": _safetensors,
}
SUFFIXES = tuple(READERS)
