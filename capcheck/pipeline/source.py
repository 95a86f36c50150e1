"""The target behind what a caller holds, and a digest by which the same content is known again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from capcheck.core.errors import InputError
from capcheck.data import NAMED, Layout, load_target, target_of_rows
from capcheck.data.arrays import place_and_name
from capcheck.pipeline.training_data import MOST_ROWS, Rows, TrainingData
from capcheck.targets.target import Target

__all__ = ["Source"]

PIECE = 1 << 24  # bytes of a file that are hashed at once


class Source:
    """What a caller holds, as a target that is built when it is asked for.

    Args:
        data: A `Target`, the name of a file or of data that ship with a dependency, or what
            `TrainingData` reads.
        layout: Layout of rows as sequences.
        law: Name of the law behind rows.
        select: See `TrainingData`.
        most: See `TrainingData`.

    Raises:
        InputError: The data are of another kind, or the other arguments are not for a target.
    """

    def __init__(
        self,
        data: Any,
        *,
        layout: Layout,
        law: str = "auto",
        select: Callable[[Any], Any] | None = None,
        most: int = MOST_ROWS,
    ) -> None:
        self._data, self._layout, self._law = data, layout, law
        if isinstance(data, Target):
            if (layout, law, select) != (Layout(), "auto", None):
                raise InputError(
                    "tokens, token_dim, pca, grid, kind, law and select are for rows of data, got "
                    "a target, which has them already; leave them out."
                )
        elif isinstance(data, (str, Path)):
            self._data = os.fspath(data)
        else:
            self._rows = TrainingData(data, select=select, most=most)

    def digest(self) -> str:
        """A hash of the content and of how it becomes a target."""
        if isinstance(self._data, Target):
            return self._data.fingerprint
        digest = hashlib.sha256(json.dumps([dataclasses.asdict(self._layout), self._law]).encode())
        if isinstance(self._data, str):
            _add_files(digest, self._data)
        else:
            _add_rows(digest, self._rows.probe())
        return digest.hexdigest()

    def target(self) -> Target:
        """The target.

        Raises:
            InputError: The data cannot be read, or no law can be built from them.
        """
        if isinstance(self._data, Target):
            return self._data
        if isinstance(self._data, str):
            return load_target(self._data, self._layout, law=self._law)
        rows = self._rows.rows()
        target = target_of_rows(rows.array, rows.name, self._layout, law=self._law, bandwidth=None)
        read, total = len(rows.array), rows.total
        if total == read:
            return target
        part = f"{read:,} of {total:,} rows" if total else f"the first {read:,} rows"
        words = target.provenance.preparation
        return target.with_provenance(preparation=f"{part}, {words}")


def _add_rows(digest: Any, rows: Rows) -> None:
    facts = [str(rows.array.dtype), rows.array.shape, rows.total]
    digest.update(json.dumps(facts).encode())
    digest.update(np.ascontiguousarray(rows.array).tobytes())


def _add_files(digest: Any, name: str) -> None:
    """Add the bytes of a file, or of all files of a folder in the order of their names."""
    digest.update(os.fsencode(name))
    path = Path(place_and_name(name)[0])
    if name in NAMED and not os.path.exists(path):
        return
    for file in sorted(path.rglob("*")) if os.path.isdir(path) else [path]:
        if os.path.isfile(file):
            digest.update(os.fsencode(file.name))
            with file.open("rb") as opened:
                while piece := opened.read(PIECE):
                    digest.update(piece)
