"""Tables and constraint sets: laws that are spelled out, sequence by sequence.

Each is a categorical mixture whose components are the sequences of positive probability, so every
conditional is a sum over the sequences that agree with what is known.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from capcheck.errors import InputError
from capcheck.targets.categorical_mixture import CategoricalMixture
from capcheck.targets.target import Provenance

LARGEST = 1 << 18  # sequences that are spelled out


def from_table(joint: Tensor, *, grid: tuple[int, int] | None = None) -> CategoricalMixture:
    """The law whose probabilities are listed.

    Args:
        joint: (V,) * N, non-negative, not all 0; it is normalised.
        grid: (rows, columns) of the tokens, if they have any.

    Raises:
        InputError: Dimensions of different sizes, a negative or non-finite entry, or too many.

    Example:
        >>> fair = from_table(torch.tensor([[0.5, 0.0], [0.0, 0.5]], dtype=torch.float64))
        >>> fair.log_prob(torch.tensor([[1, 1]])).exp().tolist()
        [0.5]
    """
    if joint.dim() == 0 or len(set(joint.shape)) > 1 or joint.numel() == 0:
        raise InputError(
            "joint must have one dimension of the same size, the vocabulary, for every token, "
            f"got {tuple(joint.shape)}."
        )
    if not bool((joint.isfinite() & (joint >= 0)).all()) or not float(joint.sum()) > 0:
        raise InputError("joint must be finite, not negative and not all 0; repair the table.")
    rows = joint.nonzero()
    _require_size(len(rows))
    wide = joint if joint.is_floating_point() else joint.double()
    weights = wide[tuple(rows.T)]
    return CategoricalMixture.of_rows(
        rows,
        vocabulary=len(joint),
        weights=weights,
        grid=grid,
        dtype=wide.dtype,
        provenance=Provenance(
            description=f"table of {len(rows)} sequences of positive probability",
            exactness="enumerated",
        ),
    )


def uniform_over(
    sequences: Iterable[Sequence[int]],
    *,
    vocabulary: int,
    description: str,
    grid: tuple[int, int] | None = None,
) -> CategoricalMixture:
    """Every one of some distinct sequences is equally likely.

    Args:
        sequences: Each of N integers in 0..V-1.
        vocabulary: V.
        description: One line for readers of a report.
        grid: (rows, columns) of the tokens, if they have any.

    Raises:
        InputError: Too many sequences, none at all, or one that is listed twice.
    """
    rows = list(itertools.islice(sequences, LARGEST + 1))
    _require_size(len(rows))
    lengths = {len(row) for row in rows}
    if len(lengths) > 1:
        raise InputError(
            f"{description} must list sequences of one length, got {min(lengths)} and "
            f"{max(lengths)} tokens; pad them."
        )
    tensor = torch.tensor(rows, dtype=torch.int64)
    if len(tensor.unique(dim=0)) < len(tensor):
        raise InputError(f"{description} must list every sequence once, got one twice.")
    return CategoricalMixture.of_rows(
        tensor,
        vocabulary=vocabulary,
        grid=grid,
        provenance=Provenance(description=description, exactness="enumerated"),
    )


def latin_squares(size: int) -> list[tuple[int, ...]]:
    """All squares, row by row, whose rows and columns are permutations of 0..size-1."""
    lines = list(itertools.permutations(range(size)))
    squares: list[tuple[int, ...]] = [()]
    for _ in range(size):
        squares = [
            square + line
            for square in squares
            for line in lines
            if all(value != line[j % size] for j, value in enumerate(square))
        ]
    return squares


def small_sudokus() -> list[tuple[int, ...]]:
    """All 4x4 Latin squares whose four 2x2 boxes hold every digit, too."""
    corners = [(0, 1, 4, 5), (2, 3, 6, 7), (8, 9, 12, 13), (10, 11, 14, 15)]
    return [
        square
        for square in latin_squares(4)
        if all(len({square[i] for i in box}) == 4 for box in corners)
    ]


def _require_size(count: int) -> None:
    if not 1 <= count <= LARGEST:
        raise InputError(
            f"a table must hold between 1 and {LARGEST} sequences of positive probability, "
            f"got {'more' if count > LARGEST else count}; use a chain or a smaller problem."
        )
