"""Runs that are shared with workers of Dask, Ray and submitit, as real clusters of this machine."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import submitit
from distributed import Client, LocalCluster
from folders import sorted_cells

from capcheck import InputError, report, survey, work
from capcheck.runs.executors import RayExecutor
from capcheck.runs.planning import engine_of_survey
from capcheck.runs.store import Store
from capcheck.targets import from_spec

FAMILIES = ["gpt", "maskgit", "diffusion"]
HOW: dict[str, Any] = {"samples": 200, "steps": [1, 2], "network": "none"}
TARGET = from_spec("modes:tokens=2,modes=3")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    survey(TARGET, FAMILIES, workers=1, out=folder, **HOW)
    return folder


@pytest.fixture
def dask() -> Iterator[Any]:
    how = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(silence_logs=logging.ERROR, **how) as cluster, Client(cluster) as client:
        yield client.get_executor()


@pytest.fixture
def ray_tasks() -> Iterator[Any]:
    eager = {"worker_niceness": 0}  # at Ray's own 15 a task starves beside busy neighbours
    ray.init(num_cpus=1, include_dashboard=False, logging_level=logging.ERROR, _system_config=eager)
    yield RayExecutor(num_cpus=1)
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("cluster", ["dask", "ray_tasks"])
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_shares_a_run(
    cluster: str, alone: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    executor = request.getfixturevalue(cluster)
    engine_of_survey(TARGET, FAMILIES, out=tmp_path / "by the cluster", **HOW).start()
    assert executor.submit(work, tmp_path / "by the cluster").result() is None
    assert sorted_cells(tmp_path / "by the cluster") == sorted_cells(alone)
    survey(TARGET, FAMILIES, workers=2, executor=executor, out=tmp_path / "together", **HOW)
    assert sorted_cells(tmp_path / "together") == sorted_cells(alone)
    log = (tmp_path / "together" / "run.log").read_text()
    assert "ended" not in log
    assert "worker" not in log.replace("waiting for other workers", "")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_jobs_of_submitit_measure_a_run_that_was_started(alone: Path, tmp_path: Path) -> None:
    engine_of_survey(TARGET, FAMILIES, out=tmp_path / "run", **HOW).start()
    with pytest.raises(InputError, match="no finished cell"):
        Store.open(tmp_path / "run").result()
    executor = submitit.LocalExecutor(tmp_path / "jobs")
    executor.update_parameters(timeout_min=5)
    # The payload is a folder and a shard.
    jobs = [executor.submit(work, tmp_path / "run", shard=(i, 2)) for i in (1, 2)]
    assert [job.result() for job in jobs] == [None, None]
    assert sorted_cells(tmp_path / "run") == sorted_cells(alone)
    found = Store.open(tmp_path / "run").result()
    assert found.to_dict() == Store.open(alone).result().to_dict()
    assert report(found, tmp_path / "page.html").is_file()


def test_a_missing_ray_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'capcheck\[ray\]'"):
        RayExecutor()
