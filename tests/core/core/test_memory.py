"""Freed memory is kept by the processes that capcheck starts, and by no others."""

from __future__ import annotations

import subprocess
import sys

import pytest

COUNTED = """
import resource, torch
torch.set_num_threads(1)
{set_up}
x = torch.ones(10_000_000)
for _ in range(3):
    x + 1
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(40):
    x + 1
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(set_up: str) -> int:
    """Pages that the system cleared for forty sums of 40 MB."""
    command = [sys.executable, "-c", COUNTED.format(set_up=set_up)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of the GNU C library")
def test_memory_of_freed_arrays_serves_the_next_ones() -> None:
    plain = page_faults("")
    kept = page_faults("from capcheck.core.memory import keep_freed_memory; keep_freed_memory()")
    assert kept < plain / 3  # a few of the forty still move where other work takes memory
    assert plain > 200
