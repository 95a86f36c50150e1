"""What the documents show must work."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click
import numpy as np
import pytest
from trainers import import_trainers

from capcheck.cli.app import COMMANDS, cli
from capcheck.procedures.registry import families

ROOT = Path(__file__).parents[1]


PAGES = sorted((ROOT / "reports" / "handbook").rglob("*.md"))
OF_OTHERS = re.compile(r"^ *```sh\n.*?^ *```|`[^`\n]*\b(?:python|pip|make) [^`]*`", re.M | re.S)
"""Commands of other programs, which have options of their own."""
PIPELINE = "reports/handbook/guides/pipeline.md"


def blocks(document: str, language: str) -> list[str]:
    """The code blocks of a document in a language, also those with a caption."""
    text = (ROOT / document).read_text(encoding="utf-8")
    opened = rf"(?:{language}|\{{code-block\}} {language})\n(?::caption: [^\n]*\n\n)?"
    found = re.findall(rf"^( *)```{opened}(.*?)^ *```", text, re.S | re.M)
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


def test_the_callbacks_of_the_handbook_are_made_and_added() -> None:
    added: list[Any] = []

    class Trainer:
        log = add_callback = added.append

        def __init__(self, callbacks: list[Any]) -> None:
            added.extend(callbacks)

    import_trainers()
    names: dict[str, Any] = {"Trainer": Trainer}
    names["trainer"] = Trainer([])
    exec(compile(block(PIPELINE, "python", "Trainer("), PIPELINE, "exec"), names)
    assert [type(one).__name__ for one in added] == ["CapacityCallback"] * 2


def test_the_workflow_of_the_handbook_gates_a_pull_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("latents.npy", np.random.default_rng(0).standard_normal((300, 4)).cumsum(1))
    Path("capacity.toml").write_text(block(PIPELINE, "toml", "[targets.latents]"))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    workflow = block(PIPELINE, "yaml", "pull_request")
    (command,) = re.findall(r"run: capcheck (.*)", workflow)
    words = shlex.split(os.path.expandvars(command))
    assert command_exit(words) == 0
    assert "1 of 1 checks pass" in Path("summary.md").read_text()
    assert ElementTree.parse("capacity.xml").getroot().find("testsuite/testcase") is not None
    spec = Path("capacity.toml").read_text()
    Path("capacity.toml").write_text(spec.replace("[16, 64]", "[2, 4]").replace("= 64", "= 4"))
    assert command_exit(words) == 1  # the gate in a pull request
    assert "why it matters: We serve with 64 steps." in Path("summary.md").read_text()


@pytest.mark.parametrize(("steps", "code"), [(64, 0), (1, 1)])
def test_the_test_of_the_handbook_gates(steps: int, code: int, tmp_path: Path) -> None:
    text = block(PIPELINE, "python", "@pytest.mark.capacity")
    (tmp_path / "test_capacity.py").write_text(text.replace("[64]", f"[{steps}]"))
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(tmp_path)]
    ran = subprocess.run(
        [*command, "-p", "no:cacheprovider", "-p", "no:xdist", "test_capacity.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == code, ran.stdout
    assert ("representable" in ran.stdout) == bool(code)


def command_exit(words: list[str]) -> int:
    """The exit code of the command line."""
    with pytest.raises(SystemExit) as caught:
        cli.main(words, standalone_mode=False)
    return int(str(caught.value.code))


def test_the_handbook_lists_every_family() -> None:
    text = (ROOT / "reports" / "handbook" / "families" / "index.md").read_text(encoding="utf-8")
    assert [family for family in families() if f"`{family}`" not in text] == []


def test_documents_name_only_options_that_exist() -> None:
    context = click.Context(cli)
    commands = [cli.get_command(context, name) for name in cli.list_commands(context)]
    known = {opt for command in commands if command for p in command.params for opt in p.opts}
    for page in [ROOT / "README.md", *PAGES]:
        text = OF_OTHERS.sub("", page.read_text(encoding="utf-8"))
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
        assert named <= known | {"--help"}, page


def test_the_readme_is_short_and_names_only_pages_that_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 95
    links = re.findall(r"\]\(((?!https://)[^)]+)\)", text)
    assert len(links) > 20
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_the_handbook_shows_every_command() -> None:
    text = "\n".join(code for page in PAGES for code in blocks(str(page), "console"))
    shown = set(re.findall(r"^\$ capcheck ([a-z-]+)", text, re.M))
    assert set(COMMANDS) - shown == {"selftest"}  # it takes a minute, and is a test by itself


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
