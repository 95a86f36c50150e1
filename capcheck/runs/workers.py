"""Workers: the processes that measure one run together, and how they are started.

The process that starts a run is one of them. It calls in helpers, which share the work out by the
claims of `capcheck.runs.claims` and write what they find to the run's folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pickle
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import torch

from capcheck.core.errors import InputError
from capcheck.runs import standby
from capcheck.runs.candidates import Candidate
from capcheck.runs.log import logger
from capcheck.targets.target import Target

__all__ = ["PATIENCE", "Helpers", "Job", "worker_count"]

PATIENCE = 1.5  # seconds that a run takes before helpers are called in, which need a few to start
CLOSING = 20.0  # seconds that helpers of another executor have to notice that the run is whole


def worker_count(asked: Any, device: torch.device) -> int | None:
    """The number of workers of a run: as asked for, or one per core or GPU for 0.

    Raises:
        InputError: It is neither None nor a whole number of at least 0.
    """
    if asked is None:
        return None
    if isinstance(asked, bool) or not isinstance(asked, int) or asked < 0:
        raise InputError(
            f"workers must be a whole number of at least 1, or 0 for one per core, got {asked!r}."
        )
    if asked:
        return asked
    return torch.cuda.device_count() if device.type == "cuda" else standby.cores()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What a helper needs to know.

    Attributes:
        target: Target of the run, as the caller gave it.
        candidates: Candidates of the run.
        options: Keywords of the run, without functions and executors.
        folder: Folder of the run, which all workers see.
    """

    target: Target
    candidates: Sequence[Candidate]
    options: Mapping[str, Any]
    folder: Path

    def packed(self) -> bytes:
        """The job as bytes that another process of this run can read, with the caller's code."""
        packed: bytes = cloudpickle.dumps(self)
        return packed

    @classmethod
    def unpacked(cls, packed: bytes) -> Job:
        """The job from the bytes that its owner sent; they are never read from a file."""
        job: Job = pickle.loads(packed)
        return job

    def device(self, place: int) -> str:
        """The device of a helper: one of the GPUs if there are several."""
        device = str(self.options.get("device", "auto"))
        if device in ("auto", "cuda") and torch.cuda.device_count() > 1:
            return f"cuda:{place % torch.cuda.device_count()}"
        return device


class Helpers:
    """The helpers of a run, which are called in if it is not over after `PATIENCE` seconds.

    Those that stand by are called in at once.
    The job is sent as it is when the helpers are made, since the run changes what it holds.

    Args:
        work: Function of a module that measures a part of a job, which it gets as bytes and place.
        job: The run.
        count: Number of helpers.
        executor: Executor that runs them, or None for processes of this machine.
    """

    def __init__(
        self,
        work: Callable[[bytes, int], None],
        job: Job,
        count: int,
        *,
        executor: Any = None,
    ) -> None:
        self._work, self._executor = work, executor
        self._job = self._packed(job) if count else b""
        self._own: list[Any] = []
        self._running: list[Any] = []
        self._lock, self._closed = threading.Lock(), False
        now = count if executor is not None else min(count, standby.ready())
        places = (0.0, range(1, now + 1)), (PATIENCE, range(now + 1, count + 1))
        self._timers = [threading.Timer(wait, self._call_in, [of]) for wait, of in places if of]
        for timer in self._timers if self._job else ():
            timer.daemon = True
            timer.start()

    def close(self) -> None:
        """End the helpers; what they have measured is in the folder."""
        for timer in self._timers:
            timer.cancel()
        with self._lock:
            self._closed = True
        for executor in self._own:
            executor.shutdown(wait=False, kill_workers=True)
        if self._executor is not None:
            for future in self._running:
                with contextlib.suppress(Exception):
                    future.result(CLOSING)

    def _call_in(self, places: Sequence[int]) -> None:
        for place in places:
            with self._lock:
                if self._closed:
                    return
                try:
                    helper = self._start(place)
                except Exception as error:
                    logger.warning("worker %d was not started: %s", place, error)
                    return
                self._running.append(helper)
            helper.add_done_callback(functools.partial(self._told, place))

    def _told(self, place: int, future: Any) -> None:
        """Have the log tell of a helper that ends before its time."""
        if self._closed or future.cancelled() or (error := future.exception()) is None:
            return
        logger.warning("worker %d ended, and others take up its cells: %s", place, error)

    def _packed(self, job: Job) -> bytes:
        """The job as bytes; empty if the job cannot be sent to any helper."""
        try:
            return job.packed()
        except Exception as error:
            logger.warning("no worker can be called in, as the run cannot be sent: %s", error)
            return b""

    def _start(self, place: int) -> Any:
        if self._executor is not None:
            return self._executor.submit(self._work, self._job, place)
        own = standby.take()
        self._own.append(own)
        return own.submit(self._work, self._job, place)
