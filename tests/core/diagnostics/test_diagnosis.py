"""Diagnoses: what they see, what they cannot, and that no verdict and no old run hears of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from capcheck import InputError, check, report, save, survey
from capcheck.cli.app import cli
from capcheck.core.budget import Budget, Grid
from capcheck.core.randomness import CounterRandomness
from capcheck.diagnostics.diagnosis import DIAGNOSES, Diagnoser, Diagnosis, chosen_diagnoses
from capcheck.results.plan import FamilyPlan
from capcheck.results.settings import Settings
from capcheck.results.survey import MeasuredBy
from capcheck.runs.cells import CellKey
from capcheck.runs.store import Store
from capcheck.targets import ProductMixture, from_spec
from capcheck.targets.target import Target


def diagnoses(target: Target, samples: Tensor) -> dict[str, Diagnosis]:
    draws = target.sample(400, CounterRandomness(0, name="target"))
    diagnoser = Diagnoser(
        target, draws, names=DIAGNOSES, level=0.95, rng=CounterRandomness(0, name="diagnosis")
    )
    return {found.name: found for found in diagnoser.diagnose(samples)}


def test_all_accept_draws_of_the_target_and_refuse_others(three: ProductMixture) -> None:
    x = three.sample(400, CounterRandomness(1, name="model"))
    for name, found in diagnoses(three, x).items():
        assert found.p_value is not None
        assert found.p_value > 0.05, name
        assert found.low is not None
        assert found.high is not None
        assert found.null is not None
        assert found.low <= found.null <= found.high, name
        assert found.samples in (400, 320)  # the classifier learns from a fifth
    for name, found in diagnoses(three, 0.5 * x).items():
        assert found.p_value is not None
        assert found.p_value < 0.01, name
        assert found.low is not None
        assert found.null is not None
        assert found.low > found.null, name


def test_what_cannot_be_had_says_why(three: ProductMixture) -> None:
    parity = from_spec("parity:4")
    found = diagnoses(parity, parity.sample(400, CounterRandomness(1)))
    assert found["classifier"].p_value is not None
    assert found["permutation"].p_value is not None
    assert "needs a density" in found["stein"].method
    assert str(found["neighbours"]).startswith("unavailable: nearest-neighbour KL needs numbers")
    x = three.sample(400, CounterRandomness(1))
    x[0, 0] = math.nan
    for one in diagnoses(three, x).values():
        assert one.value is None
        assert one.method.startswith("1 of 400 draws are infinitely far out (not finite")
    few = diagnoses(three, x[1:51])
    assert "at least 100 rows" in few["classifier"].method
    assert few["stein"].value is not None


def test_names_are_checked_and_put_in_order() -> None:
    assert chosen_diagnoses(["stein", "classifier", "stein"]) == ("classifier", "stein")
    assert chosen_diagnoses("stein") == ("stein",)
    assert chosen_diagnoses(()) == ()
    with pytest.raises(InputError, match="diagnose names 'knn', which is unknown"):
        chosen_diagnoses(["knn"])
    with pytest.raises(InputError, match=r"did you mean.*stein|stein"):
        check("gpt", from_spec("gaussian:tokens=2"), samples=200, diagnose=["stien"])


# In a run


def measured(target: Target, **facts: Any) -> Any:
    return survey(target, ["gpt"], samples=200, steps=[1, 2], **facts)


def test_no_verdict_and_no_other_number_hears_of_them(three: ProductMixture) -> None:
    without, with_them = measured(three), measured(three, diagnose=DIAGNOSES)
    (plain,), (found,) = without.families, with_them.families
    assert plain.diagnoses == ()
    assert [one.name for one in found.diagnoses] == list(DIAGNOSES)
    assert all(cell.diagnoses == () for cell in found.cells[:-1])
    last = found.cells[-1].model_copy(update={"diagnoses": ()})
    assert found.model_copy(update={"cells": (*found.cells[:-1], last)}) == plain


def test_they_are_kept_in_the_run_and_shown(three: ProductMixture, tmp_path: Path) -> None:
    result = measured(three, diagnose=["stein", "classifier"], out=tmp_path / "run")
    assert Store.open(tmp_path / "run").result().to_dict() == result.to_dict()
    (family,) = result.to_dict()["families"]
    assert [d["name"] for d in family["cells"][-1]["diagnoses"]] == ["classifier", "stein"]
    count = len((tmp_path / "run" / "cells.jsonl").read_text().splitlines())
    measured(three, diagnose=["classifier", "stein"], out=tmp_path / "run")
    assert len((tmp_path / "run" / "cells.jsonl").read_text().splitlines()) == count
    assert Store.open(save(result, tmp_path / "saved")).result().to_dict() == result.to_dict()
    page = report(result, tmp_path / "report.html").read_text()
    assert "Diagnosis at length 3, steps 2" in page
    assert "KSD squared" in page
    assert "Diagnosis" not in report(measured(three), tmp_path / "plain.html").read_text()


def test_a_run_from_before_there_were_diagnoses_is_resumed(
    three: ProductMixture, tmp_path: Path
) -> None:
    result = measured(three, out=tmp_path)
    manifest, cells = tmp_path / "manifest.json", tmp_path / "cells.jsonl"
    facts = json.loads(manifest.read_text())
    del facts["settings"]["diagnose"]
    manifest.write_text(json.dumps(facts))
    records = [json.loads(line) for line in cells.read_text().splitlines()]
    for record in records:
        del record["cell"]["diagnoses"]
    cells.write_text("".join(json.dumps(record) + "\n" for record in records))
    before = cells.read_bytes()
    assert measured(three, out=tmp_path).to_dict() == result.to_dict()
    assert cells.read_bytes() == before
    asked = measured(three, diagnose=["stein"], out=tmp_path)  # only where it was not made yet
    assert [test.name for test in asked.families[0].cells[-1].diagnoses] == ["stein"]
    assert cells.read_bytes()[: len(before)] == before


def test_the_key_of_a_cell_tells_diagnoses_only_where_they_are_made() -> None:
    settings = Settings(
        grid=Grid(lengths=(0, 2), steps=(1, 4)),
        samples=200,
        seed=0,
        level=0.95,
        tolerances={"kl": 0.01},
        device="cpu",
        dtype="float64",
    )
    asked = settings.model_copy(update={"diagnose": ("stein",)})
    plan = FamilyPlan(family="gpt", options={})
    code = MeasuredBy(version="0", code="c", families={"gpt": "g"})
    keys = {
        budget: [
            CellKey(plan=plan, budget=budget, settings=s, fingerprint="f").digest(code)
            for s in (settings, asked)
        ]
        for budget in settings.grid.budgets()
    }
    changed = [budget for budget, (plain, other) in keys.items() if plain != other]
    assert changed == [Budget(length=2, steps=4)]


def test_a_network_that_breaks_has_no_diagnosis_and_no_crash(three: ProductMixture) -> None:
    def broken(x: Tensor, levels: Tensor) -> Tensor:
        return torch.full_like(x, math.nan) if len(x) > 100 else x  # a trial does not see it

    found = check(
        "diffusion", three, network=broken, samples=200, steps=[1], diagnose=["permutation"]
    )
    (one,) = found.found.diagnoses
    assert one.method.startswith("200 of 200 draws are infinitely far out")


def test_the_command_line_asks_for_them_and_shows_them_with_the_rates() -> None:
    command = ["check", "--family", "diffusion", "--target", "gaussian:tokens=2,std=2"]
    command += ["--samples", "200", "--steps", "2,4,8,16"]
    asked = CliRunner().invoke(cli, [*command, "--diagnose", "stein,classifier"])
    assert "rates: kl like steps^-" in asked.stdout
    assert "KSD squared" in asked.stdout
    assert "classifier accuracy" in asked.stdout
    plain = CliRunner().invoke(cli, command)
    assert "KSD squared" not in plain.stdout
    assert plain.exit_code == asked.exit_code
    wrong = CliRunner().invoke(cli, [*command, "--diagnose", "stien"])
    assert isinstance(wrong.exception, InputError)
    assert "diagnose names 'stien'" in str(wrong.exception)
