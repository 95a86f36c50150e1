"""Runs the blocks of a page one after the other, in one folder and one namespace.

Commands run in this process by way of `click`, with one worker and a width of `COLUMNS`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import shlex
import sys
import tomllib
import types
from collections.abc import Iterator
from pathlib import Path

import torch
from click import ClickException

from capcheck.cli.app import cli
from capcheck.cli.failures import Session, fail
from capcheck.core.errors import CapcheckError
from capcheck.core.imports import transformers_library
from capcheck.core.plugins import declared

from .blocks import Block, Output, blocks, commands

__all__ = ["COLUMNS", "BlockError", "run_page"]

COLUMNS = 106  # characters of a line of a page
EXPECTED = (None, 0, 1, 3)  # exit codes of commands that did their work
REMARK = re.compile(r"\s+# .*$")
ASKED = re.compile(r"; echo \$\?$")


class BlockError(AssertionError):
    """A block that does not run as its page says."""


def run_page(page: Path, folder: Path) -> Iterator[tuple[Output, str] | Block]:
    """Runs a page; yields each output's place with what was printed, and each picture.

    Args:
        page: The page.
        folder: An empty folder for its files.

    Raises:
        BlockError: A block fails, or prints what the page does not show.
    """
    with _place(folder):
        module = types.ModuleType("handbook_page")
        sys.modules[module.__name__] = module
        for block in blocks(page.read_text(encoding="utf-8")):
            where = f"{page.name}:{block.line + 1}"
            if block.kind == "file":
                path = folder / block.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.code, encoding="utf-8")
                if block.name == "pyproject.toml":
                    _install(folder)
            elif block.kind == "picture":
                yield block
            elif block.kind == "python":
                printed = _run_python(block, module, where)
                if block.output is not None:
                    yield block.output, printed
                elif printed.strip():
                    raise BlockError(f"{where} prints, and no text block follows: {printed[:200]}")
            else:
                for command, output in commands(block):
                    yield output, _run_command(command, where)


def _install(folder: Path) -> None:
    """Declares the entry points of a project in the folder, as `pip install .` does."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    facts = folder / f"{project['name']}-{project['version']}.dist-info"
    facts.mkdir()
    named = f"Name: {project['name']}\nVersion: {project['version']}\n"
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\n{named}")
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (facts / "entry_points.txt").write_text("\n".join(lines) + "\n")
    importlib.invalidate_caches()
    declared.cache_clear()


@contextlib.contextmanager
def _place(folder: Path) -> Iterator[None]:
    """The folder as the working directory, and everything else as it was afterwards."""
    before, modules, path = Path.cwd(), set(sys.modules), list(sys.path)
    own = {"COLUMNS": str(COLUMNS), "CAPCHECK_CACHE": str(folder / ".cache")}
    environment = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    try:
        with torch.random.fork_rng():
            yield
    finally:
        os.chdir(before)
        declared.cache_clear()
        sys.path[:] = path
        for name, value in environment.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        for name in set(sys.modules) - modules:
            file = getattr(sys.modules[name], "__file__", None) or ""
            if file.startswith(str(folder)) or name == "handbook_page":
                del sys.modules[name]


def _run_python(block: Block, module: types.ModuleType, where: str) -> str:
    printed = io.StringIO()
    code = compile("\n" * block.line + block.code, where.split(":")[0], "exec")
    if "import transformers" in block.code or "from transformers" in block.code:
        transformers_library("the handbook")  # also beside a torchvision that cannot be imported
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
            exec(code, module.__dict__)
    except Exception as error:
        raise BlockError(f"{where} raises {type(error).__name__}: {error}") from error
    return printed.getvalue()


def _run_command(line: str, where: str) -> str:
    """What a command prints, errors included, and its exit code where it is asked for."""
    words = shlex.split(REMARK.sub("", ASKED.sub("", line)))
    if words[:1] != ["capcheck"]:
        raise BlockError(f"{where}: only commands of capcheck are executed, not {line!r}")
    printed, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(told):
        code = _exit_code(words[1:])
    errors = [one for one in told.getvalue().split("\n") if one.startswith("error: ")]
    if ASKED.search(line):
        errors.append(str(code or 0))
    elif code not in EXPECTED:
        raise BlockError(f"{where}: {line} exits with {code}: {told.getvalue()[-500:]}")
    return "\n".join([printed.getvalue().rstrip("\n"), *errors]).strip("\n")


def _exit_code(words: list[str]) -> int | str | None:
    session = Session()
    try:
        try:
            code: int | str | None = cli.main(
                words, prog_name="capcheck", standalone_mode=False, obj=session
            )
        except (CapcheckError, ClickException) as error:
            fail(error, session)
    except SystemExit as ended:
        return ended.code
    return code
