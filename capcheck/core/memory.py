"""The memory of a process: how much there is, how it is kept, and what asks for too much of it.

Arrays that many rows or tokens need are estimated before they are allocated (`require_memory`). The
command `capcheck` also limits itself to the memory that was free when it started, so that an
allocation beyond it fails with a sentence. Otherwise the system would end the process, or another
one, once the pages are written.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from capcheck.core.errors import InputError, OutOfMemoryError

__all__ = [
    "available_memory",
    "keep_freed_memory",
    "kept_objects",
    "limit_memory",
    "out_of_memory",
    "require_memory",
    "size_in_words",
    "used_memory",
]

LARGEST_KEPT = 1 << 28  # bytes of an array whose memory is kept when it is freed
KEPT = 1 << 30  # most bytes that are kept
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1  # numbers of the parameters in the GNU C library
CONTROL_GROUP = Path("/sys/fs/cgroup")
NVIDIA = Path("/dev/nvidiactl")  # whose driver maps far more than it uses


def keep_freed_memory() -> None:
    """Have this process keep the memory of freed arrays for its next ones.

    The GNU C library returns large arrays to the system, which clears every page before it hands
    it out again. In sums over thousands of components that takes up to four times as long as the
    arithmetic. The change cannot be undone, so that it is made by the command `capcheck` and its
    workers, and not for callers of the Python API. Elsewhere than on Linux it does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        mallopt(M_TRIM_THRESHOLD, KEPT)


@contextlib.contextmanager
def kept_objects() -> Iterator[None]:
    """Have the garbage collector leave alone all objects that there are afterwards.

    Modules that are imported inside have hundreds of thousands, which it would visit again and
    again: a fifth of the time that it takes to import torch, and nearly a second when the process
    ends.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def limit_memory() -> None:
    """Have allocations fail that are larger than the memory that is free now.

    Workers inherit the limit. Elsewhere than on Linux, and beside a GPU, it does nothing.
    """
    free = available_memory()
    if free is None or NVIDIA.exists():
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if soft == resource.RLIM_INFINITY:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_DATA, (int(free), hard))


def available_memory() -> float | None:
    """Bytes that this process can still use, or None if the system does not tell.

    It is the free memory of the machine, swap included, or of the process's control group.
    """
    found = [_of_machine(), _of_control_group()]
    return min((one for one in found if one is not None), default=None)


def _of_machine() -> float | None:
    with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        kib = {line.split(":")[0]: float(line.split()[1]) for line in lines}
        return 1024 * (kib["MemAvailable"] + kib.get("SwapFree", 0))
    return None


def _of_control_group() -> float | None:
    with contextlib.suppress(OSError, ValueError):
        most, used = (float((CONTROL_GROUP / name).read_text()) for name in _FILES)
        stated = (CONTROL_GROUP / "memory.stat").read_text().splitlines()
        cached = sum(float(one.split()[1]) for one in stated if one.startswith("inactive_file "))
        return max(0.0, most - used + cached)
    return None


_FILES = ("memory.max", "memory.current")  # the first holds "max" where there is no limit


def require_memory(needed: float, what: str, cure: str) -> None:
    """Raise InputError if something would take more memory than there is.

    Args:
        needed: Bytes.
        what: What would take them, as a noun of the singular.
        cure: What to change, as an imperative clause.
    """
    free = available_memory()
    if free is not None and needed > free:
        raise InputError(
            f"{what} takes about {size_in_words(needed)} of memory, of which "
            f"{size_in_words(free)} are free; {cure}."
        )


def used_memory() -> float:
    """Bytes of memory that this process holds now; 0 if the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = Path("/proc/self/statm").read_text().split()[1]
        return float(pages) * os.sysconf("SC_PAGE_SIZE")
    return 0.0


def size_in_words(size: float) -> str:
    """A number of bytes in GiB or MiB."""
    number, unit = (size / 2**30, "GiB") if size >= 2**29 else (size / 2**20, "MiB")
    return f"{number:,.0f} {unit}" if number >= 100 else f"{number:.3g} {unit}"


def out_of_memory(error: BaseException, what: str, cure: str) -> OutOfMemoryError | None:
    """The error that says what asked for too much memory; None if an error has another cause.

    Args:
        error: What was raised, by Python, numpy, or torch on a CPU or a GPU.
        what: What asked for it, as a noun of the singular.
        cure: What to change, as an imperative clause.
    """
    if isinstance(error, OutOfMemoryError):
        return error
    asked = re.search(r"allocate (\d[\d.]*) ?([KMGTPE]?i?B|bytes)", str(error))
    of_torch = isinstance(error, RuntimeError) and asked is not None
    if not (isinstance(error, MemoryError) or of_torch):
        return None
    once = ""
    if asked:
        size = float(asked[1]) * 1024 ** "bKMGTPE".index(asked[2][0])
        once = f" ({size_in_words(size)} at once)"
    free = None if "CUDA" in str(error) else available_memory()
    left = "" if free is None else f", of which {size_in_words(free)} are free"
    return OutOfMemoryError(f"{what} takes more memory than there is{once}{left}; {cure}.")
