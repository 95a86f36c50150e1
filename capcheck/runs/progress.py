"""Progress of a run: the cells that are done, as counted and as told to the caller's function.

Cells take very different times. What share of the work is done is told from what cells of their
kind take beside each other, which was measured on digits, numbers and token ids.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from capcheck.core.budget import Budget
from capcheck.core.errors import ControlFlow
from capcheck.core.sequences import Kind
from capcheck.procedures.probe import AnyProbe
from capcheck.procedures.rows import Row
from capcheck.results.plan import FamilyPlan
from capcheck.results.settings import Settings
from capcheck.runs.candidates import Candidate
from capcheck.runs.log import logger
from capcheck.runs.options import CallersError, Progress

__all__ = ["FIT", "LOOK", "OTHERS", "WORK", "ProgressCounter", "cell_name", "expected_work"]

WORK: dict[Kind, dict[str, float]] = {
    "continuous": {
        "flow": 2, "gan": 2, "vae": 0.3,
        "gpt": 0.8, "maskgit": 7, "multi_token": 0.8, "pixelcnn": 1, "var": 0.7,
        "consistency": 5, "diffusion": 2, "ebm": 6, "flow_map": 3, "parallel_solve": 2,
        "ar_diffusion": 9, "blockwise": 5, "mar": 11, "rolling_diffusion": 15,
        "ar_smoothing": 17, "diffusion_forcing": 3,
    },
    "categorical": {
        "gan": 3.5, "vae": 7,
        "gpt": 1.5, "maskgit": 2, "multi_token": 1, "pixelcnn": 1.5, "var": 1.5,
        "masked_diffusion": 3.5, "parallel_decoder": 8, "uniform_diffusion": 28, "ebm": 17,
        "parallel_solve": 3, "block_diffusion": 4.5, "blockwise": 3,
    },
}  # fmt: skip
"""What a family takes with its suspects, as a share of all families on the same tokens (%)."""
OTHERS: dict[Row, float] = {
    "neither": 2,
    "length": 2,
    "steps": 5,
    "length_outer": 8,
    "steps_outer": 10,
}
"""The same of a family that is not in the list."""
FIT: dict[Kind, float] = {"continuous": 9, "categorical": 20}
"""What the fit of a network takes, in the same units."""
LOOK = 2.0  # seconds between counts of the cells of all processes


def cell_name(plan: FamilyPlan, samples: int, budget: Budget) -> str:
    """The name of a cell of a run, which tells it from the others."""
    return f"{plan.to_json()} {samples} {budget}"


def expected_work(
    candidates: Sequence[Candidate], settings: Settings, kind: Kind
) -> dict[str, float]:
    """The share of a run's work that each of its cells is expected to be, by its name.

    Args:
        candidates: What is measured.
        settings: Settings of the run.
        kind: Kind of the target's tokens.
    """
    work: dict[str, float] = {}
    for candidate in candidates:
        probe = candidate.probe
        whole = WORK[kind].get(probe.family, OTHERS[probe.row])
        whole += 0 if candidate.network is None else FIT[kind]
        cells = {
            cell_name(candidate.plan, settings.at(look).samples, budget): _passes(probe, budget)
            for look in range(settings.looks)
            for budget in settings.grid.budgets()
        }
        unit = whole / sum(cells.values())
        work |= {name: unit * passes for name, passes in cells.items()}
    total = sum(work.values())
    return {name: part / total for name, part in work.items()}


def _passes(probe: AnyProbe, budget: Budget) -> int:
    """The passes over the tokens that a cell takes, about, of those axes that the probe reads."""
    length = budget.length if "length" in probe.reads else 0
    return (1 + length) * (budget.steps if "steps" in probe.reads else 1)


class ProgressCounter:
    """Counts the cells of a run that are done, and calls a function with every `Progress`.

    A cell that is told twice, as one that another process measured, counts once.

    Args:
        report: The caller's function, or None.
        work: Share of the run's work that each of its cells is expected to be, by its name.
    """

    def __init__(
        self, report: Callable[[Progress], None] | None, work: Mapping[str, float]
    ) -> None:
        self._report, self._work = report, work
        self._done: set[str] = set()
        self._told: set[str] = set()
        self._counting = True
        self._held: Callable[[], Iterable[str]] = tuple
        self._looked = -math.inf  # when the cells of all processes were last counted

    def follow(self, held: Callable[[], Iterable[str]]) -> None:
        """Count the cells that a function names as well, those of other processes among them."""
        self._held, self._looked = held, -math.inf

    def advance(self, cells: Iterable[str], running: str) -> None:
        """Count cells as done, by their names, and report them with the current work in words.

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
        now = time.monotonic()
        if now > self._looked + LOOK:
            self._looked = now
            self._done.update(self._held())
        done = self._done & self._work.keys()
        progress = Progress(
            done=len(done),
            total=len(self._work),
            running=running,
            verdict=verdict,
            share=min(1.0, sum(self._work[name] for name in done)),
        )
        try:
            self._report(progress)
        except ControlFlow:  # a caller within capcheck stops the run
            raise
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
