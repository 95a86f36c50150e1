"""In a distributed job rank 0 measures, and every rank gets its verdict or its error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

JOB = """
import json, sys
import torch, torch.distributed as dist
import capcheck
from capcheck.pipeline import gate as module

rank, folder, data, budget = int(sys.argv[1]), *sys.argv[2:5]
dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
measure, measured = module.measure, []
module.measure = lambda *a: measured.append(1) or measure(*a)
x = torch.randn(400, 4, generator=torch.Generator().manual_seed(rank))  # every rank has its shard
said = ""
try:
    data = x if data == "rows" else data
    found = capcheck.gate(data, family="diffusion", budget=int(budget), law="gaussian", keep=False)
    said = found.message
except capcheck.CapcheckError as error:
    said = f"{type(error).__name__}: {error}"
dist.barrier()
dist.destroy_process_group()
print(json.dumps([len(measured), said]))
"""


def ranks(folder: Path, *arguments: str) -> list[list[Any]]:
    """For both ranks: how often it measured, and what it was told."""
    command = [sys.executable, "-W", "ignore", "-c", JOB]
    jobs = [
        subprocess.Popen(
            [*command, str(rank), str(folder), *arguments], stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    return [json.loads(job.communicate(timeout=400)[0]) for job in jobs]


def test_rank_0_measures_and_tells_the_others(tmp_path: Path) -> None:
    first, second = ranks(tmp_path, "rows", "1")
    assert (first[0], second[0]) == (1, 0)
    assert first[1] == second[1]
    assert first[1].startswith("CapacityError: diffusion cannot produce")


def test_an_error_of_rank_0_reaches_every_rank(tmp_path: Path) -> None:
    first, second = ranks(tmp_path, "missing.npy", "1")
    assert first[1].startswith("InputError: data 'missing.npy'")
    assert second[1] == first[1].replace("InputError: ", "InputError: on rank 0: ")
