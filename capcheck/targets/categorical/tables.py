"""Tables and constraint sets: laws given by the weight of each sequence.

The law p(x) = w(x) / sum_y w(y) is a categorical mixture whose components are the sequences of
positive weight, so that every conditional is a sum over the sequences that match the known tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from capcheck.core.arguments import real_number, several, shown
from capcheck.core.errors import InputError
from capcheck.targets.categorical.categorical_mixture import CategoricalMixture
from capcheck.targets.parameters import require_tensor
from capcheck.targets.provenance import Provenance

__all__ = ["LARGEST", "from_table", "latin_squares", "small_sudokus", "uniform_over"]

LARGEST = 1 << 18  # most sequences of positive probability


def from_table(joint: Tensor, *, grid: tuple[int, int] | None = None) -> CategoricalMixture:
    """The law of a table that lists the probability of every sequence.

    Args:
        joint: Table (V,) * N, non-negative and not all 0; it is normalised.
        grid: (rows, columns) of the tokens, if they have any.

    Raises:
        InputError: The dimensions differ in size, an entry is negative or not finite, or more than
            `LARGEST` entries are positive.

    Example:
        >>> fair = from_table(torch.tensor([[0.5, 0.0], [0.0, 0.5]], dtype=torch.float64))
        >>> fair.log_prob(torch.tensor([[1, 1]])).exp().tolist()
        [0.5]
    """
    joint = require_tensor("joint", joint)
    if joint.dim() == 0 or len(set(joint.shape)) > 1 or joint.numel() == 0:
        raise InputError(
            "joint must have one dimension of the same size, the vocabulary, for every token, "
            f"got {tuple(joint.shape)}."
        )
    wide = joint if joint.is_floating_point() else joint.double()
    if not bool((wide.isfinite() & (wide >= 0)).all()) or not float(wide.max()) > 0:
        raise InputError("joint must be finite, not negative and not all 0; repair the table.")
    rows = wide.nonzero()
    _require_size(len(rows))
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
    sequences: Iterable[Sequence[int]] | Tensor,
    *,
    vocabulary: int,
    description: str,
    weights: Iterable[float] | Tensor | None = None,
    grid: tuple[int, int] | None = None,
) -> CategoricalMixture:
    """The uniform law over listed sequences, or the law proportional to their weights.

    p(x) = sum of w_k over the k whose sequence is x, divided by the sum of all w_k.

    Args:
        sequences: Sequences of N integers in 0..V-1 each; distinct if there are no weights.
        vocabulary: Vocabulary size V.
        description: Description of the law in one line, for readers of a report.
        weights: A positive number for each sequence; those of equal sequences are added.
        grid: (rows, columns) of the tokens, if they have any.

    Raises:
        InputError: There are no or more than `LARGEST` sequences, they differ in length, are empty
            or hold no integers, one is listed twice without weights, or weights are not positive
            numbers, one for each sequence.

    Example:
        >>> coin = uniform_over([[0], [1]], vocabulary=2, description="coin", weights=[1, 3])
        >>> coin.log_prob(torch.tensor([[1]])).exp().tolist()
        [0.75]
    """
    if not isinstance(description, str):
        raise InputError(f"description must be text, got {shown(description)}; write one line.")
    listed = sequences
    if isinstance(sequences, (Tensor, np.ndarray)):
        listed = sequences.tolist()
    if not isinstance(listed, Iterable) or isinstance(listed, type):
        raise InputError(
            f"sequences must be a list of sequences, got {shown(sequences)}; list token ids."
        )
    rows = _rows(list(itertools.islice(listed, LARGEST + 1)), description)
    if weights is None:
        if len(rows.unique(dim=0)) < len(rows):
            raise InputError(
                f"{description} must list every sequence once, got one twice; "
                "drop it, or give weights, which are added."
            )
        masses = torch.ones(len(rows), dtype=torch.float64)
    else:
        masses = _positive(weights, len(rows))
        rows, place = rows.unique(dim=0, return_inverse=True)
        masses = torch.zeros(len(rows), dtype=torch.float64).index_add(0, place, masses)
    return CategoricalMixture.of_rows(
        rows,
        vocabulary=vocabulary,
        weights=masses,
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
    """All 4x4 Latin squares each of whose four 2x2 boxes also holds every digit."""
    corners = [(0, 1, 4, 5), (2, 3, 6, 7), (8, 9, 12, 13), (10, 11, 14, 15)]
    return [
        square
        for square in latin_squares(4)
        if all(len({square[i] for i in box}) == 4 for box in corners)
    ]


def _rows(rows: list[Sequence[int]], description: str) -> Tensor:
    """Listed sequences as a tensor, (K, N) int64."""
    _require_size(len(rows))
    rule = f"{description} must list sequences of integers"
    try:
        lengths = {len(row) for row in rows}
        if len(lengths) == 1:
            tensor = torch.from_numpy(np.array([list(row) for row in rows]))
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"{rule}, got {shown(rows[0])} and others like it; list token ids."
        ) from None
    if len(lengths) > 1:
        raise InputError(
            f"{description} must list sequences of one length, got {min(lengths)} and "
            f"{max(lengths)} tokens; pad them."
        )
    if 0 in lengths:
        raise InputError(f"{description} must list sequences of at least 1 token, got empty ones.")
    if tensor.dim() != 2 or tensor.dtype.is_floating_point or tensor.dtype.is_complex:
        raise InputError(f"{rule}, got {shown(rows[0])} and others like it; list token ids.")
    return tensor.long()


def _positive(weights: Iterable[float] | Tensor, count: int) -> Tensor:
    """Weights as a tensor, (K,) float64, divided by the largest."""
    if isinstance(weights, Tensor):
        given = weights.detach()
    else:
        rule, cure = "numbers, one for each sequence", "list floats"
        listed = [
            real_number("weights", one, rule, lambda _: True, cure)
            for one in several("weights", weights, rule, cure)
        ]
        given = torch.tensor(listed, dtype=torch.float64)
    if tuple(given.shape) != (count,) or given.is_complex():
        raise InputError(
            f"weights must be {count} real numbers, one for each sequence, got {given.dtype} of "
            f"shape {tuple(given.shape)}; weigh every sequence once."
        )
    given = given.to("cpu", torch.float64)
    allowed = given.isfinite() & (given > 0)
    if not bool(allowed.all()):
        raise InputError(
            f"weights must be finite and positive, got {float(given[~allowed][0]):g}; "
            "leave out sequences that are impossible."
        )
    return given / given.max()  # sums of them cannot overflow


def _require_size(count: int) -> None:
    if not 1 <= count <= LARGEST:
        raise InputError(
            f"a table must hold between 1 and {LARGEST} sequences of positive probability, "
            f"got {'more' if count > LARGEST else count}; use a chain or a smaller problem."
        )
