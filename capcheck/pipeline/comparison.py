"""Two runs side by side, as data: what changed in each cell, in each family, and in all."""

from __future__ import annotations

from typing import Literal

from capcheck.core.budget import Budget
from capcheck.core.record import Record
from capcheck.results.measurement import Outcome

__all__ = ["CellChange", "Change", "Comparison", "FamilyChange"]

Change = Literal["worse", "better", "same", "open"]
"""How a part of two runs compares: `open` if the evidence does not decide it."""


class CellChange(Record):
    """One divergence of one family at one budget, before and after.

    Attributes:
        budget: The budget.
        before_budget: The same; or, if the runs have no budget in common, the largest budget of the
            first beside the largest of the second.
        divergence: Name of the divergence.
        before: Value before, in `unit`, or None if it is unavailable.
        after: Value after, or None.
        unit: Unit of all values.
        change: After minus before, or None if the two cannot be subtracted.
        low: Lower end of the change's interval, or None with it.
        high: Upper end, or None with it.
        allowed: Rise that counts as none.
        verdict: Whether the change is a change.
        reason: Why there is no difference, or empty.
    """

    budget: Budget
    before_budget: Budget
    divergence: str
    before: float | None
    after: float | None
    unit: str
    change: float | None = None
    low: float | None = None
    high: float | None = None
    allowed: float
    verdict: Change
    reason: str = ""


class FamilyChange(Record):
    """One family with one network, before and after.

    Attributes:
        title: Family and network.
        outcomes: Verdicts before and after; inconclusive where there is no cell.
        measured: Whether there are cells, before and after.
        smallest: Smallest sufficient budgets before and after, each or None.
        calls: Model calls at these budgets, each or None.
        cells: Every divergence at every budget that both runs have, or at the largest of each.
        verdict: Whether it is worse, better or the same.
        reasons: What is worse, or what is better, a sentence each.
    """

    title: str
    outcomes: tuple[Outcome, Outcome]
    measured: tuple[bool, bool] = (True, True)
    smallest: tuple[Budget | None, Budget | None]
    calls: tuple[int | None, int | None]
    cells: tuple[CellChange, ...]
    verdict: Change
    reasons: tuple[str, ...]

    @property
    def words(self) -> tuple[str, str]:
        """The verdicts in words, before and after."""
        before, after = (
            outcome.value.replace("_", " ") if measured else "not measured"
            for outcome, measured in zip(self.outcomes, self.measured, strict=True)
        )
        return before, after


class Comparison(Record):
    """Two runs side by side.

    Attributes:
        targets: Names of the two targets, with their laws.
        same_target: Whether the two targets are one law.
        paired: Whether both runs share their random numbers.
        margin: Share by which a divergence may rise, of its tolerance, or of what it was before
            where that is more.
        level: Confidence of every interval.
        families: The families that both runs have.
        only_before: Titles of families of the first run alone.
        only_after: Titles of families of the second run alone.
    """

    targets: tuple[str, str]
    same_target: bool
    paired: bool
    margin: float
    level: float
    families: tuple[FamilyChange, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]

    @property
    def worse(self) -> bool:
        """Whether anything got worse."""
        return any(found.verdict == "worse" for found in self.families)
