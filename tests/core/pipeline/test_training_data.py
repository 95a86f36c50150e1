"""Rows are found in what training scripts hold, and the script's own state is left alone."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, TensorDataset

from capcheck import InputError
from capcheck.pipeline.training_data import PROBED, TrainingData
from capcheck.pipeline.undisturbed import undisturbed

ROWS = torch.arange(300.0).reshape(100, 3)


class Items(Dataset[Any]):
    """A dataset of items that a function makes from rows."""

    def __init__(self, make: Any, rows: Any = ROWS) -> None:
        self._make, self._rows = make, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> Any:
        return self._make(self._rows[i])


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        yield from ROWS

    def __len__(self) -> int:
        return len(ROWS)


class NeverDrawn(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        raise AssertionError("the loader was iterated")

    def __len__(self) -> int:
        return len(ROWS)


def read(data: Any, **keywords: Any) -> np.ndarray:
    return TrainingData(data, **keywords).rows().array


@pytest.mark.parametrize(
    "data",
    [
        ROWS,
        ROWS.numpy(),
        ROWS.half(),
        TensorDataset(ROWS),
        TensorDataset(ROWS, torch.zeros(100)),
        DataLoader(TensorDataset(ROWS, torch.zeros(100)), batch_size=7, shuffle=True),
        DataLoader(TensorDataset(ROWS), batch_sampler=None, sampler=NeverDrawn()),
        Items(lambda row: {"x": row, "y": 1}),
        Items(lambda row: {"label": 3, "only": row.numpy()}),
        Items(lambda row: {"input_ids": row.tolist(), "attention_mask": [1, 1, 1]}),
        Items(lambda row: ((row, row), 2)),
        Items(lambda row: row.tolist()),
        ROWS.tolist(),
        Stream(),
        DataLoader(Stream(), batch_size=4),
    ],
    ids=range(15),
)
def test_rows_are_found(data: Any) -> None:
    assert np.array_equal(read(data), ROWS.numpy())


def test_rows_that_a_collate_function_makes() -> None:
    def padded(items: list[Any]) -> dict[str, Tensor]:
        ids = [torch.tensor(item) for item in items]
        return {"input_ids": torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)}

    ragged = [[1, 2, 3], [4, 5, 6], [7, 8], [9, 9, 9]]
    loader = DataLoader(Items(lambda row: row, ragged), batch_size=2, collate_fn=padded)
    assert read(loader).tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 0], [9, 9, 9]]


def test_rows_by_a_function_of_the_caller() -> None:
    data = Items(lambda row: {"a": row, "b": row + 1})
    assert np.array_equal(read(data, select=lambda item: item["b"]), ROWS.numpy() + 1)


def test_rows_are_evenly_spaced() -> None:
    found = TrainingData(TensorDataset(ROWS), most=34).rows()
    assert found.total == 100
    assert found.array[:, 0].tolist() == ROWS[::3, 0].tolist()
    assert len(TrainingData(TensorDataset(ROWS.repeat(9, 1))).probe().array) == PROBED
    assert len(TrainingData(Stream(), most=10).rows().array) == 10


def test_images_have_their_channels_last() -> None:
    assert read(torch.zeros(5, 3, 8, 6)).shape == (5, 8, 6, 3)
    assert read(torch.zeros(5, 8, 6, 3)).shape == (5, 8, 6, 3)
    assert read(TensorDataset(torch.zeros(5, 1, 8, 8))).shape == (5, 8, 8, 1)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (iter(ROWS), "must be readable twice"),
        (7, "must be a Target, a tensor, an array, a Dataset or a DataLoader, got int"),
        ([], "must hold rows"),
        (torch.zeros(0, 3), "must hold rows"),
        (Items(lambda row: {"a": row, "b": row}), "select must say which field"),
        (Items(lambda row: str(row)), "rows of data must be numbers"),
        (Items(lambda row: row[: 1 + int(row[0]) % 2]), "rows of data must have one shape"),
        (Items(lambda row: None), "rows of data must be numbers"),
    ],
    ids=range(8),
)
def test_what_holds_no_rows_is_one_sentence(data: Any, says: str) -> None:
    with pytest.raises(InputError) as caught:
        read(data)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def states() -> list[Any]:
    legacy: Any = np.random.get_state()
    return [
        random.getstate(),
        legacy[1].tolist(),
        legacy[2:],
        torch.get_rng_state().tolist(),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.get_float32_matmul_precision(),
        torch.get_num_threads(),
    ]


def disturb() -> None:
    """Find the usual settings, draw from every source, and fail."""
    assert torch.zeros(1).device.type == "cpu"
    assert torch.zeros(1).dtype is torch.float32
    assert torch.is_grad_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    torch.manual_seed(5)
    random.random(), np.random.rand(), torch.rand(3)
    raise ZeroDivisionError


def test_a_block_leaves_the_process_as_it_was() -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.inference_mode(), torch.autocast("cpu"), torch.device("meta"):
            before = states()
            with pytest.raises(ZeroDivisionError), undisturbed():
                disturb()
            assert states() == before
    finally:
        torch.set_default_dtype(torch.float32)
        torch.use_deterministic_algorithms(False)


def test_random_augmentations_are_the_same_at_every_start() -> None:
    def augmented(row: Tensor) -> Tensor:
        return row + torch.rand(3) + random.random() + float(np.random.rand())

    found = []
    for _ in range(2):
        torch.rand(1), random.random(), np.random.rand()
        before = states()
        with undisturbed():
            found.append(read(Items(augmented)))
        assert states() == before
    assert np.array_equal(found[0], found[1])


@pytest.mark.parametrize("name", ["rows.npy", "a#b.npy", os.fsdecode(b"\xff.npy")], ids=range(3))
def test_a_file_is_known_again_by_its_bytes(name: str, tmp_path: Path) -> None:
    from capcheck.data import Layout
    from capcheck.pipeline.source import Source

    path = tmp_path / name
    digests = []
    for rows in (ROWS, ROWS, ROWS + 1):
        np.save(path, rows.numpy())
        digests.append(Source(str(path), layout=Layout()).digest())
    assert digests[0] == digests[1] != digests[2]
