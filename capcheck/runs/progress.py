"""Progress of a run: the cells that are done, as counted and as told to the caller's function."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterable, Iterator

from capcheck.core.budget import Budget
from capcheck.results.plan import FamilyPlan
from capcheck.runs.log import logger
from capcheck.runs.options import CallersError, Progress

__all__ = ["ProgressCounter", "cell_name"]


def cell_name(plan: FamilyPlan, look: int, budget: Budget) -> str:
    """The name of a cell of a run, which tells it from the others."""
    return f"{plan.to_json()} {look} {budget}"


class ProgressCounter:
    """Counts the cells of a run that are done, and calls a function with every `Progress`.

    A cell that is told twice, as one that another process measured, counts once.

    Args:
        report: The caller's function, or None.
        total: Number of cells of the run.
    """

    def __init__(self, report: Callable[[Progress], None] | None, *, total: int) -> None:
        self._report, self._total = report, total
        self._done: set[Hashable] = set()
        self._told: set[str] = set()
        self._counting = True

    def advance(self, cells: Iterable[Hashable], running: str) -> None:
        """Count cells as done, by any names, and report them with the current work in words.

        Raises:
            CallersError: The caller's function raised.
        """
        if self._counting:
            self._done.update(cells)
        self._tell(running, "")

    def decided(self, title: str, verdict: str) -> None:
        """Report the verdict of a family, the first time that it is known.

        Raises:
            CallersError: The caller's function raised.
        """
        if title not in self._told:
            self._told.add(title)
            self._tell(f"{title}, decided", verdict)

    def _tell(self, running: str, verdict: str) -> None:
        logger.info("%s", verdict or running)
        if self._report is None:
            return
        done = min(len(self._done), self._total)
        try:
            self._report(Progress(done=done, total=self._total, running=running, verdict=verdict))
        except Exception as error:
            raise CallersError(
                f"progress must be a function of a Progress, and raised "
                f"{type(error).__name__}: {error}."
            ) from error

    @contextlib.contextmanager
    def uncounted(self) -> Iterator[None]:
        """Leave cells out of the progress, which counts those of the grid only."""
        self._counting = False
        try:
            yield
        finally:
            self._counting = True
