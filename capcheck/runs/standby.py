"""Processes of this machine that stand by for a run, and load capcheck while its target is read.

A process takes seconds to import torch. This module imports little, so that a command can start its
helpers before it imports torch itself.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from capcheck.core.memory import keep_freed_memory, kept_objects

__all__ = ["begin", "cores", "end", "ready", "take"]

MOST = 3  # processes that stand by; a run that takes long calls in the others
LOOK = 1.0  # seconds between a process's looks at whether its owner lives
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

_waiting: list[Any] = []  # executors of one process each: that of a killed one ends, others go on


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def begin(count: int) -> None:
    """Start so many processes, or `MOST`, which load capcheck and wait to be taken.

    Where none can be started, none stands by: the run will find out why when it calls for helpers.
    """
    with _interrupts_ignored(), contextlib.suppress(Exception):
        for _ in range(min(count, MOST)):
            _waiting.append(_executor())
            _waiting[-1].submit(os.getpid)  # loky starts a process for the first task
        return
    end()


def ready() -> int:
    """The number of processes that stand by."""
    return len(_waiting)


def take() -> Any:
    """An executor of one process: one that stands by, or else a new one."""
    return _waiting.pop() if _waiting else _executor()


def end() -> None:
    """End the processes that were not taken."""
    while _waiting:
        _waiting.pop().shutdown(wait=False, kill_workers=True)


def _executor() -> Any:
    from loky import process_executor  # only runs that take long need it

    return process_executor.ProcessPoolExecutor(
        max_workers=1,
        env=dict.fromkeys(THREADS, "1"),
        initializer=_load,
        initargs=(os.getpid(),),
    )


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Have processes that are started inside ignore interrupts from their first moment on.

    They inherit it. Otherwise one that is still starting would print its traceback.
    """
    if threading.current_thread() is not threading.main_thread():  # no other may change it
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _load(owner: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the owner ends it; a terminal interrupts all
    _end_with(owner)
    keep_freed_memory()
    with kept_objects():
        importlib.import_module("capcheck.runs.engine")


def _end_with(owner: int) -> None:
    """Have this process end when its parent does; it would measure for nobody for a long time.

    What it has measured is in the run's folder, and its claims are void.
    """

    def look() -> None:
        while os.getppid() == owner:
            time.sleep(LOOK)
        os._exit(0)

    threading.Thread(target=look, daemon=True).start()
