"""How a process keeps memory."""

from __future__ import annotations

import contextlib
import ctypes
import sys

__all__ = ["keep_freed_memory"]

LARGEST_KEPT = 1 << 28  # bytes of an array whose memory is kept when it is freed
KEPT = 1 << 30  # most bytes that are kept
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1  # numbers of the parameters in the GNU C library


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
