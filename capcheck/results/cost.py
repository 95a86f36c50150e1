"""The expected cost of a run, family by family."""

from __future__ import annotations

from collections.abc import Sequence

from capcheck.core.record import Record

__all__ = ["UNSEEN", "FamilyCost", "RunCost"]

UNSEEN = 1.4  # what a rehearsal does not see, as a factor: fitted to surveys of three sizes


class FamilyCost(Record):
    """What a family is expected to take, in seconds of one worker of this machine.

    Attributes:
        title: Family with its network.
        cells: Number of its budgets.
        calls: Sequential calls of the network for a sample at the largest budget, by those of the
            first iteration.
        runs: Number of runs of the procedure; budgets along an axis without effect share one.
        turns: Iterations of all runs, each counted once for each batch of draws.
        draws: Seconds of the runs.
        densities: Seconds of the log-densities or exact laws.
        estimates: Seconds of the divergences that are estimated from draws.
        fit: Seconds of the fit of its network.
        causes: Seconds that its suspects take, which are measured only if every budget is refused.
        longest: Seconds of its longest part that one worker makes by itself.
        flops: Floating-point operations of the matrix products of its runs.
        moved: Bytes that its runs read and write, as if nothing stayed in a cache.
        launches: Operations of its runs, each of which a GPU launches by itself.
        memory: Bytes that its largest batch holds at once.
        reason: Why it would not be measured; all else is then 0.
    """

    title: str
    cells: int = 0
    calls: int = 0
    runs: int = 0
    turns: int = 0
    draws: float = 0.0
    densities: float = 0.0
    estimates: float = 0.0
    fit: float = 0.0
    causes: float = 0.0
    longest: float = 0.0
    flops: float = 0.0
    moved: float = 0.0
    launches: float = 0.0
    memory: float = 0.0
    reason: str = ""

    @property
    def seconds(self) -> float:
        """Seconds of all parts, without the causes."""
        return self.draws + self.densities + self.estimates + self.fit


class RunCost(Record):
    """What a run is expected to take.

    Attributes:
        families: The families, in the order of the run.
        shared: Seconds that every worker takes for draws and null floors of the target.
        start: Seconds that every worker takes to start and to load the target.
        held: Bytes that every worker holds all the time: itself, the target and draws.
    """

    families: tuple[FamilyCost, ...]
    shared: float
    start: float
    held: float = 0.0

    @property
    def memory(self) -> float:
        """Bytes that one worker takes at most."""
        return self.held + max((found.memory for found in self.families), default=0.0)

    @property
    def work(self) -> float:
        """Seconds of all families of one worker, with their causes and what was not rehearsed.

        Unseen are draws that share their random numbers with the target's, classifiers of draws,
        what all workers make once each, and reports.
        """
        return UNSEEN * sum(found.seconds + found.causes for found in self.families)

    def seconds(self, workers: int) -> float:
        """Seconds of a run on some workers, which take parts of it one after another."""
        longest = max((found.longest for found in self.families), default=0.0)
        return self.start + self.shared + max(self.work / workers, longest)

    def on_device(self, rates: Sequence[float]) -> tuple[float, float]:
        """Fewest and most seconds of all runs' arithmetic on a device.

        The fewest are those of the matrix products and of launches alone, the most those of a
        device on which no number stays in a cache. What only a CPU does is not part of them.

        Args:
            rates: Floating-point operations a second, bytes a second, and operations that are
                launched a second.
        """
        flops, moved, launches = rates
        fewest = [max(one.flops / flops, one.launches / launches) for one in self.families]
        most = [max(low, f.moved / moved) for low, f in zip(fewest, self.families, strict=True)]
        return sum(fewest), sum(most)
