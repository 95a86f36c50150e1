"""One cell of one family, and numbers that are read from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from capcheck.api import check
from capcheck.results.measurement import Cell
from capcheck.targets import CategoricalTarget, Target

__all__ = ["BITS", "cell_of", "exact_kl", "share_of_valid"]

BITS = 1 / math.log(2)  # bits in a nat


def cell_of(
    family: str,
    target: Target,
    options: dict[str, Any] | None = None,
    *,
    steps: int = 1,
    given: Sequence[int] = (),
    divergences: Sequence[str] = ("kl",),
    samples: int = 200,
) -> Cell:
    """The cell of `capcheck.check` in which all tokens are placed in so many steps.

    Args:
        family: Name of the family.
        target: The target.
        options: Options of the family.
        steps: The step budget.
        given: Indices of the given tokens.
        divergences: Divergences to measure.
        samples: Number of draws.
    """
    length = target.spec.tokens - len(given)
    (cell,) = check(
        family,
        target,
        options=options or {},
        lengths=[length],
        steps=[steps],
        given=given,
        divergences=divergences,
        samples=samples,
        device="cpu",
    ).cells
    return cell


def exact_kl(cell: Cell) -> float:
    """The KL of a cell in nats per sequence, which has to be exact."""
    found = cell.estimates["kl"]
    assert found.kind == "exact", found
    assert found.value is not None
    return found.value


def share_of_valid(target: CategoricalTarget, cell: Cell) -> float:
    """The probability that a sequence of the sampled law is one that the target has."""
    listed = target.support()
    assert listed is not None
    assert cell.law is not None
    V, N = target.spec.dim, target.spec.tokens
    probabilities = torch.tensor(cell.law.probabilities, dtype=torch.float64)
    place = (listed[0] * V ** torch.arange(N - 1, -1, -1)).sum(1)
    return float(probabilities[place].sum())
