"""Which processes live, as Linux tells it, and workers that do not."""

from __future__ import annotations

import contextlib
from concurrent.futures import Future
from pathlib import Path

__all__ = ["DyingWorkers", "group_size", "lives"]


class DyingWorkers:
    """An executor whose workers die."""

    def submit(self, *_: object) -> Future[None]:
        future: Future[None] = Future()
        future.set_exception(RuntimeError("out of memory"))
        return future


def lives(pid: int) -> bool:
    """Whether a process lives; one that has ended, and that nobody has waited for, does not."""
    facts = _facts(Path(f"/proc/{pid}/stat"))
    return bool(facts) and facts[0] != "Z"


def group_size(group: int) -> int:
    """The number of processes of a group that live."""
    all_facts = [_facts(path) for path in Path("/proc").glob("[0-9]*/stat")]
    return sum(bool(facts) and facts[0] != "Z" and int(facts[2]) == group for facts in all_facts)


def _facts(path: Path) -> list[str]:
    """State, parent, group and so on of a process; nothing if there is none."""
    with contextlib.suppress(OSError):
        return path.read_text().rpartition(")")[2].split()
    return []
