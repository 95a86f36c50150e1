"""Folders that cannot be written: one sentence, no family is blamed, no finished cell is lost."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from capcheck import InputError, save, survey
from capcheck.core.errors import StoreError
from capcheck.runs import store as stores
from capcheck.runs.atomic import append_line, create_atomically
from capcheck.runs.claims import SharedClaims
from capcheck.runs.log import logged_to, logger
from capcheck.runs.manifest import Manifest, begun, read_manifest
from capcheck.runs.planning import engine_of_survey
from capcheck.runs.store import Store
from capcheck.targets import ProductMixture

HOW: dict[str, Any] = {"samples": 200, "steps": [1, 2], "lengths": [0, 3]}
FITTED: dict[str, Any] = {"samples": 200, "steps": [1], "lengths": [3]}
FITTED |= {"network": "mlp:width=4", "fit_steps": 2}
FULL = "cannot be written: No space left on device; free space there and run the same command"
without_dev_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


def full(*_: object, **__: object) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_ends_a_survey_which_then_goes_on(
    three: ProductMixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = survey(three, ["gpt", "maskgit"], **HOW).to_dict()
    lines = 0

    def few(path: Path, line: bytes) -> None:
        nonlocal lines
        lines += 1
        append_line(path, line) if lines < 4 else full()

    with monkeypatch.context() as patch:
        patch.setattr(stores, "append_line", few)
        with pytest.raises(InputError, match=FULL) as caught:
            survey(three, ["gpt", "maskgit"], out=tmp_path, **HOW)
    assert caught.value.exit_code == 2
    assert "finished cells are kept" in str(caught.value)
    before = (tmp_path / "cells.jsonl").read_bytes()
    assert before.count(b"\n") == 3
    assert survey(three, ["gpt", "maskgit"], out=tmp_path, **HOW).to_dict() == undisturbed
    assert (tmp_path / "cells.jsonl").read_bytes().startswith(before)


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file of this process may be longer than 12 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_half_a_line_is_left_behind_by_a_limit_and_ignored(
    tmp_path: Path, small_files: None
) -> None:
    append_line(tmp_path / "lines", b"a" * 8_000)
    with pytest.raises(OSError, match="File too large"):
        append_line(tmp_path / "lines", b"b" * 8_000)
    left = (tmp_path / "lines").read_bytes()
    assert left.splitlines()[0] == b"a" * 8_000
    assert not left.endswith(b"\n")


def test_a_result_that_cannot_be_saved_is_the_callers_to_solve(
    three: ProductMixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = survey(three, ["gpt"], **HOW)
    monkeypatch.setattr(stores, "append_line", full)
    with pytest.raises(InputError, match=FULL):
        save(result, tmp_path)


def test_a_fit_that_cannot_be_kept_is_no_failure_of_its_family(
    three: ProductMixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("capcheck.fitting.checkpoint.save", full)
    with pytest.raises(StoreError, match=FULL):
        survey(three, ["vae"], out=tmp_path, **FITTED)


def test_a_broken_fit_in_the_folder_is_no_failure_of_its_family(
    three: ProductMixture, tmp_path: Path
) -> None:
    how = FITTED
    survey(three, ["diffusion"], out=tmp_path, **how)
    (fit,) = (tmp_path / "fits").iterdir()
    fit.write_bytes(b"")
    with pytest.raises(StoreError, match="delete that file"):
        survey(three, ["diffusion"], out=tmp_path, **how)


def test_claims_on_a_full_disk_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = SharedClaims(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("capcheck.runs.claims.json.dump", full)
        with pytest.raises(StoreError, match=FULL):
            claims.take("part")
    assert claims.take("part")  # nothing is left of the first claim
    claims.close()


def test_claims_that_cannot_be_removed_do_not_hide_why_a_run_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = SharedClaims(tmp_path)
    assert claims.take("part")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", full)
        claims.close()
    assert list((tmp_path / "claims").iterdir()) == [tmp_path / "claims" / "part.0"]


@without_dev_full
def test_a_log_on_a_full_disk_says_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.log").symlink_to("/dev/full")
    with logged_to(tmp_path):
        logger.info("a message")
    assert capsys.readouterr().err == ""


def test_a_log_that_cannot_be_opened_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "run.log").mkdir()
    with pytest.raises(StoreError, match="Is a directory"), logged_to(tmp_path):
        pass


@without_dev_full
def test_a_line_for_a_full_device_is_refused() -> None:
    with pytest.raises(OSError, match="No space left on device"):
        append_line(Path("/dev/full"), b"a cell")


def test_cells_that_cannot_be_read_are_one_sentence(three: ProductMixture, tmp_path: Path) -> None:
    engine_of_survey(three, ["gpt"], out=tmp_path, **HOW).start()
    (tmp_path / "cells.jsonl").mkdir()
    with pytest.raises(StoreError, match=r"must have files that can be read, got cells\.jsonl"):
        Store.open(tmp_path)


# Two runs that are started in one folder at the same time


@pytest.fixture
def asked(three: ProductMixture, tmp_path: Path) -> dict[int, Manifest]:
    """The manifests of two runs that differ in their seed."""
    for seed in (0, 1):
        engine_of_survey(three, ["gpt"], out=tmp_path / str(seed), seed=seed, **HOW).start()
    return {seed: read_manifest(tmp_path / str(seed)) for seed in (0, 1)}


@pytest.mark.parametrize("other", [0, 1])
def test_a_run_that_is_begun_meanwhile_is_joined_or_left_alone(
    asked: dict[int, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: int
) -> None:
    folder = tmp_path / "both"
    folder.mkdir()

    def late(path: Path, text: str) -> bool:
        assert create_atomically(path, asked[other].model_dump_json())  # another is faster
        return create_atomically(path, text)

    monkeypatch.setattr("capcheck.runs.manifest.create_atomically", late)
    if other == 0:
        assert begun(folder, asked[0]) == asked[0]
    else:
        with pytest.raises(InputError, match=r"its settings\.seed is 1, and now 0"):
            begun(folder, asked[0])
    assert read_manifest(folder) == asked[other]


def test_weights_that_another_process_fitted_are_not_taken_for_ones_own(
    three: ProductMixture, tmp_path: Path
) -> None:
    how = FITTED
    survey(three, ["diffusion"], out=tmp_path, **how)
    mine, other = Store.open(tmp_path), Store.open(tmp_path)
    (plan,) = (e.plan for e in mine.manifest.families if e.plan.network.kind == "fitted")
    facts = mine.network(plan)
    assert facts is not None
    mine.keep_network(plan, facts)
    theirs = facts.model_copy(update={"weights": "f" * 64})
    other.keep_network(plan, theirs)
    mine.refresh()
    assert mine.network(plan) == facts
    assert Store.open(tmp_path).network(plan) == theirs
