from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from capcheck import InputError, survey
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
    command = [sys.executable, "-m", "capcheck", "survey", "--target", "modes:tokens=6,modes=3"]
    command += ["--family", "gpt,maskgit,diffusion", "--samples", "3000", "--out"]
    process = subprocess.Popen(
        [*command, str(tmp_path / "killed")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    lines = tmp_path / "killed" / "cells.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if lines.exists() and len(lines.read_bytes().splitlines()) >= 4:
            break
    assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = [line for line in cells_of(tmp_path / "killed") if line.endswith("}}")]
    for folder in ("killed", "undisturbed"):
        subprocess.run([*command, str(tmp_path / folder)], check=True, capture_output=True)
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
    with pytest.raises(InputError, match="gpt lacks 1 of its 9 cells"):
        Store.open(tmp_path).result()
    assert survey(three, ["gpt"], samples=200, out=tmp_path).to_dict() == whole
    lines = text.splitlines(keepends=True)
    (tmp_path / "cells.jsonl").write_text("".join([*lines[:1], *lines[2:]]))
    assert survey(three, ["gpt"], samples=200, out=tmp_path).to_dict() == whole
    (tmp_path / "cells.jsonl").write_text("[1]\n{}\nnull\n\x00\n" + text)
    assert Store.open(tmp_path).result().to_dict() == whole


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
