"""Arguments, data files, specs and saved runs that are damaged at random: one clean sentence each.

The 2,000 cases are the same ones every time. CAPCHECK_FUZZ=10 tries ten times as many, and others
each time.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from capcheck import InputError, check
from capcheck.cli import app
from capcheck.data import Layout, load_target
from capcheck.pipeline.spec import read_spec
from capcheck.targets import from_spec

TIMES = int(os.environ.get("CAPCHECK_FUZZ", "1"))
LONGEST = 20.0  # seconds of a case
QUIET: Any = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}
QUIET["derandomize"] = TIMES == 1
QUIET["phases"] = [Phase.explicit, Phase.generate]  # a case found by a slow command shrinks slowly


@contextlib.contextmanager
def prompt() -> Iterator[None]:
    """Fail if what is done inside takes too long."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < LONGEST


def command(*arguments: str) -> tuple[object, str]:
    """Exit code and standard error of a command, made in an empty folder that stays empty."""
    out, err, before = io.StringIO(), io.StringIO(), os.getcwd()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["capcheck", *arguments])
        patch.setattr(app, "limit_memory", lambda: None)  # of the whole process
        os.chdir(folder)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), prompt():
                app.main()
        except SystemExit as ended:
            code = ended.code or 0
        finally:
            os.chdir(before)
        assert os.listdir(folder) in ([], ["runs"] if arguments[0] == "survey" else [])
    return code, err.getvalue()


def require_clean(code: object, err: str) -> None:
    """Require an exit code of its own, and one sentence where a command was refused."""
    assert code in (0, 1, 2, 3), err
    assert "Traceback" not in err
    assert "internal failure" not in err
    said = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(said) == (1 if code == 2 else 0), err
    if said:
        assert len(said[0]) > len("error: ")


# Arguments

HOSTILE = ["", " ", "-1", "0", "1e400", "nan", "-inf", "1,,2", "9" * 40, "١٢", "a", "kl=", "=1"]
HOSTILE += ["8x", "0x0", "none", "auto", "../x", "💥", "\udcff", "x" * 5000, "[red]", "%s", "{}"]
FIT = {
    "--target": ["gaussian:tokens=2", "modes:tokens=2", "copy:tokens=2,symbols=2", "parity:3"],
    "--family": ["gpt", "vae", "diffusion", "maskgit"],
    "--length": ["0", "1,2", "2"],
    "--steps": ["1", "1,2"],
    "--given": ["0", "1", "0,1"],
    "--divergence": ["kl", "mmd", "kl,mmd,wasserstein", "tv"],
    "--tolerance": ["kl=0.1", "mmd=0.004", "kl=0.1,mmd=1"],
    "--samples": ["200", "300", "7"],
    "--looks": ["1", "2"],
    "--level": ["0.9", "0.5", "1"],
    "--option": ["window=1", "order=random", "sampler=heun"],
    "--network": ["mlp:width=4,depth=1", "none", "mlp:width=x"],
    "--fit-steps": ["1", "5"],
    "--seconds-per-run": ["1", "100"],
    "--precision": ["bfloat16", "float32"],
    "--sensitivity": ["0.1"],
    "--diagnose": ["classifier", "stein"],
    "--data": ["/dev/null", "/nonexistent.npy", "/", "text"],
}
UNTOUCHED = {"--debug", "--workers", "--out", "--start-only", "--help", "--bandwidth", "--device"}


def options_of(name: str) -> list[click.Option]:
    """Options of a command that are drawn; those of later versions are among them."""
    made = app.cli.get_command(click.Context(app.cli), name)
    assert made is not None
    options = [one for one in made.params if isinstance(one, click.Option)]
    return [one for one in options if not UNTOUCHED & set(one.opts)]


@st.composite
def arguments(draw: st.DrawFn) -> list[str]:
    """A command with some options, most of which would be right."""
    name = draw(st.sampled_from(["check", "survey", "plan"]))
    held = {"--samples": "200", "--steps": "1", "--target": draw(st.sampled_from(FIT["--target"]))}
    held["--family"] = draw(st.sampled_from(FIT["--family"]))
    words = []
    chosen = draw(st.lists(st.sampled_from(options_of(name)), max_size=4, unique_by=id))
    for option in chosen:
        flag = option.opts[0]
        if option.is_flag:
            words.append(flag)
            continue
        fit = FIT.get(flag, ["1"])
        value = draw(st.sampled_from(fit) if draw(st.booleans()) else st.sampled_from(HOSTILE))
        held.pop(flag, None)
        words += [f"{flag}={value}" if draw(st.booleans()) else flag, value][: 1 + ("=" in flag)]
        if not words[-1].startswith(f"{flag}="):
            words.append(value)
    if "--data" in " ".join(words):
        held.pop("--target", None)
    words += [word for pair in held.items() for word in pair]
    return [name, *draw(st.permutations(words) if draw(st.integers(0, 9)) == 0 else st.just(words))]


@settings(max_examples=250 * TIMES, **QUIET)
@given(arguments())
def test_any_arguments_end_in_a_result_or_one_sentence(words: list[str]) -> None:
    require_clean(*command(*words, "--workers", "1"))


