"""The sharing of a run's work among the processes that measure it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from capcheck.results.family import FamilyResult
from capcheck.runs.candidates import Candidate
from capcheck.runs.cells import Cells
from capcheck.runs.claims import Busy, SharedClaims, claim_name
from capcheck.runs.progress import ProgressCounter

__all__ = ["LONGEST_WAIT", "WAIT", "share_out"]

WAIT = 0.3  # seconds between looks at what other processes have measured
LONGEST_WAIT = 3.0  # seconds after which a process looks again for work that another has left


def share_out(
    candidates: Sequence[Candidate],
    measure: Callable[[Candidate], FamilyResult],
    *,
    cells: Cells,
    claims: SharedClaims,
    progress: ProgressCounter,
) -> list[Candidate]:
    """Measure candidates that no other process is at, then help with the others, until all is done.

    Args:
        candidates: Candidates, in the order in which this process takes them.
        measure: Function that measures what can be measured of a candidate, and raises `Busy` where
            other processes measure the rest.
        cells: Cells of the run.
        claims: Claims of this process.
        progress: Counter of the run's progress.

    Returns:
        The candidates that some process gave up, because they fail or cannot be measured.
    """

    def is_done(candidate: Candidate, *, helping: bool) -> bool:
        name = claim_name(candidate=candidate.plan.to_json())
        cells.refresh()
        if claims.given_up(name):
            return True
        with claims.held(name) as alone:
            if not alone and not helping:
                return False
            try:
                found = measure(candidate)
            except Busy:
                return False
        if found.error or not found.supported:  # it may have taken minutes to find out
            claims.give_up(name)
        return True

    pending = list(candidates)
    while pending:
        for helping in (False, True):
            for candidate in [*pending]:
                if is_done(candidate, helping=helping):
                    pending.remove(candidate)
        if pending:
            progress.advance((), "waiting for other workers")
            _wait_for_news(cells)
    return [one for one in candidates if claims.given_up(claim_name(candidate=one.plan.to_json()))]


def _wait_for_news(cells: Cells) -> None:
    """Wait until another process has measured something, but not for long: it may have died."""
    until = time.monotonic() + LONGEST_WAIT
    while time.monotonic() < until:
        time.sleep(WAIT)
        if cells.refresh():
            return
