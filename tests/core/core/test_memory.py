"""Memory: what is kept, what is limited, and what is refused before it is allocated."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from capcheck.core import memory
from capcheck.core.errors import InputError
from capcheck.core.memory import (
    available_memory,
    out_of_memory,
    require_memory,
    size_in_words,
    used_memory,
)

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of Linux")

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


LIMITED = """
import torch
from capcheck.core.memory import available_memory, limit_memory
limit_memory()
torch.empty(int(1.2 * available_memory()), dtype=torch.uint8)
"""


@LINUX
def test_a_limited_process_is_told_and_not_ended() -> None:
    ended = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "can't allocate memory" in ended.stderr


@LINUX
def test_the_control_group_counts_where_it_has_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = available_memory()
    assert whole is not None
    monkeypatch.setattr(memory, "CONTROL_GROUP", tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("5000000\n")
    (tmp_path / "memory.stat").write_text("anon 4000000\ninactive_file 500000\n")
    assert available_memory() == pytest.approx(whole, rel=0.5)
    (tmp_path / "memory.max").write_text("9000000\n")
    assert available_memory() == 9_000_000 - 5_000_000 + 500_000
    with pytest.raises(InputError, match=r"a law takes about 8\.58 MiB .* 4\.29 MiB are free; go"):
        require_memory(9e6, "a law", "go")
    require_memory(4e6, "a law", "go")


def test_what_asks_for_too_much_is_told_from_other_errors() -> None:
    asked = []
    for make in (
        lambda: np.zeros((10**7, 10**7)),
        lambda: torch.empty(10**14, dtype=torch.float64),
    ):
        with pytest.raises((MemoryError, RuntimeError)) as caught:
            make()
        asked.append(str(out_of_memory(caught.value, "x", "y")))
    assert [one.split(" at once")[0] for one in asked] == [
        "x takes more memory than there is (745,472 GiB",  # numpy says 728. TiB
        "x takes more memory than there is (745,058 GiB",
    ]
    cuda = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has ..")
    assert "(2.5 GiB at once)" in str(out_of_memory(cuda, "x", "y"))
    assert out_of_memory(MemoryError(), "x", "y") is not None
    for other in (RuntimeError("shapes"), ValueError("allocate 3 GiB"), np.linalg.LinAlgError()):
        assert out_of_memory(other, "x", "y") is None


def test_sizes_and_what_is_used() -> None:
    assert [size_in_words(x) for x in (1e6, 2**30, 298 * 2**30)] == [
        "0.954 MiB",
        "1 GiB",
        "298 GiB",
    ]
    before = used_memory()
    held = np.ones(8_000_000)
    assert used_memory() - before == pytest.approx(held.nbytes, rel=0.3)
