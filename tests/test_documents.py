"""What the documents show must work."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import textwrap
import tomllib
import types
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click
import language_models
import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from trainers import import_trainers

import capcheck
from capcheck import check, targets
from capcheck.cli.app import cli
from capcheck.core.errors import CapcheckError
from capcheck.procedures.registry import families

ROOT = Path(__file__).parents[1]


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", text, re.S | re.M)
    return [textwrap.dedent(code) for _, code in found]


def block(document: str, language: str, holding: str) -> str:
    """The code block of a document that holds a text."""
    (found,) = (code for code in blocks(document, language) if holding in code)
    return found


def test_the_readmes_python_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, *_ = blocks("README.md", "python")
    exec(compile(code, "README.md", "exec"), {})
    assert "representable" in capsys.readouterr().out
    assert (tmp_path / "maskgit.html").is_file()


def test_the_readmes_gate_and_callbacks_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CAPCHECK_CACHE", str(tmp_path))
    names: dict[str, Any] = {}
    exec(compile(block("README.md", "python", "capcheck.gate("), "README.md", "exec"), names)
    added: list[Any] = []

    class Trainer:
        log = add_callback = added.append

        def __init__(self, callbacks: list[Any]) -> None:
            added.extend(callbacks)

    def model(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return 0.5 * x

    import_trainers()
    names |= {"Trainer": Trainer, "x": torch.randn(400, 3), "model": model, "capcheck": capcheck}
    names["trainer"] = Trainer([])
    exec(compile(block("README.md", "python", "LiveCheck("), "README.md", "exec"), names)
    assert [type(one).__name__ for one in added] == ["CapacityCallback"] * 2
    assert "capcheck/kl/network" in capsys.readouterr().out


def test_the_readmes_spec_and_workflow_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("latents.npy", np.random.default_rng(0).standard_normal((300, 4)).cumsum(1))
    Path("capacity.toml").write_text(block("README.md", "toml", "[targets.latents]"))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    workflow = block("README.md", "yaml", "pull_request")
    (command,) = re.findall(r"run: capcheck (.*)", workflow)
    words = shlex.split(os.path.expandvars(command))
    assert command_exit(words) == 0
    assert "1 of 1 checks pass" in Path("summary.md").read_text()
    assert ElementTree.parse("capacity.xml").getroot().find("testsuite/testcase") is not None
    spec = Path("capacity.toml").read_text()
    Path("capacity.toml").write_text(spec.replace("[16, 64]", "[2, 4]").replace("= 64", "= 4"))
    assert command_exit(words) == 1  # the gate in a pull request
    assert "why it matters: We serve with 64 steps." in Path("summary.md").read_text()


def command_exit(words: list[str]) -> int:
    """The exit code of the command line."""
    with pytest.raises(SystemExit) as caught:
        cli.main(words, standalone_mode=False)
    return int(str(caught.value.code))


@pytest.mark.parametrize("objective", ["oracle", "none"])
def test_the_readmes_network_works(
    objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = block("README.md", "python", "class Predictor")
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "models.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    command = "check --family gpt --target modes:tokens=3 --network my_package.models:build"
    more = ["--fit-steps", "40"] if objective == "oracle" else []
    with pytest.raises(SystemExit, match=r"[13]"):
        cli.main(
            [*command.split(), "--objective", objective, "--samples", "200", *more],
            standalone_mode=False,
        )
    for name in ("my_package", "my_package.models"):
        sys.modules.pop(name, None)


def test_the_readmes_sampler_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = block("README.md", "python", "# my_sampler.py")
    decoder = block("README.md", "python", "# my_decoder.py")
    (tmp_path / "my_sampler.py").write_text(code, encoding="utf-8")
    (tmp_path / "my_decoder.py").write_text(decoder, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"\$ capcheck (sampler my_sampler.*)", text)
    assert cli.main(command.split(), standalone_mode=False) == 0
    assert "nothing was found" in capsys.readouterr().out
    (command,) = re.findall(r"\$ capcheck (sampler my_decoder\S* --config \S*)", text)
    cli.main([*command.split(), "--steps", "4", "--json"], standalone_mode=False)
    cells = json.loads(capsys.readouterr().out)["cells"]
    # Of a parity constraint all tokens are equally likely until the last one.
    assert {c["target"]: c["outcome"] for c in cells}["parity"] == "not_representable"
    for name in ("my_sampler", "my_decoder"):
        sys.modules.pop(name, None)


def test_the_readme_lists_every_family_and_only_options_that_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"| `{family}` |" in text for family in families())
    context = click.Context(cli)
    commands = [cli.get_command(context, name) for name in cli.list_commands(context)]
    known = {opt for command in commands if command for p in command.params for opt in p.opts}
    assert set(re.findall(r"--[a-z][a-z-]+", text)) <= known | {"--help", "--array", "--wrap"}


def survey_examples() -> list[str]:
    text = next(block for block in blocks("README.md", "console") if "--data notes.txt" in block)
    return re.findall(r"\$ capcheck (survey .*)", text)


@pytest.mark.parametrize("command", survey_examples())
def test_the_readmes_surveys_run(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(["ab", "ba", "abba", "baab"], 4)) for _ in range(60)]
    Path("notes.txt").write_text("\n".join(lines), encoding="utf-8")
    Path("faces").mkdir()
    for i, pixels in enumerate(rng.integers(0, 255, (40, 5, 5, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(f"faces/{i}.png")
    columns = {f"x{i}": rng.normal(size=80) for i in range(3)}
    parquet.write_table(pyarrow.table(columns), "table.parquet")
    with pytest.raises(SystemExit, match="0"):
        cli.main([*command.split(), "--fit-steps", "40"], standalone_mode=False)
    shown = capsys.readouterr().out
    assert "gpt" in shown
    assert "held-out log-likelihood" in shown
    if "text" in command or ".txt" in command:
        assert "diffusion is defined for continuous tokens, not categorical ones" in shown
    assert list(Path("runs").glob("*/report.html"))


ELSEWHERE: tuple[str, ...] = ("sampler ", "survey --data patches", "survey --data text")
ELSEWHERE += ("survey --data notes.txt", "survey --data faces", "survey --data table.parquet")
"""Commands of the README that other tests run: here, and of samplers in `tests/core/samplers`."""
SHORTER = {
    "survey": ["--family", "gpt,diffusion", "--samples", "200", "--fit-steps", "3"],
    "check": ["--samples", "200"],
    "plan": ["--family", "gpt"],
    "plan-decoding": ["--calls", "1,4"],
}
"""What the commands of the README are given in place of their own, so that they take less time."""


def other_examples() -> list[str]:
    text = "\n".join(blocks("README.md", "console"))
    commands = re.findall(r"^\$ capcheck (.*?)(?: +#.*)?$", text, re.M)
    return [one for one in commands if not one.startswith(ELSEWHERE)]


@pytest.mark.slow
def test_the_readmes_other_commands_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("latents.npy", np.random.default_rng(0).standard_normal((200, 8)).cumsum(1))
    Path("my_package").mkdir()
    models = block("README.md", "python", "class Predictor") + "\nload = build\n"
    Path("my_package/models.py").write_text(models)
    language_models.saved(Path("my-gpt2"), symbols=27)
    commands = other_examples()
    assert {one.split()[0] for one in commands} >= {"check", "survey", "plan", "init", "run"}
    for command in commands:
        name, *words = shlex.split(command)
        more = SHORTER.get(name, []) if "capacity.toml" not in words else []
        fits = "--network" in words and "none" not in words
        more = [*more, "--fit-steps", "3"] if fits and "--fit-steps" not in more else more
        for option in more[::2]:
            if option in words:
                place = words.index(option)
                del words[place : place + 2]
        code: Any = 0
        try:
            cli.main([name, *words, *more], standalone_mode=False)
        except SystemExit as ended:
            code = ended.code
        except CapcheckError as error:
            pytest.fail(f"capcheck {command}: {error}")
        assert code in (None, 0, 1, 3), command
        assert capsys.readouterr().out.strip(), command
    for module in ("my_package", "my_package.models"):
        sys.modules.pop(module, None)


def test_the_family_of_the_contributing_guide_works(monkeypatch: pytest.MonkeyPatch) -> None:
    code, tried = blocks("CONTRIBUTING.md", "python")
    imports = (
        "from typing import ClassVar\n"
        "from pydantic.dataclasses import dataclass\n"
        "import capcheck\n"
        "from capcheck.authoring import *\n"
        "target = capcheck.targets.from_spec('modes:tokens=3,gap=6')\n"
    )
    module = types.ModuleType("guide")
    monkeypatch.setitem(sys.modules, "guide", module)
    exec(compile(imports + code + tried, "CONTRIBUTING.md", "exec"), module.__dict__)

    copycat = module.__dict__["Copycat"]()
    found = check(copycat, targets.from_spec("modes:tokens=3,gap=6"), samples=400)
    assert found.outcome == "not_representable"
    assert (found.axes.length, found.axes.steps, found.loop_order) == ("flat", "flat", "none")
    independent = check(copycat, targets.from_spec("gaussian:tokens=3"), samples=400)
    assert independent.outcome == "representable"  # the exact law is found by replay
    assert independent.cells[0].estimates["kl"].kind == "exact"


def test_the_map_of_the_contributing_guide_is_the_contract_of_imports() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("| folder of")[2]
    table = table.partition("\n\n")[0]
    folders = re.findall(r"^\| `(\w+)/`", table, re.M)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    floors = [name for layer in layers for name in re.split(r" [|:] ", layer)]
    packages = {"probes", "reports", "api", "authoring"}
    assert [f for f in folders if f != "testing"] == [
        name for name in sorted(floors, key=lambda n: _rank(n, layers))
        if name not in packages and name != "testing"
    ]  # fmt: skip
    for path in re.findall(r"`([a-z_]+/[a-z_/]+\.py)`", (ROOT / "CONTRIBUTING.md").read_text()):
        assert (ROOT / "capcheck" / path).is_file() or (ROOT / path).is_file(), path


def _rank(name: str, layers: list[str]) -> int:
    return next(i for i, layer in enumerate(layers) if name in re.split(r" [|:] ", layer))
