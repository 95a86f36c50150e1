"""Functions that all readers of arrays share: choosing an array of a file, and checking it."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from capcheck.core.errors import InputError

__all__ = [
    "LARGEST_INTEGER",
    "MOST_NUMBERS",
    "chosen",
    "library",
    "no_choice",
    "real_rows",
    "reason",
    "require_size",
]

LARGEST_INTEGER = int(np.iinfo(np.int64).max)
MOST_NUMBERS = 1 << 29  # most numbers in a file that has fewer bytes than numbers: 4 GiB


def reason(said: object) -> str:
    """The first line of a library's error message, fit for the middle of a sentence."""
    first = next(iter(str(said).splitlines()), "") or type(said).__name__
    shown = "".join(c if c.isprintable() else " " for c in first)
    return (shown if len(shown) <= 160 else shown[:157] + "...").rstrip(" .")


def real_rows(array: np.ndarray, source: str) -> np.ndarray:
    """The array as float32, float64 or int64 rows.

    Raises:
        InputError: The array does not hold real numbers, is empty, does not have 1 to 4 dimensions,
            or holds integers above `LARGEST_INTEGER`.
    """
    if array.dtype.kind not in "biuf":
        raise InputError(
            f"data {source!r} must hold real numbers, got {array.dtype}; convert it to float64."
        )
    if not 1 <= array.ndim <= 4 or array.size == 0:
        raise InputError(
            f"data {source!r} must have 1 to 4 dimensions, rows first and none of them 0, got "
            f"shape {array.shape}; reshape it."
        )
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # a long double may become infinity, which is a value
            return array.astype(np.float32 if array.itemsize <= 4 else np.float64, copy=False)
    if array.dtype == np.uint64 and array.max() > LARGEST_INTEGER:
        raise InputError(
            f"data {source!r} must hold integers of at most {LARGEST_INTEGER}, got {array.max()}; "
            "save it as float64."
        )
    return array.astype(np.int64, copy=False)


def require_size(numbers: float, path: Path, source: str) -> None:
    """Raise InputError if a file claims more numbers than `MOST_NUMBERS` and than its bytes.

    The check comes before anything is decompressed or copied, because compression, and views that
    repeat numbers, let a few bytes claim any size.
    """
    if numbers > max(MOST_NUMBERS, path.stat().st_size):
        raise InputError(
            f"data {source!r} must hold at most {MOST_NUMBERS} numbers, got {numbers:.0f} out of "
            f"{path.stat().st_size} bytes; keep fewer rows, or save them with numpy.save, as .npy "
            "is read when it is needed."
        )


@contextmanager
def library(source: str, cure: str) -> Iterator[None]:
    """Turn every exception that a library raises on an unreadable file into an InputError."""
    try:
        with warnings.catch_warnings(action="ignore"):  # on what is refused or converted anyway
            yield
    except InputError:
        raise
    except Exception as error:  # parsers raise nearly anything on damaged files
        raise InputError(
            f"data {source!r} cannot be read as an array of numbers ({reason(error)}); {cure}."
        ) from None


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(map(repr, names[:10])) + more


def chosen(names: Sequence[str], name: str | None, source: str, *, cure: str) -> str:
    """The name of the array that was asked for, or of the only array.

    Raises:
        InputError: The file has no such array, no array, or several and none was named.
    """
    if name in names:
        return str(name)
    if not names:
        raise InputError(f"data {source!r} must hold an array, got none; {cure}.")
    if name is None and len(names) == 1:
        return names[0]
    if name is None:
        raise InputError(
            f"data {source!r} must hold one array, got {len(names)} ({_listed(names)}); choose "
            f"one as in {f'{source}#{names[0]}'!r}."
        )
    match = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {match[0]!r}?" if match else f"it holds {_listed(names)}."
    raise InputError(f"data {source!r} must name an array of the file, got {name!r}; {hint}")


def no_choice(name: str | None, source: str) -> None:
    """Raise InputError if an array was named in a file that holds only one."""
    if name is not None:
        raise InputError(
            f"data {source!r} must not name an array, as there is only one, got {name!r}; "
            f"leave out {f'#{name}'!r}."
        )