NAMED = ["show", "report", "compare", "work", "run", "plan", "init", "sampler", "families"]


@pytest.mark.parametrize("name", NAMED)
def test_any_name_of_a_file_is_found_or_one_sentence(name: str) -> None:
    for hostile in HOSTILE:
        require_clean(*command(name, hostile, *([hostile] if name == "compare" else [])))


# Bytes


@st.composite
def damage(draw: st.DrawFn) -> Any:
    """A function of bytes that changes, cuts, repeats or adds some."""
    kinds = st.sampled_from(["set", "cut", "drop", "repeat", "add", "swap"])
    places = st.floats(0, 1, exclude_max=True)
    changes = draw(st.lists(st.tuples(kinds, places, places, st.binary(max_size=8)), max_size=4))

    def damaged(whole: bytes) -> bytes:
        for kind, first, second, new in changes:
            at, length = int(first * len(whole)), 1 + int(second * min(64, len(whole)))
            head, part, tail = whole[:at], whole[at : at + length], whole[at + length :]
            whole = {
                "set": head + new[:length].ljust(len(part), b"\xff") + tail,
                "cut": head,
                "drop": head + tail,
                "repeat": head + part * 3 + tail,
                "add": head + new + part + tail,
                "swap": tail + part + head,
            }[kind]
        return whole

    return damaged


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A small file of every format."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    x, ids = rng.normal(size=(12, 3)), rng.integers(0, 4, size=(12, 3))
    np.save(folder / "x.npy", x)
    np.save(folder / "ids.npy", ids)
    np.savez(folder / "x.npz", a=x)
    np.savetxt(folder / "x.csv", x, delimiter=",")
    torch.save(torch.from_numpy(x), folder / "x.pt")
    save_file({"x": torch.from_numpy(x)}, folder / "x.safetensors")
    (folder / "x.txt").write_text("the cat sat on the mat, and the dog sat on the cat\n" * 3)
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"a": x[:, 0], "b": x[:, 1]}), folder / "x.parquet")
    Image.fromarray(rng.integers(0, 255, (3, 3), dtype=np.uint8)).save(folder / "x.png")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


NAMES = st.sampled_from(["ids.npy", "x.csv", "x.npy", "x.npz", "x.parquet", "x.png", "x.pt"])
LAYOUTS = st.sampled_from(
    [{}, {}, {"tokens": 1}, {"tokens": 3}, {"pca": 2}, {"kind": "categorical"}, {"grid": (1, 3)}]
)
LAWS = st.sampled_from(["auto", "rows", "gaussian", "markov", "diagonal:2", "hmm:2", "classes:2"])


@settings(max_examples=1200 * TIMES, **QUIET)
@given(
    name=NAMES | st.sampled_from(["x.txt", "x.safetensors"]),
    damaged=damage(),
    like=NAMES,
    layout=LAYOUTS,
    law=LAWS,
    disguised=st.integers(0, 9),
)
def test_any_file_is_a_target_or_one_sentence(
    files: dict[str, bytes],
    name: str,
    damaged: Any,
    like: str,
    layout: dict[str, Any],
    law: str,
    disguised: int,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("x" + Path(like if disguised == 0 else name).suffix)
        path.write_bytes(damaged(files[name]))
        if path.suffix == ".png":
            path.with_name("y.png").write_bytes(files["x.png"])
        source = folder if path.suffix == ".png" else str(path)
        with prompt(), contextlib.suppress(InputError):
            load_target(source, Layout(**layout), law=law)


SPEC = b"""[defaults]
samples = 400
tolerance = { kl = 0.02 }
[targets.parity]
spec = "parity:6"
[[checks]]
name = "left-to-right"
target = "parity"
family = "gpt"
steps = [1]
options = { window = 2 }
[checks.expect]
outcome = "not_representable"
"""


@settings(max_examples=400 * TIMES, **QUIET)
@given(damaged=damage())
def test_any_bytes_are_a_spec_or_one_sentence(damaged: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "capacity.toml"
        path.write_bytes(damaged(SPEC))
        with prompt(), contextlib.suppress(InputError):
            read_spec(path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run."""
    folder = tmp_path_factory.mktemp("saved") / "run"
    how: Any = {"lengths": [0, 2], "steps": [1], "samples": 200, "out": folder}
    check("gpt", from_spec("gaussian:tokens=2"), **how)
    return folder


@settings(max_examples=150 * TIMES, **QUIET)
@given(data=st.data(), damaged=damage(), name=st.sampled_from(["show", "report", "compare"]))
def test_any_saved_run_is_shown_or_one_sentence(
    saved: Path, data: st.DataObject, damaged: Any, name: str
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        shutil.copytree(saved, folder)
        path = data.draw(st.sampled_from(sorted(one for one in folder.iterdir() if one.is_file())))
        path.write_bytes(damaged(path.read_bytes()))
        before = sorted(one.name for one in folder.iterdir())
        both = [str(folder), str(saved)] if name == "compare" else [str(folder)]
        code, err = command(name, *both)
        require_clean(code, err)
        assert sorted(one.name for one in folder.iterdir()) in (
            before,
            sorted([*before, "report.html"]),
        )
