"""Rows of what a training script holds: a tensor, an array, a dataset or a loader.

A loader is never iterated: that would draw from its generator and start its workers. Its rows are
read from its dataset, through its collate function if it has one of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, default_collate

from capcheck.core.errors import InputError

__all__ = ["FIELDS", "MOST_ROWS", "PROBED", "Rows", "TrainingData"]

MOST_ROWS = 10_000  # rows that a law is built from
PROBED = 64  # rows of a dataset by which it is known again
FIELDS = ("input_ids", "pixel_values", "x", "inputs", "image", "images", "data", "img", "text")
"""Fields of an item that hold what is modelled, in the order in which they are looked for."""

Select = Callable[[Any], Any]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of data.

    Attributes:
        array: The rows, (n, ...); images have their channels last.
        total: Number of rows that the data hold, or None if only reading them would tell.
        name: What they are rows of, in a few words.
    """

    array: np.ndarray
    total: int | None
    name: str


class TrainingData:
    """What a training script feeds its model, as rows.

    Args:
        data: A tensor or array (n, ...), a `Dataset` (map-style, or iterable), a `DataLoader`, or
            any sequence of items. An item is a row, or a tuple whose first entry is the row, or a
            mapping with the row in one of `FIELDS` or in its only array.
        select: Function from an item to its row, where the rule above does not find it.
        most: Number of rows that are read; they are evenly spaced, or the first ones where only
            iteration is possible.

    Raises:
        InputError: The data are of another kind, hold no rows, or could not be read twice.
    """

    def __init__(self, data: Any, *, select: Select | None = None, most: int = MOST_ROWS) -> None:
        self._whole: np.ndarray | None = None
        self._items: Any = None
        self._select, self._most = select, most
        self._batch = 1
        self._collate: Callable[[list[Any]], Any] | None = None
        self.name = _name(data)
        if isinstance(data, DataLoader):
            self.name = f"a loader of {_name(data.dataset)}"
            if data.collate_fn not in (
                default_collate,
                torch.utils.data._utils.collate.default_convert,
            ):
                self._collate, self._batch = data.collate_fn, data.batch_size or 1
            data = data.dataset
        if isinstance(data, (torch.Tensor, np.ndarray)):
            self._whole = _array(data)
            self.total: int | None = len(self._whole) if self._whole.ndim else 0
        elif isinstance(data, Mapping):
            raise InputError(
                f"data must be a Target, a tensor, an array, a Dataset or a DataLoader, got a "
                f"{type(data).__name__}; give one of its values."
            )
        elif isinstance(data, IterableDataset):  # which has the methods of others as well
            self._items, self.total = data, None
        elif hasattr(data, "__getitem__") and hasattr(data, "__len__"):
            self._items, self.total = data, len(data)
        elif isinstance(data, Iterable) and not isinstance(data, Iterator):
            self._items, self.total = data, None
        elif isinstance(data, Iterator):
            raise InputError(
                "data must be readable twice, got an iterator, whose rows training would miss; "
                "give its dataset, or a tensor of rows."
            )
        else:
            raise InputError(
                "data must be a Target, a tensor, an array, a Dataset or a DataLoader, got "
                f"{type(data).__name__}."
            )
        if self.total == 0:
            raise InputError(f"data must hold rows, got {self.name} without any.")

    def probe(self) -> Rows:
        """The rows by which the data are known again: all of an array, `PROBED` of a dataset."""
        return self._rows(self._most if self._whole is not None else PROBED)

    def rows(self) -> Rows:
        """The rows that a law is built from, as many as were asked for."""
        return self._rows(self._most)

    def _rows(self, most: int) -> Rows:
        array = (
            self._read(most)
            if self._whole is None
            else self._whole[_spaced(len(self._whole), most)]
        )
        return Rows(array=_channels_last(array), total=self.total, name=self.name)

    def _read(self, most: int) -> np.ndarray:
        read: list[np.ndarray] = []
        for item in self._chosen(most):
            read.append(self._row(item))
            if read[-1].shape != read[0].shape:
                raise InputError(
                    f"rows of data must have one shape, got {read[0].shape} and "
                    f"{read[-1].shape} in {self.name}; give select=, a function that cuts or pads "
                    "an item, or a loader whose collate function does."
                )
        if not read:
            raise InputError(f"data must hold rows, got {self.name} without any.")
        return np.stack(read)

    def _chosen(self, most: int) -> Iterator[Any]:
        """The items that are read, each of one row."""
        if self.total is None:
            items: Iterator[Any] = itertools.islice(iter(self._items), most)
        else:
            items = (self._items[int(i)] for i in _spaced(self.total, most))
        if self._collate is None:
            yield from items
            return
        while batch := list(itertools.islice(items, self._batch)):
            made = self._found(self._collate(batch))
            yield from made

    def _row(self, item: Any) -> np.ndarray:
        return _array(item if self._collate is not None else self._found(item))

    def _found(self, item: Any) -> Any:
        if self._select is not None:
            return self._select(item)
        if isinstance(item, Mapping):
            return item[self._field(item)]
        if isinstance(item, (tuple, list)) and item and not isinstance(item[0], (int, float)):
            return self._found(item[0])
        return item

    def _field(self, item: Mapping[str, Any]) -> str:
        named = [name for name in FIELDS if name in item]
        arrays = [name for name, value in item.items() if np.ndim(_quietly(value)) > 0]
        found = named[:1] or (arrays if len(arrays) == 1 else [])
        if not found:
            raise InputError(
                f"select must say which field of an item is modelled, as in select=lambda item: "
                f"item[{next(iter(item), '')!r}]; the fields are {', '.join(map(str, item))}."
            )
        return found[0]


def _spaced(count: int, most: int) -> np.ndarray:
    """Evenly spaced indices of rows, all of them if they are no more than `most`."""
    return np.arange(count) if count <= most else np.linspace(0, count - 1, most).astype(np.int64)


def _array(value: Any) -> np.ndarray:
    """A tensor, an image or nested numbers as an array of numbers."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
    try:
        found = np.asarray(value)
    except ValueError:
        found = np.asarray(None)
    if found.dtype.kind not in "iuf":
        raise InputError(
            f"rows of data must be numbers, got {type(value).__name__}; give select=, a function "
            "from an item to its numbers or token ids."
        )
    return found


def _quietly(value: Any) -> Any:
    """A value as an array, or 0 if it is none."""
    try:
        return _array(value)
    except InputError:
        return 0


def _channels_last(rows: np.ndarray) -> np.ndarray:
    """Images with their channels last; torch has them first."""
    if rows.ndim == 4 and rows.shape[1] in (1, 3, 4) and rows.shape[3] not in (1, 3, 4):
        return np.moveaxis(rows, 1, 3)
    return rows


def _name(data: Any) -> str:
    """What rows are of, in a few words."""
    if isinstance(data, (torch.Tensor, np.ndarray)):
        return "an array of " + "x".join(map(str, data.shape))
    if isinstance(data, (list, tuple)):
        return f"a {type(data).__name__} of {len(data)} items"
    return type(data).__name__
