"""Real trainers: no step on failure, bit-identical weights, quiet on resume, parts in the logs."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from trainers import import_trainers

from capcheck import CapacityError

SCRIPTS = Path(__file__).parent / "scripts"
LIGHTNING = "from capcheck.callbacks.lightning import CapacityCallback\n"
TRANSFORMERS = "from capcheck.callbacks.transformers import CapacityCallback\n"


@pytest.fixture(scope="module", autouse=True)
def importable() -> None:
    import_trainers()


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAPCHECK_CACHE", str(tmp_path / "cache"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the trainers, about the machine
        yield


MODEL = {"lightning": "denoiser", "transformers": "model"}
PASSES = {
    "lightning": 'CapacityCallback(family="gpt", budget=1, law="gaussian")',
    "transformers": 'CapacityCallback(family="gpt", budget=1, law="markov:1")',
}
FAILS = {
    "lightning": 'CapacityCallback(family="diffusion", budget=1, law="gaussian")',
    "transformers": 'CapacityCallback(family="maskgit", options={"rounds": 1}, law="markov:1")',
}
LIVE = {
    "lightning": 'CapacityCallback(family="diffusion", budget=2, law="gaussian", every=5, '
    'samples=200, divergences=["wasserstein"], tolerance={"wasserstein": 9.0})',
    "transformers": 'CapacityCallback(family="gpt", budget=1, law="markov:1", given=[0], every=5, '
    "samples=200)",
}


def weights(names: dict[str, Any], trainer: str) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = names[MODEL[trainer]].state_dict()
    return found


def ran(trainer: str, callback: str = "", **changes: Any) -> dict[str, Any]:
    """The names of an example script after it ran with a callback: one line and one argument."""
    text = (SCRIPTS / f"{trainer}_example.txt").read_text()
    if callback and trainer == "lightning":
        text = LIGHTNING + text.replace("L.Trainer(", f"L.Trainer(callbacks=[{callback}], ")
    if callback and trainer == "transformers":
        line = f"trainer.add_callback({callback})"
        text = TRANSFORMERS + text.replace("trainer.train()", f"{line}\ntrainer.train()")
    text = text.replace("trainer.fit(", f"trainer.fit({changes.pop('fit', '')}")
    text = text.replace("report_to=[]", f"report_to={changes.pop('report_to', '[]')}")
    names = {"OUTPUT": "output", **changes}
    exec(compile(text, f"{trainer}_example", "exec"), names)
    return names


BOTH = pytest.mark.parametrize("trainer", ["lightning", "transformers"])


@BOTH
@pytest.mark.parametrize("kind", ["gate", "live"])
def test_weights_are_bit_identical_with_and_without(trainer: str, kind: str) -> None:
    callback = PASSES[trainer] if kind == "gate" else LIVE[trainer]
    plain, watched = weights(ran(trainer), trainer), weights(ran(trainer, callback), trainer)
    assert plain.keys() == watched.keys()
    assert all(torch.equal(plain[name], watched[name]) for name in plain)


@BOTH
def test_no_optimizer_step_is_made_on_failure(
    trainer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    step = torch.optim.Optimizer.step
    for kind in (torch.optim.Adam, torch.optim.AdamW):
        own = kind.step

        def counted(self: Any, *given: Any, _own: Any = own, **keywords: Any) -> Any:
            made.append(1)
            return _own(self, *given, **keywords)

        monkeypatch.setattr(kind, "step", counted)
    assert step is torch.optim.Optimizer.step
    with pytest.raises(CapacityError, match="cannot produce"):
        ran(trainer, FAILS[trainer])
    assert made == []
    ran(trainer)
    assert made  # the count would have noticed


@BOTH
def test_the_next_start_measures_nothing(trainer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ran(trainer, PASSES[trainer])
    monkeypatch.setattr("capcheck.pipeline.gate.measure", None)
    ran(trainer, PASSES[trainer])


def test_lightning_logs_the_parts_to_its_own_logger(tmp_path: Path) -> None:
    logger = importlib.import_module("lightning.pytorch.loggers").CSVLogger(
        str(tmp_path), name="own"
    )
    names = ran(
        "lightning", f"{LIVE['lightning']}], logger=OWN, log_every_n_steps=1, plugins=[", OWN=logger
    )
    assert names["trainer"].global_step == 16
    rows = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    header = rows[0].split(",")
    column, step = header.index("capcheck/wasserstein/network"), header.index("step")
    logged = {int(row.split(",")[step]) for row in rows[1:] if row.split(",")[column]}
    assert logged == {5, 10, 15}


def test_transformers_log_the_parts_to_tensorboard() -> None:
    reading = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    callback = LIVE["transformers"][:-1] + ", log=trainer.log)"
    names = ran("transformers", callback, report_to="['tensorboard']")
    logged = [row for row in names["trainer"].state.log_history if "capcheck/kl/network" in row]
    assert [row["step"] for row in logged] == [5, 10, 15]
    files = sorted(Path("output").rglob("events.out.tfevents.*"))
    assert files
    events = reading.EventAccumulator(str(files[0].parent))
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag.endswith("capcheck/kl/network")]
    assert tags
    assert [event.step for event in events.Scalars(tags[0])] == [5, 10, 15]


def test_transformers_log_the_parts_to_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = importlib.import_module("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # its databases need the whole of MLflow
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlruns")
    mlflow.set_tracking_uri(f"file://{tmp_path}/mlruns")
    callback = LIVE["transformers"][:-1] + ", log=trainer.log)"
    ran("transformers", callback, report_to="['mlflow']")
    run = mlflow.last_active_run()
    assert "capcheck/kl/network" in run.data.metrics


def test_a_resumed_training_is_not_asked_again() -> None:
    names = ran("lightning")
    names["trainer"].save_checkpoint("half.ckpt")
    resumed = ran("lightning", FAILS["lightning"], fit="ckpt_path='half.ckpt', ")
    assert resumed["trainer"].global_step == 16
