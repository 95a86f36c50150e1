"""Kills processes of a survey at random moments, and compares what is left with an undisturbed run.

    .venv/bin/python tests/benchmarks/kills.py [KILLS] [SEED]

A survey of two workers, with fits, is begun again in the same folder after each kill, by SIGKILL of
any of its processes or, every fourth time, by SIGTERM of the command; now and then two commands
work in the folder at once. Once KILLS are done (30 by default), the command is left to end. The
script fails if a cell that was finished at a kill is missing or has changed, is held twice, or if
the result differs from that of the undisturbed run.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from capcheck.runs.store import Store

COMMAND = [sys.executable, "-m", "capcheck", "survey", "--target", "modes:tokens=6,modes=3"]
COMMAND += ["--samples", "2000", "--family", "gpt,maskgit,diffusion,vae,ar_diffusion"]
COMMAND += ["--length", "0,3,6", "--fit-steps", "200", "--workers", "2", "--out"]
LONGEST = 9.0  # seconds after which a process is killed at the latest


def begin(folder: Path) -> subprocess.Popen[bytes]:
    """Start the survey, or go on with it."""
    quiet = subprocess.DEVNULL
    command = [*COMMAND, str(folder)]
    return subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True)


def processes_of(group: int) -> list[int]:
    """Processes of a session, without those that have ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, *facts = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(facts[2]) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


def cells_of(folder: Path) -> Counter[str]:
    """Whole lines of cells, each with the number of times that it is held."""
    held: Counter[str] = Counter()
    for path in folder.glob("cells*.jsonl"):
        held.update(line for line in path.read_text().split("\n")[:-1] if line)
    return held


def untimed(value: Any) -> Any:
    """Facts without the seconds that fits took, which differ from run to run."""
    if isinstance(value, dict):
        return {name: untimed(part) for name, part in value.items() if name != "seconds"}
    return [untimed(part) for part in value] if isinstance(value, list) else value


def facts_of(line: str) -> str:
    """The facts of a line, as text that can be sorted."""
    return json.dumps(untimed(json.loads(line)), sort_keys=True)


def main(kills: int, seed: int) -> None:
    """Kill, go on, and compare."""
    choose, done = random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory() as scratch:
        plain, folder = Path(scratch) / "plain", Path(scratch) / "killed"
        begin(plain).wait()
        expected = set(map(facts_of, cells_of(plain)))
        while sum(done.values()) < kills:
            running = [begin(folder)]
            if choose.random() < 0.2:
                running.append(begin(folder))
            time.sleep(choose.uniform(1.0, LONGEST))
            before = set(cells_of(folder))
            if all(one.poll() is not None for one in running):
                shutil.rmtree(folder)  # it ended first, and is begun anew
                continue
            group = choose.choice([one.pid for one in running if one.poll() is None])
            if sum(done.values()) % 4 == 3:
                os.kill(group, signal.SIGTERM)
                done["SIGTERM"] += 1
            else:
                victim = choose.choice(processes_of(group))
                os.kill(victim, signal.SIGKILL)
                done["command" if victim == group else "other process"] += 1
            for one in running:
                if one.pid == group or choose.random() < 0.5:
                    time.sleep(choose.uniform(0, 2))
                    for left in processes_of(one.pid):  # whoever did not notice yet
                        os.kill(left, signal.SIGKILL)
                one.wait()
            after = cells_of(folder)
            lost = before - set(after)
            assert not lost, f"{len(lost)} cells are lost"
            others = set(map(facts_of, after)) - expected
            assert not others, f"{len(others)} cells are not those of the undisturbed run"
            print(f"{sum(done.values())} kills, {len(after)} cells are whole", flush=True)
        assert begin(folder).wait() in (0, 1)
        held, whole = (sorted(map(facts_of, cells_of(each))) for each in (folder, plain))
        assert held == whole, f"{len(held)} cells in place of {len(whole)}, or others"
        found, other = (Store.open(each).result().to_json() for each in (folder, plain))
        assert untimed(found) == untimed(other), "the results differ"
        print(f"{dict(done)}: {len(held)} cells, and the result, as in an undisturbed run")


if __name__ == "__main__":
    main(*(int(x) for x in (*sys.argv[1:], *("30", "0")[len(sys.argv) - 1 :])))
