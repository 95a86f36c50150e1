"""What a run stores for reports: rows of the data, marks of tokens, and what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from capcheck import save, survey
from capcheck.core.errors import ProbeError
from capcheck.core.randomness import CounterRandomness
from capcheck.data import Layout, load_target
from capcheck.diagnostics.improbable import improbable_tokens
from capcheck.results.survey import SurveyResult
from capcheck.runs.store import Store
from capcheck.runs.sweep import Sweep
from capcheck.targets import ProductMixture, from_spec
from capcheck.targets.target import Target

HOW: dict[str, Any] = {"samples": 200, "steps": [1, 2]}
FAMILIES = ["gpt", "maskgit"]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    """A chain of token ids, fitted to rows that were drawn from one."""
    move = np.array([[0.9, 0.1, 0.0], [0.0, 0.9, 0.1], [0.1, 0.0, 0.9]])
    rng = np.random.default_rng(5)
    x = np.zeros((300, 6), dtype=np.int64)
    for i in range(1, 6):
        x[:, i] = [rng.choice(3, p=move[v]) for v in x[:, i - 1]]
    path = tmp_path_factory.mktemp("data") / "<script>.npy"
    np.save(path, x)
    return load_target(str(path), Layout(), law="markov:1")


@pytest.fixture(scope="module")
def run(target: Target, tmp_path_factory: pytest.TempPathFactory) -> tuple[SurveyResult, Path]:
    folder = tmp_path_factory.mktemp("runs") / "run"
    return survey(target, FAMILIES, out=folder, **HOW), folder


def without_new_fields(folder: Path, old: Path) -> None:
    """Copy a run as an earlier version would have saved it."""
    old.mkdir()
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["command"]
    del manifest["target"]["provenance"]["data_rows"]
    del manifest["target"]["provenance"]["held_out"]["candidates"]
    (old / "manifest.json").write_text(json.dumps(manifest))
    lines = [json.loads(line) for line in (folder / "cells.jsonl").read_text().splitlines()]
    for line in lines:
        if "cell" in line:
            del line["cell"]["improbable"]
    (old / "cells.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_run_has_what_a_report_shows(run: tuple[SurveyResult, Path], target: Target) -> None:
    found = Store.open(run[1]).result()
    provenance = found.target.provenance
    assert provenance.data_rows == target.provenance.data_rows
    assert np.shape(provenance.data_rows) == (60, 6)  # the held-out fifth
    assert provenance.held_out is not None
    assert [one.name for one in provenance.held_out.candidates] == [
        "independent tokens",
        "markov:1",
    ]
    for family in found.families:
        for cell in family.cells:
            shown = torch.tensor(cell.examples)
            assert cell.improbable == improbable_tokens(target, shown)
            assert len(cell.improbable or ()) == len(shown)
    one_step = found.families[1].cells[-2]  # all tokens at once, from their marginals
    assert any(one_step.improbable or ())
    exact = found.families[0].cells[-1]  # token by token
    share = sum(map(len, exact.improbable or ())) / np.size(exact.examples)
    assert share < 0.01
    assert found.missing == {}


def test_the_result_schema_is_as_it_was_but_for_the_scores(
    run: tuple[SurveyResult, Path],
) -> None:
    text = json.dumps(run[0].to_dict())
    for name in ("data_rows", "improbable", "missing", "command", "examples"):
        assert f'"{name}"' not in text
    assert '"candidates"' in text
    assert SurveyResult.model_validate_json(run[0].model_dump_json()) == run[0]


def test_an_old_run_opens_and_is_continued_without_measuring_anything(
    run: tuple[SurveyResult, Path],
    target: Target,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, folder = run
    old = tmp_path / "old"
    without_new_fields(folder, old)
    found = Store.open(old).result()
    assert found.command is None
    assert found.target.provenance.data_rows == ()
    assert found.target.provenance.held_out is not None
    assert found.target.provenance.held_out.candidates == ()
    assert {cell.improbable for one in found.families for cell in one.cells} == {None}
    assert [one.outcome for one in found.families] == [one.outcome for one in whole.families]
    save(found, tmp_path / "saved")
    assert Store.open(tmp_path / "saved").result().model_dump_json() == found.model_dump_json()

    def nothing(*_: object) -> None:
        raise AssertionError("a cell is measured again")

    monkeypatch.setattr(Sweep, "measure", nothing)
    assert survey(target, FAMILIES, out=old, **HOW).to_dict() == whole.to_dict()
    assert Store.open(old).result().target == whole.target  # what reports show is added


def test_a_saved_result_keeps_all_of_it(run: tuple[SurveyResult, Path], tmp_path: Path) -> None:
    save(run[0], tmp_path / "saved")
    assert Store.open(tmp_path / "saved").result() == Store.open(run[1]).result()


def test_rows_and_names_of_laws_are_no_part_of_a_fingerprint(target: Target) -> None:
    bare = target.with_provenance(data_rows=(), held_out=None)
    assert bare.fingerprint == target.fingerprint


def test_the_missing_cells_of_a_killed_run_are_counted_by_family(
    three: ProductMixture, tmp_path: Path
) -> None:
    survey(three, FAMILIES, out=tmp_path, **HOW)
    lines = (tmp_path / "cells.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "cells.jsonl").write_text("".join(lines[:4]))
    found = Store.open(tmp_path).result()
    assert found.missing == {"gpt": 2, "maskgit": 6}
    assert [len(one.cells) for one in found.families] == [4, 0]


def test_cells_of_a_further_look_count_as_missing(tmp_path: Path) -> None:
    target = from_spec("modes:tokens=2")
    how: dict[str, Any] = {"samples": 200, "steps": [1], "lengths": [2], "divergences": "mmd"}
    # A tolerance at which 200 draws leave the family undecided, and more may decide it.
    whole = survey(target, ["gpt"], tolerance={"mmd": 0.03}, looks=3, out=tmp_path, **how)
    last = whole.families[0].cells[0].samples
    assert last > 200
    assert whole.missing == Store.open(tmp_path).result().missing == {}
    lines = (tmp_path / "cells.jsonl").read_text().splitlines(keepends=True)
    killed = [line for line in lines if f'"samples": {last}' not in line]
    (tmp_path / "cells.jsonl").write_text("".join(killed))
    found = Store.open(tmp_path).result()
    assert found.families[0].cells[0].samples == 200
    assert found.missing == {"gpt": 1}


def test_a_family_that_failed_or_is_not_defined(
    three: ProductMixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ProbeError("maskgit broke its contract.")

    monkeypatch.setattr("capcheck.probes.length.maskgit.MaskGIT.run", broken)
    assert survey(three, FAMILIES, **HOW).missing == {"maskgit": 6}
    ids = from_spec("parity:3")
    undefined = survey(ids, ["gpt", "flow_map"], **HOW)
    assert not undefined.families[1].supported
    assert undefined.missing == {}


def test_a_run_in_fewer_digits_has_no_marks(target: Target) -> None:
    found = survey(target, ["gpt"], samples=200, steps=[1], precision="bfloat16")
    (rounded,) = found.families[0].precisions
    assert {cell.improbable for cell in rounded.cells} == {None}
    x = target.sample(3, CounterRandomness(0))
    assert improbable_tokens(target, x) is not None
