"""Runs that another process measures: the target built again, and folders that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from capcheck import InputError, survey, work
from capcheck.cli.app import cli
from capcheck.data import Layout, load_target
from capcheck.runs.planning import engine_of_check, engine_of_survey
from capcheck.runs.recipes import RECIPE, target_again, write_recipe
from capcheck.runs.store import Store
from capcheck.targets import ProductMixture, from_spec

HOW: dict[str, Any] = {"samples": 200, "steps": [1], "network": "none"}


def test_targets_are_built_again_by_their_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.save("numbers.npy", rng.normal(size=(300, 6)))
    np.savez("many.npz", ids=rng.integers(0, 5, (400, 4)))
    Path("notes.txt").write_text("ab abba baab " * 80, encoding="utf-8")
    targets = [
        from_spec("gaussian:ar1,tokens=3,rho=0.5"),
        load_target("digits", Layout(pca=3)),
        load_target("numbers.npy", Layout(tokens=3), law="gaussian"),
        load_target("many.npz#ids", Layout(grid=(2, 2)), law="markov:2"),
        load_target("notes.txt", Layout(tokens=4, split="lines")),
        load_target("numbers.npy", Layout(), law="rows", bandwidth=0.3),
    ]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for target in targets:
        write_recipe(tmp_path, target)
        assert target_again(tmp_path).fingerprint == target.fingerprint


def test_work_measures_a_run_that_was_started(tmp_path: Path) -> None:
    target = from_spec("modes:tokens=3,gap=4")
    how: dict[str, Any] = HOW | {"precision": ["float16"], "sensitivity": [0.1]}
    how |= {"tolerance": {"kl": 0.02}, "given": [0], "seed": 3, "level": 0.9, "looks": 2}
    how |= {"divergences": ["kl", "mmd"], "diagnose": ["permutation"], "seconds_per_cell": 2}
    engine = engine_of_survey(
        target, ["gpt", "maskgit"], options={"maskgit": {"rounds": 2}}, out=tmp_path / "run", **how
    )
    engine.start()
    work(tmp_path / "run")
    expected = survey(
        target, ["gpt", "maskgit"], options={"maskgit": {"rounds": 2}}, workers=1, **how
    )
    assert Store.open(tmp_path / "run").result().to_dict() == expected.to_dict()


def test_a_law_of_a_program_needs_the_program(three: ProductMixture, tmp_path: Path) -> None:
    engine_of_survey(three, ["gpt"], out=tmp_path / "run", **HOW).start()
    with pytest.raises(InputError, match=r"its target was made by a program"):
        work(tmp_path / "run")
    work(tmp_path / "run", target=three)
    assert Store.open(tmp_path / "run").result().families[0].cells
    with pytest.raises(InputError, match=r"target\.fingerprint"):
        work(tmp_path / "run", target=from_spec("gaussian:tokens=3"))


def test_functions_that_a_file_names_are_not_run(tmp_path: Path) -> None:
    target = from_spec("modes:tokens=2")
    factory = "networks:never_made"
    with pytest.raises(InputError, match="never_made"):
        engine_of_check("gpt", target, network=factory, out=tmp_path / "x", samples=200)
    engine_of_check("gpt", target, network="mlp:width=4,depth=1", out=tmp_path, samples=200).start()
    manifest = tmp_path / "manifest.json"
    text = manifest.read_text()
    for name in ("os:abort", "os.path:join"):
        manifest.write_text(text.replace("mlp:width=4,depth=1", name))
        with pytest.raises(InputError, match="nothing that a file names is executed"):
            work(tmp_path)
    manifest.write_text(text.replace("mlp:width=4,depth=1", "given"))
    with pytest.raises(InputError, match="gave as an object"):
        work(tmp_path)


@pytest.mark.parametrize(
    "recipe",
    ["[1]", "{}", '{"data": "digits"}', '{"data": "digits", "layout": {"x": 1}}', "{half", "3"],
)
def test_damaged_recipes_are_refused(recipe: str, tmp_path: Path) -> None:
    (tmp_path / RECIPE).write_text(recipe)
    with pytest.raises(InputError, match=f"{RECIPE} that is damaged"):
        target_again(tmp_path)
    (tmp_path / RECIPE).write_text(json.dumps({"spec": "nothing:here"}))
    with pytest.raises(InputError, match="no built-in named 'nothing'"):
        target_again(tmp_path)


@pytest.mark.parametrize("shard", [(0, 2), (3, 2), (1, 0)])
def test_impossible_shards_are_refused(shard: tuple[int, int], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="shard must be i/n"):
        work(tmp_path, shard=shard)


def test_the_command_works_a_run_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "run")
    law = ["--family", "gpt", "--target", "modes:tokens=2", "--samples", "200"]
    cli.main(["check", *law, "--out", run, "--start-only"], standalone_mode=False)
    assert f"capcheck work {run}" in capsys.readouterr().out
    cli.main(["work", run, "--shard", "2/3"], standalone_mode=False)
    assert f"the run is whole: capcheck report {run}" in capsys.readouterr().out
    assert Store.open(tmp_path / "run").result().families[0].cells
    with pytest.raises(InputError, match="--start-only needs a folder"):
        cli.main(["check", *law, "--start-only"], standalone_mode=False)
