from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib.metadata import EntryPoint
from pathlib import Path

import click
import numpy as np
import pytest

from capcheck import survey
from capcheck.cli import progress
from capcheck.cli.app import COMMANDS, cli
from capcheck.cli.progress import live_progress
from capcheck.core.errors import InputError
from capcheck.procedures import registry
from capcheck.runs.options import Progress
from capcheck.targets import from_spec
from capcheck.targets.built_in import BUILT_IN

SMALL = ["--target", "modes:tokens=3", "--samples", "200", "--steps", "1,2"]
FEW = ["--family", "gpt,maskgit,diffusion"]


def test_families_are_listed_and_explained(run) -> None:  # type: ignore[no-untyped-def]
    listed = run("families")
    assert listed.code in (0, None)
    assert all(name in listed.out for name in ("gpt", "maskgit", "diffusion"))
    card = run("families", "maskgit")
    assert "Chang et al. 2022" in card.out
    assert "random, fixed, confidence" in card.out
    assert (
        run("families", "maskgti").err
        == "error: family 'maskgti' is not registered; did you mean 'maskgit'?\n"
    )


@pytest.mark.parametrize("asked", ["--version", "--help", "families"])
def test_a_first_look_does_not_wait_for_torch(asked: str) -> None:
    code = (
        "import sys; from capcheck.cli.app import main; sys.argv = ['capcheck', sys.argv[1]]\n"
        "try: main()\n"
        "finally: print([name for name in ('torch', 'scipy', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, asked], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_help_lists_every_command_with_its_first_line(run) -> None:  # type: ignore[no-untyped-def]
    assert cli.list_commands(click.Context(cli)) == list(COMMANDS)
    for name, summary in COMMANDS.items():
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        assert (command.help or "").splitlines()[0] == summary
    assert all(f"  {name} " in run("--help").out for name in COMMANDS)
    assert run("srvey").code == 2


def test_json_is_all_that_standard_output_holds(run) -> None:  # type: ignore[no-untyped-def]
    found = run("check", "--family", "gpt", *SMALL, "--length", "0,3", "--json")
    result = json.loads(found.out)
    assert found.code == 0
    assert result["outcome"] == "representable"
    assert result["smallest_budget"] == {"length": 3, "steps": 1}
    assert [cell["budget"]["length"] for cell in result["cells"]] == [0, 0, 3, 3]
    assert "[4/4]" in found.err
    surveyed = run("survey", *SMALL, *FEW, "--json")
    names = [found["family"] for found in json.loads(surveyed.out)["families"]]
    assert names == ["gpt", "maskgit", "diffusion"]


def test_exit_codes_tell_the_verdict(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert run("check", "--family", "gpt", *SMALL).code == 0
    assert run("check", "--family", "gpt", *SMALL, "--length", "0").code == 1
    # The law of a Langevin chain has no density, and 200 draws do not resolve transport.
    undecided = ["--family", "ebm", *SMALL[:4]]
    assert run("check", *undecided, "--steps", "64", "--length", "3").code == 3
    two = ["survey", *SMALL, "--family", "gpt,diffusion", "--out", str(tmp_path / "run")]
    assert run(*two).code == 0
    assert run(*two, "--strict").code == 1
    assert run("survey", *SMALL, "--strict", "--family", "gpt").code == 0


def test_options_reach_the_probe(run) -> None:  # type: ignore[no-untyped-def]
    found = run(
        "check", "--family", "maskgit", *SMALL, "--option", "order=fixed",
        "--option", "tokens-per-round=1", "--json",
    )  # fmt: skip
    assert json.loads(found.out)["options"]["order"] == "fixed"
    assert json.loads(found.out)["options"]["tokens_per_round"] == 1
    assert found.code == 0


def test_a_saved_run_can_be_reported_again(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "a run <b>&'\"; $(x)"
    assert run("survey", *SMALL, *FEW, "--out", str(folder)).code == 0
    assert {p.name for p in folder.iterdir()} == {
        "manifest.json",
        "cells.jsonl",
        "report.html",
        "run.log",
        "target.json",
    }
    first = (folder / "report.html").read_text()
    misplaced = run("report", str(folder), "--out", str(tmp_path))
    assert misplaced.code == 2
    assert "it is a folder" in misplaced.err
    (folder / "report.html").unlink()
    told = run("report", str(folder), "--markdown", "-")
    assert not told.code
    assert told.out.startswith("On ")
    assert told.out.endswith("\n")
    assert "report: " not in told.out
    assert not (folder / "report.html").exists()  # which nobody asked for
    summary = tmp_path / "summary.md"
    both = run("report", str(folder), "--markdown", str(summary), "--out", str(tmp_path / "a.html"))
    assert both.out.count("report: ") == 2
    assert summary.read_text() == told.out
    assert (tmp_path / "a.html").read_text() == first
    nowhere = run("report", str(folder), "--markdown", str(summary / "x.md"))
    assert nowhere.code == 2
    assert "cannot be written" in nowhere.err
    assert run("report", str(folder)).code in (0, None)
    assert (folder / "report.html").read_text() == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "--family", "gtp", *SMALL], "did you mean 'gpt'"),
        (["check", "--family", "gpt", *SMALL[:4], "--steps", "0"], "at least 1, got 0"),
        (["check", "--family", "gpt", *SMALL, "--length", "9"], "at most 3, got 9"),
        (["check", "--family", "gpt", *SMALL, "--length", "a"], "whole numbers"),
        (["check", "--family", "gpt", *SMALL, "--tolerance", "kl"], "key=value"),
        (["check", "--family", "gpt", *SMALL, "--tolerance", "kl=x"], "must give numbers"),
        (
            ["check", "--family", "gpt", *SMALL, "--tolerance", "kl=1,kl=2"],
            "twice",
        ),
        (["check", "--family", "gpt", *SMALL, *2 * ["--option", "window=1"]], "twice"),
        (["check", "--family", "gpt", *SMALL, "--divergence", ""], "divergence ''"),
        (["check", "--family", "gpt", *SMALL, "--option", "windw=2"], "did you mean 'window'"),
        (["check", "--family", "gpt", *SMALL, "--data", "digits"], "got both"),
        (["check", "--family", "gpt"], "got neither"),
        (["check", *SMALL], "--family"),
        (["check", "--family", "gpt", *SMALL, "--tokens", "4"], "are for --data"),
        (["check", "--family", "gpt", *SMALL, "--law", "rows"], "are for --data"),
        (["check", "--family", "gpt", *SMALL, "--bandwidth", "0.3"], "are for --data"),
        (["check", "--family", "gpt", *SMALL, "--unit", "bytes"], "are for --data"),
        (["check", "--family", "gpt", "--data", "text", "--kind", "words"], "--kind"),
        (["survey", "--target", "party:4"], "did you mean 'parity'"),
        (["survey", "--target", "parity:0"], "greater than or equal to 1"),
        (["check", "--family", "diffusion", "--target", "parity:4"], "not categorical ones"),
        (["check", "--family", "gpt", "--data", "none.npy"], "does not exist"),
        (["check", "--family", "gpt", "--data", "digits", "--grid", "8"], "ROWSxCOLUMNS"),
        (["check", "--family", "gpt", "--data", "digits", "--tokens", "0"], "--tokens"),
        (["check", "--famly", "gpt"], "--family"),
        (["chek"], "chek"),
        (["report", "nowhere"], "has no manifest.json"),
        (["survey", *SMALL, "--family", "gpt,gtp"], "did you mean 'gpt'"),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_code_two(run, arguments, message) -> None:  # type: ignore[no-untyped-def]
    found = run(*arguments)
    assert found.code == 2
    assert found.out == ""
    assert message in found.err
    assert found.err.startswith("error: ")
    assert found.err.count("\n") == 1
    assert "Traceback" not in found.err


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ("x.txt", ["--pca", "2"], "pca lays out numbers"),
        ("x.txt", ["--token-dim", "2"], "token-dim lays out numbers"),
        ("x.txt", ["--grid", "2x2"], "grid lays out numbers"),
        ("x.txt", ["--kind", "continuous"], "must be categorical, as it is text"),
        ("x.txt", ["--law", "gaussian"], "law 'gaussian' is for continuous tokens"),
        ("x.txt", ["--law", "markov:two"], "must have a whole number as its size, got 'two'"),
        ("x.txt", ["--law", "markov:16"], "16"),
        ("x.txt", ["--bandwidth", "0.3"], "bandwidth smooths the rows of continuous data"),
        ("bad.txt", [], "must be UTF-8 text"),
        ("short.txt", [], "at least 2 distinct rows"),
        ("none.txt", [], "does not exist"),
        ("rows.npy", ["--law", "markov"], "law 'markov' is for categorical tokens"),
        ("rows.npy", ["--law", "norm"], "law 'norm' is unknown"),
        ("rows.npy", ["--law", "gaussian:3"], "has no size, got '3'"),
        (
            "rows.npy",
            ["--law", "mixture:99"],
            "size of the law must be between 1 and 30 for 60 rows, got 99",
        ),
        ("rows.npy", ["--law", "gaussian", "--bandwidth", "1"], "bandwidth smooths the rows"),
        ("rows.npy", ["--bandwidth", "0"], "bandwidth must be positive"),
        ("rows.npy", ["--bandwidth", "nan"], "bandwidth must be positive"),
        ("rows.npy", ["--kind", "categorical"], "not all its numbers are whole"),
        ("rows.npy", ["--unit", "bytes"], "unit lays out text"),
        ("rows.npy", ["--split", "lines"], "split lays out text"),
        ("ids.npy", ["--bandwidth", "0.3"], "bandwidth smooths the rows of continuous data"),
        ("ids.npy", ["--pca", "2"], "pca lays out real numbers"),
        (
            "ids.npy",
            ["--law", "hmm:99"],
            "size of the law must be between 1 and 30 for 60 rows, got 99",
        ),
        ("ids.npy", ["--tokens", "3"], "tokens must be the 4 ids of a row, got 3"),
        ("x.mat", [], "must be a file that ends in"),
        ("folder", [], "must be a folder of images"),
        ("text", ["--unit", "bytes"], "unit lays out a text file"),
    ],
)
def test_data_that_does_not_fit_is_one_sentence_and_exit_code_two(  # type: ignore[no-untyped-def]
    run, tmp_path: Path, rows: np.ndarray, data: str, options: list[str], message: str
) -> None:
    (tmp_path / "x.txt").write_text("the cat sat on the mat. " * 20)
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9")
    (tmp_path / "short.txt").write_text("abc")
    (tmp_path / "x.mat").write_text("x")
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "rows.npy", rows)
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(0, 3, (60, 4)))
    source = data if data == "text" else str(tmp_path / data)
    out = tmp_path / "run"
    arguments = ["--data", source, *options, "--samples", "200", "--out", str(out)]
    found = run("survey", "--family", "gpt", *arguments)
    assert found.code == 2
    assert found.out == ""
    assert message in found.err
    assert found.err.startswith("error: ")
    assert found.err.count("\n") == 1
    assert not out.exists()


