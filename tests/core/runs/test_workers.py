"""Several processes that measure one run: claims, equal results, and processes that are killed."""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from folders import sorted_cells
from loky import process_executor
from processes import DyingWorkers, lives

from capcheck import InputError, survey
from capcheck.cli.app import cli
from capcheck.core.errors import CapcheckError, UnfitError
from capcheck.results.survey import SurveyResult
from capcheck.runs import claims as module
from capcheck.runs import workers
from capcheck.runs.candidates import Candidate
from capcheck.runs.claims import Busy, SharedClaims, claim_name
from capcheck.runs.engine import Engine
from capcheck.runs.store import Store
from capcheck.targets import ProductMixture, from_spec

FAMILIES = ["gpt", "maskgit", "diffusion", "vae"]
HOW: dict[str, Any] = {"samples": 200, "lengths": [0, 3], "steps": [1, 2], "fit_steps": 10}
HOW |= {"precision": ["float16"], "sensitivity": [0.1], "looks": 2}


@pytest.fixture(scope="module")
def alone(three: ProductMixture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a single worker."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    survey(three, FAMILIES, workers=1, out=folder, **HOW)
    return folder


# Claims


def test_a_part_belongs_to_one_process_until_it_is_released(tmp_path: Path) -> None:
    name = claim_name(plan="a", look=0)
    assert name != claim_name(plan="a", look=1)
    mine, other = SharedClaims(tmp_path), SharedClaims(tmp_path)
    assert mine.take(name)
    assert not other.take(name)
    with other.held(name) as taken:
        assert not taken
    mine.release(name)
    with other.held(name) as taken:
        assert taken
        assert not mine.take(name)
    assert mine.take(name)
    mine.give_up(name)
    assert other.given_up(name)
    other.forget_failures()
    assert not mine.given_up(name)
    mine.close()
    other.close()
    assert list((tmp_path / "claims").iterdir()) == []


def test_a_folder_that_holds_no_claims_is_refused(tmp_path: Path) -> None:
    (tmp_path / "claims").write_text("mine")
    with pytest.raises(InputError, match=r"claims.* cannot be written"):
        SharedClaims(tmp_path)


def test_only_one_of_many_processes_gets_a_claim(tmp_path: Path) -> None:
    claims = [SharedClaims(tmp_path) for _ in range(8)]
    for part in range(20):
        with ThreadPoolExecutor(8) as pool:
            taken = list(pool.map(SharedClaims.take, claims, [f"part{part}"] * len(claims)))
        assert sum(taken) == 1
    for one in claims:
        one.close()


def test_the_claim_of_a_process_that_is_gone_is_void(tmp_path: Path) -> None:
    claims = SharedClaims(tmp_path)
    ended = subprocess.Popen(["true"])
    ended.wait()
    gone = {"host": socket.gethostname(), "pid": ended.pid}
    (tmp_path / "claims" / "part.0").write_text(json.dumps(gone))
    assert claims.take("part")
    assert (tmp_path / "claims" / "part.1").exists()  # a claim is removed by its owner only
    assert not SharedClaims(tmp_path).take("part")
    claims.release("part")
    assert not list((tmp_path / "claims").glob("part.*"))
    claims.close()


def test_the_claim_of_another_machine_is_void_when_it_is_not_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = SharedClaims(tmp_path)
    path = tmp_path / "claims" / "part.0"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    assert not claims.take("part")
    old = time.time() - 2 * module.PATIENCE
    os.utime(path, (old, old))
    assert claims.take("part")
    monkeypatch.setattr(module, "BEAT", 0.01)
    renewing = SharedClaims(tmp_path)
    assert renewing.take("other")
    other = tmp_path / "claims" / "other.0"
    os.utime(other, (old, old))
    deadline = time.monotonic() + 5
    while other.stat().st_mtime < time.time() - 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    claims.close()
    renewing.close()


# Results


@pytest.mark.slow
def test_cells_are_equal_for_any_number_of_workers(
    three: ProductMixture, alone: Path, tmp_path: Path
) -> None:
    with process_executor.ProcessPoolExecutor(max_workers=1) as pool:
        started = pool.submit(importlib.import_module, "capcheck.api")
        started.exception()  # a module cannot be sent back, but it is there
        how = {"workers": 2, "executor": pool, "out": tmp_path / "run"}
        together = survey(three, FAMILIES, **how, **HOW)
    assert len(list((tmp_path / "run").glob("cells*.jsonl"))) > 1
    assert sorted_cells(tmp_path / "run") == sorted_cells(alone)
    expected = Store.open(alone).result().to_dict()
    assert without_seconds(together.to_dict()) == without_seconds(expected)
    found = Store.open(tmp_path / "run").result().to_dict()
    assert without_seconds(found) == without_seconds(expected)
    assert list((tmp_path / "run" / "claims").iterdir()) == []


def without_seconds(facts: Any) -> Any:
    """A result without the times that its fits took."""
    if isinstance(facts, dict):
        return {k: without_seconds(v) for k, v in facts.items() if k != "seconds"}
    return [without_seconds(v) for v in facts] if isinstance(facts, list) else facts


class Threads:
    """An executor that runs its work in threads of this process, and counts it."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(2)
        self.futures: list[Future[None]] = []

    def submit(self, function: Any, *arguments: Any) -> Future[None]:
        self.futures.append(self.pool.submit(function, *arguments))
        return self.futures[-1]


def test_any_executor_runs_the_further_workers(
    three: ProductMixture, alone: Path, tmp_path: Path
) -> None:
    threads = Threads()
    survey(three, FAMILIES, workers=3, executor=threads, out=tmp_path / "run", **HOW)
    assert len(threads.futures) == 2
    assert [future.exception() for future in threads.futures] == [None, None]
    assert sorted_cells(tmp_path / "run") == sorted_cells(alone)


def test_workers_that_die_are_told_and_replaced(
    three: ProductMixture, alone: Path, tmp_path: Path
) -> None:
    survey(three, FAMILIES, workers=2, executor=DyingWorkers(), out=tmp_path / "run", **HOW)
    assert sorted_cells(tmp_path / "run") == sorted_cells(alone)
    log = (tmp_path / "run" / "run.log").read_text()
    assert "worker 1 ended, and others take up its cells: out of memory" in log


def test_a_family_that_fails_fails_once_and_says_why(
    three: ProductMixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def broken(*_: object) -> None:
        calls.append(1)
        raise ZeroDivisionError("of a family")

    monkeypatch.setattr("capcheck.probes.length.maskgit.MaskGIT.run", broken)
    found = survey(
        three, ["maskgit", "gpt"], workers=3, executor=Threads(), out=tmp_path, samples=200
    )
    said = "maskgit raised ZeroDivisionError: of a family"
    assert [one.error for one in found.families] == [said, None]
    assert len(calls) <= 4  # each process at most once, and once for the sentence


def test_what_cannot_be_measured_is_found_out_once(
    tmp_path: Path, three: ProductMixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def refused(engine: Engine, candidate: Candidate) -> None:
        tried.append(candidate.plan.title)
        raise UnfitError("it would take 20 min.")

    monkeypatch.setattr(Engine, "_family", refused)
    found = survey(three, ["gpt"], workers=2, executor=Threads(), out=tmp_path / "run", **HOW)
    assert tried == ["gpt"]
    assert found.families[0].error == "it would take 20 min."
    survey(three, ["gpt"], workers=1, out=tmp_path / "run", **HOW)
    assert len(tried) == 2  # a run that is continued tries again


def test_two_results_for_one_cell_are_an_error(
    three: ProductMixture, alone: Path, tmp_path: Path
) -> None:
    for path in alone.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    line = json.loads(sorted_cells(alone)[0])
    line["cell"]["model_calls"] += 1
    (tmp_path / "cells-elsewhere.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(InputError, match="two different results for length"):
        Store.open(tmp_path)
    (tmp_path / "cells-elsewhere.jsonl").write_text(sorted_cells(alone)[0] + '\n{"key": "half')
    assert Store.open(tmp_path).result()


def test_a_helper_refuses_another_run(three: ProductMixture, alone: Path) -> None:
    from capcheck.runs.planning import engine_of_survey

    engine = engine_of_survey(three, ["gpt"], samples=300)
    with pytest.raises(InputError, match="holds another run"):
        engine.help(alone)


@pytest.mark.parametrize("count", [-1, 1.5, True, "2"])
def test_impossible_numbers_of_workers_are_refused(three: ProductMixture, count: Any) -> None:
    with pytest.raises(InputError, match="workers must be a whole number"):
        survey(three, ["gpt"], workers=count)


def test_the_default_of_the_shell_is_one_worker_per_core() -> None:
    import torch

    assert workers.worker_count(0, torch.device("cpu")) == len(os.sched_getaffinity(0))
    assert workers.worker_count(None, torch.device("cpu")) is None


def test_a_signal_between_processes_is_nobodys_mistake() -> None:
    assert not issubclass(Busy, CapcheckError)


# Processes that are killed


COMMAND = ["survey", "--target", "modes:tokens=6,modes=3", "--samples", "2000"]
COMMAND += ["--family", "gpt,maskgit,diffusion,ar_diffusion", "--length", "0,3,6", "--out"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    with pytest.raises(SystemExit, match="0"):
        cli.main([*COMMAND, str(folder)], standalone_mode=False)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["owner", "helper"])
def test_no_finished_cell_is_lost_when_a_process_is_killed(
    victim: str, undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "capcheck", *COMMAND, str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"CAPCHECK_WORKERS": "2"},
    )
    deadline = time.monotonic() + 120
    helpers: list[Path] = []
    while time.monotonic() < deadline and process.poll() is None and not helpers:
        helpers = [path for path in folder.glob("cells-*.jsonl") if path.stat().st_size]
        time.sleep(0.02)
    assert process.poll() is None
    pid = process.pid if victim == "owner" else int(helpers[0].stem.split("-")[-2])
    os.kill(pid, signal.SIGKILL)
    before = sorted_cells(folder)
    if victim == "owner":
        process.wait()
        deadline = time.monotonic() + 60
        helper = int(helpers[0].stem.split("-")[-2])
        while time.monotonic() < deadline and lives(helper):
            time.sleep(0.1)
        assert not lives(helper)  # it ends after the part that it was at
    else:
        assert process.wait() == 0
        assert "others take up its cells" in (folder / "run.log").read_text()
    with pytest.raises(SystemExit, match="0"):
        cli.main([*COMMAND, str(folder)], standalone_mode=False)
    assert set(before) <= set(sorted_cells(folder))
    assert sorted_cells(folder) == sorted_cells(undisturbed)
    runs: list[SurveyResult] = [Store.open(each).result() for each in (folder, undisturbed)]
    assert runs[0].to_dict() == runs[1].to_dict()


def test_tiny_runs_start_no_process(tmp_path: Path) -> None:
    survey(from_spec("gaussian:tokens=2"), ["gpt"], workers=4, samples=200, out=tmp_path)
    assert [path.name for path in tmp_path.glob("cells*.jsonl")] == ["cells.jsonl"]
