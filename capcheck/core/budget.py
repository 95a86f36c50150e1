"""A budget limits a procedure to `length` placed tokens and `steps` refinement iterations.

Steps are at least 1. A length lies between 0 and the number of tokens; at length 0 no token may be
placed, and the result is the product of the marginals. A grid is the product of a list of lengths
and a list of steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from capcheck.core.arguments import several, shown, whole_number
from capcheck.core.errors import InputError
from capcheck.core.record import Record

__all__ = ["AXES", "MOST_STEPS", "Axis", "Budget", "Grid"]

Axis = Literal["length", "steps"]
AXES: tuple[Axis, Axis] = ("length", "steps")
MOST_STEPS = 2**31 - 1  # largest number of iterations; runs of fewer would take years


class Budget(Record):
    """The limits of one run of a procedure.

    Attributes:
        length: Largest number of tokens to be placed, 0..N; the others are completed from their
            marginals.
        steps: Largest number of refinement iterations, at least 1.
    """

    length: int
    steps: int

    def __str__(self) -> str:
        return f"length {self.length}, steps {self.steps}"


class Grid(Record):
    """The budgets length x steps, with both axes sorted and without repeats."""

    lengths: tuple[int, ...]
    steps: tuple[int, ...]

    @classmethod
    def over(
        cls,
        tokens: int,
        lengths: Iterable[int] | None = None,
        steps: Iterable[int] | None = None,
    ) -> Grid:
        """Makes a grid from the user's values, with default values for an axis that is None.

        Args:
            tokens: Number of tokens that a procedure places: N, or fewer if tokens are given.
            lengths: Values in 0..N; by default 0, N // 2 and N.
            steps: Values of at least 1; by default 1, 4 and 16.

        Raises:
            InputError: An axis is empty, or a value is out of its range.
        """
        lengths = (0, tokens // 2, tokens) if lengths is None else lengths
        steps = (1, 4, 16) if steps is None else steps
        has = f"the target has {tokens} tokens to be placed"
        return cls(
            lengths=_axis("length", lengths, 0, tokens, has),
            steps=_axis("steps", steps, 1, MOST_STEPS, "one iteration is the least"),
        )

    def budgets(self) -> list[Budget]:
        """Every budget, steps changing fastest."""
        return [Budget(length=a, steps=k) for a in self.lengths for k in self.steps]

    @property
    def largest(self) -> Budget:
        """The largest length with the largest number of steps."""
        return Budget(length=self.lengths[-1], steps=self.steps[-1])


def _axis(
    field: str, values: Iterable[int], least: int, most: int, because: str
) -> tuple[int, ...]:
    """The checked values of one axis, sorted, without repeats."""
    cure = f"write [{shown(values)}]" if isinstance(values, int) else "write [1, 4]"
    given: list[Any] = several(f"Budget.{field}", values, "whole numbers", cure)
    if not given:
        raise InputError(
            f"Budget.{field} needs at least one value, got none; give some or omit it."
        )
    found = set()
    for value in given:
        number = whole_number(f"Budget.{field}", value)
        for rule, holds in ((f"least {least}", number >= least), (f"most {most}", number <= most)):
            if not holds:
                raise InputError(
                    f"Budget.{field} must be at {rule}, got {shown(number)}: {because}."
                )
        found.add(number)
    return tuple(sorted(found))
