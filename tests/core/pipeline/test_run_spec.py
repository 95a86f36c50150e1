"""A spec is run: expectations, results that are kept, and what a pipeline reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from capcheck import InputError
from capcheck.cli.app import cli
from capcheck.core import memory
from capcheck.pipeline.expectations import met_by_sampler, overall
from capcheck.pipeline.run_spec import SpecRun
from capcheck.pipeline.spec import Expected, read_spec
from capcheck.pipeline.spec_report import CheckReport, FailOn, SpecReport
from capcheck.pipeline.written import as_junit, as_markdown
from capcheck.samplers.findings import Finding, SamplerResult

SPEC = """\
[defaults]
samples = 200
divergences = ["kl"]

[targets.parity]
spec = "parity:4"

[[checks]]
name = "three-tokens-suffice"
target = "parity"
family = "gpt"
length = [2, 3]
steps = [1]
{expect}
"""


def run(tmp_path: Path, expect: str, *, out: str | None = None) -> CheckReport:
    path = tmp_path / "capacity.toml"
    path.write_text(SPEC.format(expect=expect))
    folder = None if out is None else tmp_path / out
    job = SpecRun(read_spec(path), folder=tmp_path, out=folder, run={"device": "cpu"})
    [check] = job.chosen([])
    return job.report(check, lambda progress: None)


@pytest.mark.parametrize(
    ("expect", "status"),
    [
        ("", "passed"),
        ('expect = { outcome = "not_representable" }', "failed"),
        ('expect = { outcome = "inconclusive" }', "failed"),
        ("expect = { length = 3 }", "passed"),
        ("expect = { length = 2 }", "failed"),
        ("expect = { calls = 4 }", "passed"),
        ("expect = { calls = 3 }", "failed"),
        ("expect = { calls = 2 }", "error"),
        ("expect = { at_most = { kl = 0.0 } }", "passed"),
        ("expect = { at_most = { mmd = 0.1 } }", "error"),
        ('family = "gpd"', "error"),
    ],
)
def test_expectations(expect: str, status: str, tmp_path: Path) -> None:
    if expect.startswith("family"):
        path = tmp_path / "capacity.toml"
        path.write_text(SPEC.format(expect="").replace('family = "gpt"', expect))
        job = SpecRun(read_spec(path), folder=tmp_path, out=None, run={"device": "cpu"})
        found = job.report(job.chosen([])[0], lambda progress: None)
    else:
        found = run(tmp_path, expect)
    assert found.status == status, found.reasons
    assert found.reasons


def test_a_second_run_measures_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(tmp_path, "", out="runs")
    monkeypatch.setattr("capcheck.pipeline.run_spec.engine_of_check", None)
    second = run(tmp_path, "expect = { length = 2 }", out="runs")  # judged anew
    assert second.kept
    assert second.survey == first.survey
    assert second.status == "failed"


def test_data_are_found_beside_the_spec_and_known_by_content(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((200, 3)).cumsum(1)
    spec = tmp_path / "capacity.toml"
    spec.write_text(
        '[targets.x]\ndata = "x.npy"\nlaw = "gaussian"\n[[checks]]\nname = "a"\ntarget = "x"\n'
        'family = "gpt"\nlength = [3]\nsteps = [1]\nsamples = 200\ndivergences = ["kl"]\n'
    )
    kept = []
    for factor in (1, 1, 2):
        np.save(tmp_path / "x.npy", factor * rows)
        job = SpecRun(read_spec(spec), folder=tmp_path, out=tmp_path / "r", run={"device": "cpu"})
        kept.append(job.report(job.chosen([])[0], lambda progress: None).kept)
    assert kept == [False, True, False]
    (tmp_path / "x.npy").unlink()
    missing = SpecRun(read_spec(spec), folder=tmp_path, out=tmp_path / "r", run={})
    found = missing.report(missing.chosen([])[0], lambda progress: None)
    assert found.status == "error"
    assert "does not exist" in found.reasons[0]


def test_a_function_that_a_spec_names_runs_only_if_it_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "named_by_a_spec.py").write_text("open('ran', 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "capacity.toml"
    path.write_text(
        SPEC.format(expect='network = "named_by_a_spec:build"')
        + '\n[[checks]]\nname = "s"\nsampler = "named_by_a_spec:sampler"\n'
    )
    job = SpecRun(read_spec(path), folder=tmp_path, out=None, run={})
    for check in job.chosen([]):
        found = job.report(check, lambda progress: None)
        assert found.status == "error"
        assert "--allow named_by_a_spec:" in found.reasons[0]
    assert not (tmp_path / "ran").exists()
    names = ["named_by_a_spec:build", "named_by_a_spec:sampler"]
    job = SpecRun(read_spec(path), folder=tmp_path, out=None, run={}, allowed=names)
    for check in job.chosen([]):
        assert "must name a function" in job.report(check, lambda progress: None).reasons[0]
    assert (tmp_path / "ran").exists()


def finding(kind: Any, confirmed: bool | None) -> Finding:
    return Finding(kind=kind, sentence="so", steps=(1,), confirmed=confirmed)


@pytest.mark.parametrize(
    ("findings", "allowed", "status"),
    [
        ([], (), "passed"),
        ([("prior_mismatch", True)], (), "failed"),
        ([("prior_mismatch", None)], (), "failed"),
        ([("prior_mismatch", False)], (), "undecided"),
        ([("prior_mismatch", True)], ("prior_mismatch",), "passed"),
        ([("prior_mismatch", True), ("raises", True)], ("prior_mismatch",), "failed"),
    ],
)
def test_findings_about_a_sampler(
    findings: list[Any], allowed: tuple[str, ...], status: str
) -> None:
    result = SamplerResult(
        name="s",
        config={},
        versions={},
        findings=tuple(finding(*one) for one in findings),
        cells=(),
        seed=0,
    )
    assert overall(met_by_sampler(Expected(findings=allowed), result)) == status


def report(*statuses: Any) -> SpecReport:
    checks = tuple(
        CheckReport(name=f"a|b<{i}>", subject="x\0y & z", status=status, reasons=("r_1 *so*",))
        for i, status in enumerate(statuses)
    )
    return SpecReport(spec="capacity.toml", checks=checks)


@pytest.mark.parametrize(
    ("statuses", "fail_on", "code"),
    [
        (["passed"], "both", 0),
        (["passed", "failed", "undecided"], "both", 1),
        (["passed", "undecided"], "both", 3),
        (["failed", "error"], "both", 2),
        (["undecided"], "not_representable", 0),
        (["failed"], "inconclusive", 0),
    ],
)
def test_exit_codes(statuses: list[str], fail_on: Any, code: int) -> None:
    both: list[FailOn] = ["not_representable", "inconclusive"]
    assert report(*statuses).exit_code(both if fail_on == "both" else [fail_on]) == code


def test_junit_can_be_read_whatever_the_names() -> None:
    root = ElementTree.fromstring(as_junit(report("passed", "failed", "undecided", "error")))
    suite = root.find("testsuite")
    assert suite is not None
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "4", "failures": "1", "errors": "1", "skipped": "1"}
    tags = [[child.tag for child in case] for case in suite]
    assert tags == [["system-out"], ["failure"], ["skipped"], ["error"]]
    assert suite[0].get("name") == "a|b<0>"


def test_a_markdown_table_keeps_its_columns() -> None:
    lines = as_markdown(report("passed", "failed")).splitlines()
    assert lines[0] == "### capcheck: 1 of 2 checks pass"
    rows = [line for line in lines if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {6}
    assert "**a\\|b\\<1\\>**: r\\_1 \\*so\\*" in lines


def test_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("capacity.toml").write_text(SPEC.format(expect="expect = { length = 2 }"))
    with pytest.raises(SystemExit) as caught:
        cli.main(["run", "--json", "--workers", "1"], standalone_mode=False)
    assert caught.value.code == 1
    [check] = json.loads(capsys.readouterr().out)["checks"]
    assert check["status"] == "failed"
    assert check["result"]["outcome"] == "representable"
    cli.main(["plan", "capacity.toml", "--json", "--workers", "1"], standalone_mode=False)
    costs = json.loads(capsys.readouterr().out)
    assert costs["three-tokens-suffice"]["families"][0]["runs"] >= 1
    with monkeypatch.context() as patch:
        patch.setattr(memory, "available_memory", lambda: 2e7)  # less than Python and torch take
        refused = (
            r"one worker of this run takes about \S+ .iB of memory, of which 19.1 MiB are free"
        )
        with pytest.raises(InputError, match=refused):
            cli.main(["plan", "capacity.toml", "--workers", "1"], standalone_mode=False)
    assert "memory" in capsys.readouterr().out
    cli.main(["show", check["run"]], standalone_mode=False)
    assert "gpt is representable" in capsys.readouterr().out
