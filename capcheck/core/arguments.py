"""Arguments of the Python interface: checks of types, each with a sentence for a wrong value.

A check takes the name of a field and a value. It returns the value in the one type that the code
behind it reads, such as an int for a NumPy integer, or raises InputError with the field, the rule,
the value received and the cure. Values are shown on one line of limited length.
"""

from __future__ import annotations

import numbers
import operator
import os
import reprlib
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from torch import Tensor

from capcheck.core.errors import InputError, near

__all__ = [
    "file_path",
    "flag",
    "function",
    "mapping",
    "one_of",
    "real_number",
    "several",
    "shown",
    "texts",
    "whole_number",
]

LONGEST = 160  # characters of a value that a message shows
LARGEST = 1 << 128  # size from which whole numbers are described


class _Shown(reprlib.Repr):
    """Representations in which arrays and very large numbers are described."""

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if abs(x) < LARGEST else f"a whole number of {x.bit_length()} bits"

    def repr_ndarray(self, x: np.ndarray, level: int) -> str:
        return repr(x) if x.ndim == 0 else f"an array of shape {x.shape} ({x.dtype})"

    def repr_Tensor(self, x: Tensor, level: int) -> str:  # noqa: N802
        return f"a tensor of shape {tuple(x.shape)} ({x.dtype})"


_SHOWN = _Shown()
_SHOWN.maxstring = _SHOWN.maxother = 100
_SHOWN.maxlist = _SHOWN.maxtuple = _SHOWN.maxset = _SHOWN.maxdict = 8
_SHOWN.maxlevel = 3


def shown(value: object) -> str:
    """The value as messages show it: on one line of at most `LONGEST` characters."""
    text = " ".join(_SHOWN.repr(value).split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def whole_number(
    field: str, value: object, least: int | None = None, most: int | None = None
) -> int:
    """The value as an int.

    Raises:
        InputError: It is no whole number of at least `least` and at most `most`.
    """
    number = _index(value)
    if number is None or (least is not None and number < least):
        rule = "a whole number" if least is None else f"a whole number of at least {least}"
        raise InputError(f"{field} must be {rule}, got {shown(value)}.")
    if most is not None and number > most:
        raise InputError(f"{field} must be at most {most}, got {shown(number)}.")
    return number


def real_number(
    field: str, value: object, rule: str, holds: Callable[[float], bool], cure: str = ""
) -> float:
    """The value as a float.

    Args:
        field: Name of the field.
        value: The value; an integer or a NumPy number will do, and text and booleans will not.
        rule: Rule in words, after "must be".
        holds: Whether a number obeys the rule. A number beyond the range of floats is infinite.
        cure: What to do, in a few words, or nothing.

    Raises:
        InputError: It is no real number, or breaks the rule.
    """
    number = None
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = float("inf") if operator.gt(value, 0) else float("-inf")
    if number is None or not holds(number):
        end = f"; {cure}." if cure else "."
        raise InputError(f"{field} must be {rule}, got {shown(value)}{end}")
    return number


def several(field: str, values: object, what: str, cure: str) -> list[Any]:
    """The values of a list, tuple, set, generator or array of one dimension.

    Args:
        field: Name of the field.
        values: The values. Text, bytes and mappings are no lists.
        what: What the values are, in the plural.
        cure: What to do, in a few words.

    Raises:
        InputError: It is no such collection.
    """
    if isinstance(values, (np.ndarray, Tensor)) and values.ndim == 1:
        return list(values.tolist())
    refused = (str, bytes, Mapping, np.ndarray, Tensor, type)
    if isinstance(values, refused) or not isinstance(values, Iterable):
        raise InputError(f"{field} must be a list of {what}, got {shown(values)}; {cure}.")
    return list(values)


def texts(field: str, values: object, what: str, cure: str) -> list[str]:
    """Names given as a list of texts, or as one text with commas between them.

    Raises:
        InputError: It is neither.
    """
    found = values.split(",") if isinstance(values, str) else several(field, values, what, cure)
    for one in found:
        if not isinstance(one, str):
            raise InputError(f"{field} must be a list of {what}, got {shown(one)} in it; {cure}.")
    return found


def one_of(field: str, value: object, known: Collection[str]) -> str:
    """The value if it is one of some names.

    Raises:
        InputError: It is not; the message names the most similar one.
    """
    if isinstance(value, str) and value in known:
        return value
    raise InputError(f"{field} {shown(value)} is unknown; {near(str(value), known)}")


def mapping(field: str, value: object, what: str, cure: str) -> dict[str, Any]:
    """The value as a dict of texts to values; None is an empty one.

    Args:
        field: Name of the field.
        value: The value.
        what: What its keys name, and what it gives them, as in "options by their names".
        cure: What to do, in a few words.

    Raises:
        InputError: It is no mapping, or a key is no text.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InputError(f"{field} must be a mapping of {what}, got {shown(value)}; {cure}.")
    for key in value:
        if not isinstance(key, str):
            raise InputError(
                f"{field} must be a mapping of {what}, got the key {shown(key)}; {cure}."
            )
    return dict(value)


def function(field: str, value: object, what: str) -> None:
    """Raise InputError unless the value is None or can be called.

    Args:
        field: Name of the field.
        value: The value.
        what: What the function is called with, as in "a Progress".
    """
    if value is not None and not callable(value):
        raise InputError(
            f"{field} must be a function of {what}, got {shown(value)}; leave it out for none."
        )


def flag(field: str, value: object) -> bool:
    """The value as a bool; NumPy has booleans of its own.

    Raises:
        InputError: It is neither True nor False.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise InputError(f"{field} must be True or False, got {shown(value)}.")
    return bool(value)


def file_path(field: str, value: object, what: str) -> Path:
    """The path of a file or folder.

    Args:
        field: Name of the field.
        value: Text, which is not empty, or a path.
        what: What it is the path of, as in "a folder".

    Raises:
        InputError: It is something else.
    """
    path = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(path, str) or not path:
        raise InputError(
            f"{field} must be the path of {what}, as text or Path, got {shown(value)}."
        )
    return Path(path)


def _index(value: object) -> int | None:
    """The value as an int, or None if it is no whole number or a boolean."""
    if isinstance(value, (np.ndarray, Tensor)):
        value = value.item() if value.ndim == 0 else None
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, SupportsIndex):
        return None
    try:
        return operator.index(value)
    except TypeError:  # the class of an object of another kind may declare the method
        return None
