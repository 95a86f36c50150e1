from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from capcheck import InputError, check, report, save, survey
from capcheck.cli.app import cli
from capcheck.core.version import __version__
from capcheck.probes.length.gpt import GPT
from capcheck.results.measurement import Outcome
from capcheck.results.survey import SurveyResult
from capcheck.runs.manifest import read_manifest
from capcheck.runs.planning import engine_of_survey
from capcheck.runs.store import Store
from capcheck.runs.sweep import Sweep
from capcheck.targets import ProductMixture, from_spec


def cells_of(folder: Path) -> list[str]:
    return (folder / "cells.jsonl").read_text().splitlines()


def test_a_run_resumes_without_computing_a_finished_cell_again(
    three: ProductMixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = survey(
        three, ["gpt", "maskgit", "diffusion"], samples=200, steps=[1, 2]
    ).to_dict()
    measured = Sweep.measure
    count = 0

    def measure(self, budgets):  # type: ignore[no-untyped-def]
        nonlocal count
        for cell in measured(self, budgets):
            count += 1
            if count == 8:
                raise KeyboardInterrupt
            yield cell

    monkeypatch.setattr(Sweep, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        survey(three, ["gpt", "maskgit", "diffusion"], samples=200, steps=[1, 2], out=tmp_path)
    assert len(cells_of(tmp_path)) == 7
    resumed = survey(
        three, ["gpt", "maskgit", "diffusion"], samples=200, steps=[1, 2], out=tmp_path
    ).to_dict()
    of_causes = sum(len(family["causes"]) for family in undisturbed["families"])
    assert of_causes > 0
    assert count - 8 == 3 * 6 - 7 + of_causes
    assert resumed == undisturbed
    assert Store.open(tmp_path).result().to_dict() == undisturbed
    again = survey(
        three, ["gpt", "maskgit", "diffusion"], samples=200, steps=[1, 2], out=tmp_path
    ).to_dict()
    assert (again, count - 8) == (undisturbed, 3 * 6 - 7 + of_causes)


@pytest.mark.slow
def test_a_killed_survey_continues_where_it_was(tmp_path: Path) -> None:
    command = ["survey", "--target", "modes:tokens=6,modes=3"]
    command += ["--family", "gpt,maskgit,diffusion", "--samples", "800", "--out"]
    process = subprocess.Popen(
        [sys.executable, "-m", "capcheck", *command, str(tmp_path / "killed")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"CAPCHECK_WORKERS": "1"},
    )
    lines = tmp_path / "killed" / "cells.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if lines.exists() and len(lines.read_bytes().splitlines()) >= 4:
            break
        time.sleep(0.02)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = [line for line in cells_of(tmp_path / "killed") if line.endswith("}}")]
    for folder in ("killed", "undisturbed"):
        with pytest.raises(SystemExit, match="0"):
            cli.main([*command, str(tmp_path / folder)], standalone_mode=False)
    after = cells_of(tmp_path / "killed")
    assert after[: len(before)] == before
    keys = [json.loads(line)["key"] for line in after if line.endswith("}}")]
    runs = [Store.open(tmp_path / folder).result() for folder in ("killed", "undisturbed")]
    of_causes = sum(len(family.causes) for family in runs[0].families)
    assert len(keys) == len(set(keys)) == 27 + of_causes
    assert runs[0].to_dict() == runs[1].to_dict()


def test_a_torn_line_is_measured_again(three: ProductMixture, tmp_path: Path) -> None:
    whole = survey(three, ["gpt"], samples=200, out=tmp_path).to_dict()
    text = (tmp_path / "cells.jsonl").read_text()
    (tmp_path / "cells.jsonl").write_text(text[:-500])
    (gpt,) = Store.open(tmp_path).result().families
    assert gpt.error == "gpt lacks 1 of its 9 cells; run the command again."
    assert survey(three, ["gpt"], samples=200, out=tmp_path).to_dict() == whole
    lines = text.splitlines(keepends=True)
    (tmp_path / "cells.jsonl").write_text("".join([*lines[:1], *lines[2:]]))
    assert survey(three, ["gpt"], samples=200, out=tmp_path).to_dict() == whole
    (tmp_path / "cells.jsonl").write_text("[1]\n{}\nnull\n\x00\n" + text)
    assert Store.open(tmp_path).result().to_dict() == whole


def test_finished_cells_of_a_family_that_lacks_some_have_no_verdicts(
    three: ProductMixture, tmp_path: Path
) -> None:
    whole = survey(three, ["gpt", "maskgit"], samples=200, steps=[1], out=tmp_path)
    lines = (tmp_path / "cells.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "cells.jsonl").write_text(lines[0])
    found = Store.open(tmp_path).result()
    gpt, maskgit = found.families
    (cell,) = gpt.cells
    assert (cell.outcome, gpt.outcome) == (Outcome.INCONCLUSIVE, Outcome.INCONCLUSIVE)
    assert cell.estimates == whole.families[0].cell(cell.budget).estimates
    assert gpt.error == "gpt lacks 2 of its 3 cells; run the command again."
    assert maskgit.cells == ()
    assert "gpt lacks 2 of its 3 cells" in report(found, tmp_path / "report.html").read_text()


def test_a_run_without_a_finished_cell_has_no_result(three: ProductMixture, tmp_path: Path) -> None:
    engine_of_survey(three, ["gpt"], samples=200, out=tmp_path).start()
    with pytest.raises(InputError, match="has no finished cell: gpt lacks 9 of its 9 cells"):
        Store.open(tmp_path).result()


def test_a_family_that_failed_does_not_hide_the_others(
    three: ProductMixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("capcheck.probes.length.maskgit.MaskGIT.run", broken)
    survey(three, ["gpt", "maskgit"], samples=200, out=tmp_path)
    gpt, maskgit = Store.open(tmp_path).result().families
    assert gpt.cells
    assert gpt.error is None
    assert maskgit.error == "maskgit lacks 9 of its 9 cells; run the command again."


def test_a_folder_keeps_one_run(three: ProductMixture, tmp_path: Path) -> None:
    survey(three, ["gpt"], samples=200, out=tmp_path)
    with pytest.raises(InputError, match=r"its settings\.seed is 0, and now 1"):
        survey(three, ["gpt"], samples=200, seed=1, out=tmp_path)
    with pytest.raises(InputError, match="it measures only gpt, and now maskgit was asked for"):
        survey(three, ["gpt", "maskgit"], samples=200, out=tmp_path)
    survey(three, ["gpt", "maskgit"], samples=200, out=tmp_path / "two")
    with pytest.raises(InputError, match="it measures maskgit, and now only gpt was asked for"):
        survey(three, ["gpt"], samples=200, out=tmp_path / "two")
    with pytest.raises(InputError, match=r"target\.fingerprint"):
        survey(from_spec("gaussian:tokens=3"), ["gpt"], samples=200, out=tmp_path)
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / ".manifest.json.7.partial").write_text('{"half')
    survey(three, ["gpt"], samples=200, out=tmp_path / "killed")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        survey(three, ["gpt"], samples=200, out=tmp_path / "other")
    with pytest.raises(InputError, match="can be written"):
        survey(three, ["gpt"], samples=200, out=tmp_path / "other" / "notes.txt" / "run")


def test_damaged_manifests_are_refused(three: ProductMixture, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no manifest\.json"):
        Store.open(tmp_path)
    survey(three, ["gpt"], samples=200, out=tmp_path)
    path = tmp_path / "manifest.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"schema_version": 99}))
    with pytest.raises(InputError, match="schema version 99"):
        Store.open(tmp_path)
    path.write_text(json.dumps({k: v for k, v in facts.items() if k != "target"}))
    with pytest.raises(InputError, match="damaged"):
        Store.open(tmp_path)
    path.write_text(path.read_text()[:100])
    with pytest.raises(InputError, match="damaged"):
        Store.open(tmp_path)


# What is written


def refuse(constant: str) -> Any:
    raise AssertionError(f"{constant} is no JSON")


def assert_json(text: str) -> Any:
    return json.loads(text, parse_constant=refuse)


def test_infinite_and_broken_numbers_are_written_as_json(
    three: ProductMixture, tmp_path: Path
) -> None:
    def network(x: Tensor, levels: Tensor) -> Tensor:
        return torch.full_like(x, float("inf")) if len(x) > 100 else x  # no check sees it

    result = check(
        "diffusion", three, network=network, samples=200, steps=[1, 2], diagnose=["stein"]
    ).survey
    save(result, tmp_path / "run")
    lines = [assert_json(line) for line in cells_of(tmp_path / "run")]
    texts = json.dumps(lines)
    assert '"Infinity"' in texts  # one step of the oracle: KL; the network's draws: W2
    assert_json((tmp_path / "run" / "manifest.json").read_text())
    assert_json(json.dumps(result.to_dict(), allow_nan=False))
    again = Store.open(tmp_path / "run").result()
    assert again.to_dict() == result.to_dict()
    infinite = again.families[1].cells[0].estimates["wasserstein"]
    assert infinite.value == float("inf")
    assert infinite.terms[0].value == float("inf")
    with pytest.raises(AssertionError, match="Infinity is no JSON"):
        assert_json(json.dumps({"value": float("inf")}))


# The code that measured


def measured(three: ProductMixture, folder: Path) -> SurveyResult:
    return survey(three, ["gpt", "maskgit"], samples=200, steps=[1], out=folder)


def test_results_say_what_code_measured_and_which_version_judged(
    three: ProductMixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("capcheck.runs.candidates.code_digest", lambda: "0" * 64)
    result = measured(three, tmp_path)
    by = result.measured_by
    assert (by.version, by.code, set(by.families)) == (__version__, "0" * 64, {"gpt", "maskgit"})
    assert by.families["gpt"] != by.families["maskgit"]
    assert result.judged_by == __version__
    assert result.to_dict()["measured_by"]["code"] == "0" * 64
    assert read_manifest(tmp_path).measured_by == by
    # A later capcheck judges anew, and does not claim to have measured.
    monkeypatch.setattr("capcheck.runs.assembly.__version__", "99")
    again = Store.open(tmp_path).result()
    assert (again.measured_by, again.judged_by) == (by, "99")


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The families whose cells are measured from now on, one entry a cell."""
    found: list[str] = []
    original = Sweep.measure

    def measure(self: Sweep, budgets: Any) -> Iterator[Any]:
        for cell in original(self, budgets):
            found.append(self._probe.family)
            yield cell

    monkeypatch.setattr(Sweep, "measure", measure)
    return found


def test_cells_of_other_code_are_measured_again(
    three: ProductMixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = measured(three, tmp_path)
    cells = counted(monkeypatch)
    measured(three, tmp_path)
    assert cells == []
    before = cells_of(tmp_path)
    monkeypatch.setattr("capcheck.runs.candidates.code_digest", lambda: "other")
    second = measured(three, tmp_path)
    of_causes = sum(len(found.causes) for found in second.families)
    assert len(cells) == 2 * 3 + of_causes
    assert cells_of(tmp_path)[: len(before)] == before  # what is written stays
    assert len(cells_of(tmp_path)) == len(before) + len(cells)
    assert second.measured_by.code == "other"
    assert [found.cells for found in second.families] == [found.cells for found in first.families]
    assert Store.open(tmp_path).result().measured_by.code == "other"


def test_only_the_family_whose_code_changed_is_measured_again(
    three: ProductMixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = {"GPT": "g", "MaskGIT": "m"}
    monkeypatch.setattr("capcheck.runs.candidates.class_digest", lambda cls: digests[cls.__name__])
    measured(three, tmp_path)
    cells = counted(monkeypatch)
    measured(three, tmp_path)
    assert cells == []
    digests["GPT"] = "changed"
    measured(three, tmp_path)
    assert set(cells) == {"gpt"}


# A family that is not there any more


class Departed(GPT):
    """A family of a session that is over."""

    family: ClassVar[str] = "departed"


def test_a_run_of_a_family_that_is_not_registered_is_read_and_reported(
    three: ProductMixture, tmp_path: Path
) -> None:
    probe = Departed(window=1)
    result = survey(three, ["gpt", probe], samples=200, steps=[1], out=tmp_path / "run")
    (entry,) = [e for e in read_manifest(tmp_path / "run").families if e.plan.family == "departed"]
    assert (entry.row, entry.in_paper, entry.plan.options["window"]) == ("length", True, 1)
    assert len(entry.suspects) == 1  # the window
    read = Store.open(tmp_path / "run").result()
    assert read.to_dict() == result.to_dict()
    departed = read.families[1]
    assert departed.family == "departed"
    assert departed.error is None
    assert departed.causes  # its suspects are read, too
    saved = save(read, tmp_path / "saved")
    assert Store.open(saved).result().to_dict() == result.to_dict()
    assert "departed" in report(read, tmp_path / "report.html").read_text()


@pytest.mark.parametrize("name", ["a\0b", "deep/er\0/run"])
def test_a_folder_with_a_nul_is_the_callers_mistake(
    three: ProductMixture, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / name
    with pytest.raises(InputError, match=r"out must be a folder .* holds a NUL character"):
        survey(three, ["gpt"], samples=200, steps=[1], out=folder)
    result = survey(three, ["gpt"], samples=200, steps=[1])
    with pytest.raises(InputError, match="holds a NUL character"):
        save(result, folder)
    with pytest.raises(InputError, match="holds a NUL character"):
        report(result, folder)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [None, 3, "x", {}, []])
def test_what_is_no_result_cannot_be_saved(wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="result must be what check or survey returned"):
        save(wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()