def test_the_built_in_targets_are_listed_with_their_parameters(run) -> None:  # type: ignore[no-untyped-def]
    listed = run("targets")
    assert listed.code in (0, None)
    for name in BUILT_IN:
        assert name in listed.out
    for word in ("coupling", "scratch", "0.4", "NAME:value"):
        assert word in listed.out


def test_a_survey_of_tokens_lists_what_is_not_defined_for_them(run) -> None:  # type: ignore[no-untyped-def]
    parity = ["--target", "parity:4", "--samples", "300", *FEW]
    surveyed = run("survey", *parity, "--json")
    assert surveyed.code == 0
    found = {family["family"]: family for family in json.loads(surveyed.out)["families"]}
    assert found["gpt"]["outcome"] == "representable"
    assert found["gpt"]["smallest_budget"] == {"length": 4, "steps": 1}
    assert found["diffusion"]["cells"] == []
    assert not found["diffusion"]["supported"]
    reason = "diffusion is defined for continuous tokens, not categorical ones."
    assert found["diffusion"]["error"] == reason
    shown = run("survey", *parity)
    assert shown.code == 0
    assert "diffusion is defined for continuous tokens" in " ".join(shown.out.split())


def test_a_survey_of_text_says_whose_tokens_they_are(  # type: ignore[no-untyped-def]
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tale.txt").write_text("abab baba abba baab " * 30)
    text = ["--data", "tale.txt", "--tokens", "4", "--samples", "200", "--steps", "1"]
    surveyed = run("survey", *text, "--family", "gpt", "--json")
    assert surveyed.code == 0
    result = json.loads(surveyed.out)
    assert result["target"]["provenance"]["vocabulary"] == [" ", "a", "b"]
    assert result["target"]["provenance"]["exactness"] == "fitted surrogate"
    assert (tmp_path / "runs" / "tale" / "report.html").is_file()
    checked = run("check", "--family", "gpt", *text, "--law", "rows", "--split", "lines", "--json")
    assert checked.code in (0, 1, 3)
    assert json.loads(checked.out)["target"]["provenance"]["source"] == "tale.txt"


def test_a_family_that_cannot_be_loaded_is_one_sentence(run, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    broken = EntryPoint("gpt", "capcheck.probes.length.gpt:Renamed", "capcheck.families")
    monkeypatch.setattr(registry, "declared", lambda group: {"gpt": broken})
    registry.probe_class.cache_clear()
    told = run("check", "--family", "gpt", "--target", "parity:3")
    registry.probe_class.cache_clear()
    assert told.code == 4
    assert "family 'gpt' cannot be loaded from capcheck.probes.length.gpt:Renamed" in told.err
    assert "AttributeError" in told.err
    assert "repair or uninstall it" in told.err


def test_wrong_ways_to_name_a_family_of_ones_own_name_the_right_one(run) -> None:  # type: ignore[no-untyped-def]
    told = run("check", "--family", "my_family:Mine", "--target", "parity:3")
    assert (told.code, "entry point of capcheck.families" in told.err) == (2, True)
    told = run("survey", "--target", "parity:3", "--option", "latent=4")
    assert (told.code, "`capcheck check --family NAME`" in told.err) == (2, True)


def test_a_quick_survey_takes_fewer_draws_and_says_so(  # type: ignore[no-untyped-def]
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    gpt = ["--family", "gpt"]
    asked = ["survey", "--target", "modes:tokens=2", *gpt]
    quick = run(*asked, "--quick", "--json")
    settings = json.loads(quick.out)["settings"]
    assert settings["samples"] == 500
    assert settings["grid"] == {"lengths": [0, 2], "steps": [1, 16]}
    chosen = run(*asked, "--quick", "--samples", "300", "--steps", "1,2")
    assert "quick: 300 draws per cell at lengths 0, 2 and steps 1, 2;" in chosen.out
    usual = run(*asked, "--samples", "300")
    assert "quick" not in usual.out
    # The few steps of a quick fit would tell about themselves, so that none is made unasked.
    flow = ["survey", "--target", "modes:tokens=2", "--family", "flow", "--quick"]
    assert "only oracles measured" in (oracle := run(*flow)).out
    assert "mlp" not in oracle.out
    for more in (["--network", "mlp:width=8,depth=1"], ["--fit-steps", "30"]):
        fitted = run(*flow, *more)
        assert "only oracles measured" not in fitted.out
        assert "mlp" in fitted.out
    # A quick run of some data does not stand in the way of the whole one.
    np.save("x.npy", np.random.default_rng(0).normal(size=(60, 2)))
    data = ["survey", "--data", "x.npy", "--law", "gaussian", *gpt]
    assert run(*data, "--quick").code == 0
    assert run(*data, "--samples", "300").code == 0
    assert sorted(p.name for p in Path("runs").iterdir()) == ["x", "x-quick"]


def test_a_run_can_be_diagnosed_later(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out = ["--family", "gpt", *SMALL, "--length", "0,3", "--out", str(tmp_path / "run")]
    plain = json.loads(run("check", *out, "--json").out)
    later = run("check", *out, "--diagnose", "classifier", "--json")
    assert later.code == 0
    assert "[3/4] gpt" in later.err  # three cells were kept
    diagnosed = json.loads(later.out)
    assert [test["name"] for test in diagnosed["cells"][-1]["diagnoses"]] == ["classifier"]
    assert [cell["estimates"] for cell in diagnosed["cells"]] == [
        cell["estimates"] for cell in plain["cells"]
    ]
    page = tmp_path / "run" / "report.html"
    page.unlink()
    assert run("report", str(tmp_path / "run")).code in (0, None)
    assert "classifier accuracy" in page.read_text()
    other = run("check", *out, "--seed", "1")
    assert other.code == 2  # every other setting still tells two runs apart
    assert "settings.seed" in other.err


def test_an_internal_failure_is_told_and_coded(run, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("capcheck.probes.length.gpt.GPT.run", broken)
    failed = run("check", "--family", "gpt", *SMALL)
    assert failed.code == 4
    assert "ZeroDivisionError: oops" in failed.err
    surveyed = run("survey", *SMALL, *FEW)
    assert surveyed.code == 4
    assert "not measured" in surveyed.out
    assert "diffusion" in surveyed.out


def test_nan_in_the_data_is_refused_from_the_shell(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    np.save(tmp_path / "x.npy", np.array([[1.0, np.nan], [0.0, 1.0]]))
    found = run("survey", "--data", str(tmp_path / "x.npy"))
    assert found.code == 2
    assert "NaN or infinity in 1 of 2 rows" in found.err
    assert found.out == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "--family gpt --option window=99999999999999999999999",
            "gpt.window must be a number",
        ),
        ("--family diffusion --option levels=1/nan/0", "levels must fall"),
        ("--family gpt --samples 99999999999999999999999", "samples must be at most 10000000"),
        ("--family gpt --length a", "--length must be whole numbers"),
        ("--family vae --option latent=1,classes=2", "limit the latent in two ways"),
    ],
)
def test_numbers_that_nothing_could_hold_are_refused(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["check", "--target", "gaussian:tokens=2", *words.split()]
    with pytest.raises(InputError) as caught:
        cli.main(command, standalone_mode=False)
    assert said in str(caught.value)


def test_a_stage_without_a_count_is_named_when_it_lasts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Progress(done=0, total=0, running="reading the target")
    with live_progress() as show:
        show(stage)
    assert capsys.readouterr().err == ""
    for name, seconds in (("PATIENCE", 0.01), ("BEAT", 0.2), ("TICK", 0.01)):
        monkeypatch.setattr(progress, name, seconds)
    with live_progress() as show:
        show(stage)
        lines = lines_within(10.0, 3, capsys)
        show(Progress(done=1, total=2, running="gpt"))
    assert lines[0] == "reading the target"
    assert all(line.startswith("reading the target, ") for line in lines[1:])
    assert capsys.readouterr().err == "[1/2] gpt\n"


@pytest.mark.parametrize(
    ("gained", "seconds", "words"),
    [
        (0.1, 10, ", about 60 s left"),
        (0.1, 90, ", about 9 min left"),
        (0.07, 10, ""),  # too little to tell from
        (0.69, 10, ""),  # what is left is not counted
    ],
)
def test_the_time_left_follows_from_the_share_of_the_work_and_not_from_the_count(
    gained: float,
    seconds: float,
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr("capcheck.cli.progress.time.monotonic", lambda: now)
    with live_progress() as show:
        show(Progress(done=2, total=40, running="gpt", share=0.3))  # from an earlier run
        now += seconds
        show(Progress(done=30, total=40, running="mar", share=0.3 + gained))
    assert capsys.readouterr().err.splitlines()[-1] == f"[30/40] mar{words}"


def lines_within(seconds: float, count: int, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines on standard error, once there are so many."""
    lines: list[str] = []
    deadline = time.monotonic() + seconds
    while len(lines) < count and time.monotonic() < deadline:
        time.sleep(0.01)
        lines += capsys.readouterr().err.splitlines()
    return lines


def test_a_pass_without_kl_is_marked(run) -> None:  # type: ignore[no-untyped-def]
    law = ["--target", "modes:tokens=2,modes=2,gap=2", "--family", "diffusion,gpt"]
    how = ["--network", "none", "--steps", "32", "--divergence", "kl,wasserstein"]
    said = run("survey", *law, *how, "--seconds-per-cell", "1e-9").out  # no time for a density
    (diffusion,) = (line for line in said.splitlines() if line.startswith("  diffusion "))
    (gpt,) = (line for line in said.splitlines() if line.startswith("  gpt "))
    assert "representable °" in diffusion
    assert "°" not in gpt
    assert "° representable without an upper bound on KL" in said


def test_a_console_that_cannot_encode_a_mark_is_no_failure(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "capcheck", "survey", *SMALL, *FEW, "--network", "none"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        command, capture_output=True, env=environment, cwd=tmp_path, check=True, timeout=300
    )
    told = done.stdout.decode("ascii")
    assert "_ within its tolerance to # 100 times" in told
    assert "gpt" in told


def test_verdicts_are_told_as_soon_as_they_are_known(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out = ["--out", str(tmp_path / "run"), "--network", "none"]
    first = run("survey", *SMALL, *FEW, *out).err.splitlines()
    told = [line for line in first if " is representable: " in line or " is not " in line]
    assert [line.split()[0] for line in told][:2] == ["gpt", "maskgit"]
    assert len({line.split()[0] for line in told}) == len(told)
    after = next(place for place, line in enumerate(first) if line.startswith("gpt is"))
    assert any("maskgit, length" in line for line in first[after:])
    again = run("survey", *SMALL, *FEW, *out)
    assert [line for line in again.err.splitlines() if line in told] == told
    assert " is representable: " not in again.out


def test_a_function_of_the_caller_is_told_each_verdict_once() -> None:
    seen: list[Progress] = []
    survey(
        from_spec("modes:tokens=2"), ["gpt", "vae"], samples=200, steps=[1], network="none",
        progress=seen.append,
    )  # fmt: skip
    verdicts = [one.verdict for one in seen if one.verdict]
    assert [verdict.split(":")[0] for verdict in verdicts] == [
        "gpt is representable",
        "vae is representable",
    ]


def test_a_plan_tells_the_cost_of_a_survey_and_keeps_nothing(  # type: ignore[no-untyped-def]
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["plan", "--target", "modes:tokens=2", "--family", "gpt,diffusion", "--samples", "300"]
    found = run(*asked, "--network", "mlp:width=8,depth=1", "--fit-steps", "30", "--json")
    assert not found.code
    families = json.loads(found.out)["families"]
    titles = ["gpt", "gpt, mlp:width=8,depth=1", "diffusion", "diffusion, mlp:width=8,depth=1"]
    assert [one["title"] for one in families] == titles
    assert [one["fit"] > 0 for one in families] == [False, True, False, True]
    told = run(*asked, "--quick")
    assert "64 workers of this machine" in told.out
    assert "not measured" in told.out
    assert list(tmp_path.iterdir()) == []
    refused = run(*asked, "--rows", "1000")
    assert refused.code == 2
    assert "--rows needs data and --law rows" in refused.err
    # Latent classes are a sum as well, but not over the rows.
    np.save("ids.npy", np.random.default_rng(0).integers(3, size=(80, 2)))
    classes = run("plan", "--data", "ids.npy", "--law", "classes:2", "--rows", "1000")
    assert classes.code == 2
    assert run("plan", "--target", "modes:tokens=2", "--family", "gtp").code == 2
