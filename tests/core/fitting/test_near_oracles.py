"""Fitted networks beside the oracle: parts that add up, blame, sizes, and runs that go on."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from capcheck import CheckResult, InputError, Outcome, check, report, survey
from capcheck.cli.app import cli
from capcheck.fitting import build
from capcheck.procedures.registry import build_probe
from capcheck.results.family import FamilyResult
from capcheck.runs.store import Store, save
from capcheck.targets import GaussianMixture, ProductMixture, from_spec

SIZES = ["mlp:width=2,depth=1", "mlp:width=32,depth=1"]


@pytest.fixture(scope="module")
def sized(three: ProductMixture) -> CheckResult:
    """Gpt with two networks on a target that it can represent at full length."""
    return check("gpt", three, network=SIZES, fit_steps=200, samples=500, lengths=[0, 3], steps=[1])


def parts_of(found: FamilyResult, divergence: str) -> dict[str, float]:
    (gap,) = (g for g in found.gaps if g.divergence == divergence and g.budget.length == 3)
    return {part.name: part.value for part in gap.parts}


def test_parts_add_up_to_what_was_measured(sized: CheckResult) -> None:
    oracle, *fitted = sized.survey.families
    assert oracle.network == "oracle"
    assert [f.network for f in fitted] == SIZES or [f.network for f in fitted] == SIZES[::-1]
    for found in fitted:
        for name in ("kl", "wasserstein", "mmd"):
            parts = parts_of(found, name)
            total = parts.pop("total")
            assert sum(parts.values()) == pytest.approx(total, abs=1e-9)
            estimate = found.cells[-1].estimates[name]
            assert estimate.low is not None
            assert estimate.high is not None
            assert estimate.low <= total <= estimate.high
        assert parts_of(found, "kl")["structural"] == 0  # the law is known to be the target
    small, _ = sorted(fitted, key=lambda found: SIZES.index(found.network))
    assert parts_of(small, "kl")["network"] > 0  # the large one's may be noise around 0


def test_tokens_that_the_network_is_not_asked_for_have_no_network_part(
    sized: CheckResult,
) -> None:
    for gap in sized.found.gaps:
        part = gap.part("network")
        assert part is not None
        if gap.budget.length == 0:
            assert part.value == part.low == part.high == 0


def test_a_larger_network_has_a_smaller_gap(sized: CheckResult) -> None:
    (curve,) = sized.survey.curves
    small, large = curve.points
    assert small.parameters < large.parameters
    assert small.changes == {}
    assert large.changes["kl"].high < 0  # the interval of the difference excludes 0
    gain = large.totals["kl"].value - small.totals["kl"].value
    assert large.changes["kl"].value == pytest.approx(gain, abs=1e-9)
    enough = [p.network for p in curve.points if p.outcome is Outcome.REPRESENTABLE]
    assert curve.smallest == (enough[0] if enough else None)


def test_the_network_is_blamed_where_the_oracle_can(sized: CheckResult) -> None:
    small = next(f for f in sized.survey.families if f.network == SIZES[0])
    assert small.outcome is Outcome.NOT_REPRESENTABLE
    assert small.oracle_outcome is Outcome.REPRESENTABLE
    assert small.blame == "network"


def test_the_procedure_is_blamed_where_the_oracle_cannot() -> None:
    found = check(
        "maskgit", from_spec("copy:tokens=4,symbols=3"), options={"rounds": 1}, lengths=[4],
        steps=[1], network="mlp:width=16,depth=1", fit_steps=300, samples=400,
    )  # fmt: skip
    assert found.outcome is Outcome.NOT_REPRESENTABLE
    assert found.found.blame == "procedure"
    assert found.beside[0].blame == "procedure"


class Diverging(nn.Module):
    """Right in form, and the loss rises wherever it goes."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.calls = 0

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """What the inner one says, and ever more."""
        self.calls += self.training
        answer: Tensor = self.inner(x_t, t)
        return answer * (1 + self.calls**3) if self.calls < 40 else answer * math.nan


def test_a_diverging_fit_is_told_and_never_not_representable(tmp_path: Path) -> None:
    target = from_spec("modes:tokens=2,modes=2,gap=6")
    probe = build_probe("diffusion")
    inner = build(probe.signature, target.spec, "mlp:width=8,depth=1")
    found = check(
        "diffusion", target, network=Diverging(inner), objective="oracle", fit_steps=300,
        samples=400, steps=[1], lengths=[2],
    )  # fmt: skip
    assert found.found.facts is not None
    assert found.found.facts.fit is not None
    assert found.found.facts.fit.diverged
    assert found.found.oracle_outcome is Outcome.NOT_REPRESENTABLE
    assert found.outcome is Outcome.INCONCLUSIVE
    assert {cell.outcome for cell in found.cells} == {Outcome.INCONCLUSIVE}
    assert found.reason.startswith("the fit diverged: the loss ")
    assert found.exit_code == 3
    assert found.found.blame is None
    read = Store.open(save(found.survey, tmp_path / "run")).result()
    assert read.to_dict() == found.survey.to_dict()


def test_end_to_end_is_an_objective_of_its_own() -> None:
    target = from_spec("modes:tokens=1,modes=2,gap=6")
    how: dict[str, Any] = {"samples": 400, "steps": [1], "lengths": [1]}
    found = check(
        "diffusion", target, network="mlp:width=32,depth=1", objective="end_to_end",
        fit_steps=200, **how,
    )  # fmt: skip
    (gap,) = (g for g in found.found.gaps if g.divergence == "wasserstein")
    structural, objective = gap.part("structural"), gap.part("objective")
    assert structural is not None
    assert objective is not None
    # One step of the mean is one point; through the same step a map to both modes can be learned.
    assert structural.value == pytest.approx(target.spec.spread**2, rel=0.1)
    assert objective.high < -0.5 * structural.value


def test_several_budgets_have_no_end_to_end_objective(three: ProductMixture) -> None:
    with pytest.raises(ValueError, match="budgets must be one for objective end_to_end, got 3"):
        check(
            "diffusion", three, network="mlp", objective="end_to_end", steps=[1, 2, 3],
            lengths=[3], samples=200,
        )  # fmt: skip


def test_runs_with_networks_are_kept_read_and_resumed(
    three: ProductMixture, tmp_path: Path
) -> None:
    how: dict[str, Any] = {"samples": 300, "lengths": [3], "steps": [1, 2]}
    how |= {"network": SIZES, "fit_steps": 150, "sensitivity": [0.1]}
    first = check("gpt", three, out=tmp_path / "run", **how)
    assert Store.open(tmp_path / "run").result().to_dict() == first.survey.to_dict()
    before = (tmp_path / "run" / "cells.jsonl").read_bytes()
    again = check("gpt", three, out=tmp_path / "run", **how)
    assert (tmp_path / "run" / "cells.jsonl").read_bytes() == before
    assert again.to_dict() == first.to_dict()
    assert len(list((tmp_path / "run" / "fits").glob("*.safetensors"))) == 2
    saved = Store.open(save(first.survey, tmp_path / "saved")).result()
    assert saved.to_dict() == first.survey.to_dict()
    page = report(first, tmp_path / "page.html").read_text()
    for words in ("Whose part is it?", "which size suffices?", "How good must the network be?"):
        assert words in page
    json.dumps(first.to_dict(), allow_nan=False)
    assert first.to_dict()["blame"] == first.found.blame
    assert first.to_dict()["curves"][0]["family"] == "gpt"
    with pytest.raises(
        InputError, match=r"it measures gpt, .* \(fitted for 150 steps\).*now .* 200 steps"
    ):
        check("gpt", three, out=tmp_path / "run", **how | {"fit_steps": 200})


def test_looks_of_a_network_are_kept_with_those_of_its_oracle(
    three: ProductMixture, tmp_path: Path
) -> None:
    how: dict[str, Any] = {"samples": 200, "lengths": [3], "steps": [1], "looks": 3}
    how |= {"network": SIZES[1], "fit_steps": 300, "tolerance": {"kl": 0.02}}
    how |= {"divergences": ["kl"]}
    found = check("gpt", three, out=tmp_path / "run", **how)
    (oracle,) = found.beside
    assert found.cells[0].samples > oracle.cells[0].samples  # the oracle was decided at once
    assert found.found.gaps[0].parts
    for folder in (tmp_path / "run", save(found.survey, tmp_path / "saved")):
        assert Store.open(folder).result().to_dict() == found.survey.to_dict()


@pytest.mark.slow
def test_a_killed_fit_ends_in_the_weights_of_an_undisturbed_one(tmp_path: Path) -> None:
    command = ["check", "--family", "gpt", "--target", "modes:tokens=3", "--samples", "200"]
    command += ["--network", "mlp:width=32,depth=2", "--fit-steps", "500"]
    command += ["--length", "3", "--steps", "1", "--out"]
    process = subprocess.Popen(
        [sys.executable, "-m", "capcheck", *command, str(tmp_path / "run")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if list((tmp_path / "run" / "fits").glob("*.safetensors")):
            break
        time.sleep(0.05)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (checkpoint,) = (tmp_path / "run" / "fits").glob("*.safetensors")
    with safe_open(checkpoint, framework="pt") as file:
        assert json.loads(file.metadata()["facts"])["reason"] == ""  # it was not finished
    results = []
    for folder in ("run", "undisturbed"):
        with pytest.raises(SystemExit, match=r"[013]"):
            cli.main([*command, str(tmp_path / folder)], standalone_mode=False)
        store = Store.open(tmp_path / folder)
        (plan,) = (e.plan for e in store.manifest.families if e.plan.network.kind == "fitted")
        facts = store.network(plan)
        assert facts is not None
        results.append(facts.weights)
    assert results[0] == results[1]


def test_surveys_show_oracle_and_near_oracle_side_by_side() -> None:
    target = from_spec("modes:tokens=2,modes=2,gap=3")
    names = ["vae", "gan", "flow", "consistency", "gpt"]
    how: dict[str, Any] = {"samples": 200, "steps": [1], "lengths": [2]}
    found = survey(target, names, fit_steps=20, **how)
    fitted = [f.family for f in found.families if f.network == "mlp:width=128,depth=3"]
    assert fitted == ["vae", "gan", "flow", "consistency"]
    assert [f.family for f in found.families if f.network == "oracle"] == names
    for one in found.families:
        assert one.error is None
        if one.network != "oracle":
            assert one.facts is not None
            assert one.facts.fit is not None
            assert one.facts.fit.steps == 20
    alone = survey(target, ["vae", "gpt"], network="none", **how)
    assert [f.network for f in alone.families] == ["oracle"] * 2


def test_an_oracle_that_a_target_rules_out_leaves_the_near_oracle(tmp_path: Path) -> None:
    # Two correlated Gaussians: neither a mixture of products nor one Gaussian.
    target = GaussianMixture(
        torch.tensor([[[-1.5], [0.0]], [[1.5], [0.0]]], dtype=torch.float64),
        torch.tensor([[[1.0, 0.8], [0.8, 1.0]], [[1.0, -0.8], [-0.8, 1.0]]], dtype=torch.float64),
    )
    how: dict[str, Any] = {"samples": 300, "steps": [1], "lengths": [2], "fit_steps": 20}
    found = survey(target, ["vae"], out=tmp_path, **how)
    oracle, near = found.families
    assert oracle.error is not None
    assert not oracle.supported
    assert near.error is None
    assert near.oracle_outcome is None
    assert near.gaps == ()
    kl = near.cells[0].estimates["kl"]
    assert kl.kind == "two bounds"
    assert Store.open(tmp_path).result().to_dict() == found.to_dict()
    checked = check("vae", target, network="mlp:width=128,depth=3", **how)
    assert checked.beside[0].reason == oracle.reason


def test_a_flow_library_that_is_missing_is_named(
    three: ProductMixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "zuko", None)
    found = survey(three, ["flow"], samples=200, steps=[1], fit_steps=100)
    oracle, near = found.families
    assert oracle.outcome is Outcome.REPRESENTABLE
    assert not near.supported
    assert near.error is not None
    assert "pip install 'capcheck[flows]'" in near.error


@pytest.mark.parametrize("family", ["diffusion", "gpt", "gan", "flow", "vae", "ebm", "consistency"])
def test_width_closes_the_gap(family: str) -> None:
    tokens, apart, steps = (1, 6, 150) if family == "consistency" else (2, 3, 60)
    names = ["wasserstein", "mmd"] if family == "diffusion" else ["kl", "wasserstein", "mmd"]
    found = check(
        family, from_spec(f"modes:tokens={tokens},modes=2,gap={apart}"), divergences=names,
        network=["mlp:width=1,depth=1", "mlp:width=32,depth=1"], fit_steps=steps, samples=300,
        lengths=[tokens], steps=[1 if family == "consistency" else 2], seconds_per_cell=1,
    )  # fmt: skip
    (curve,) = found.survey.curves
    changes = curve.points[1].changes
    assert any(part.high < 0 for part in changes.values()), changes
    for one in found.survey.families:
        for gap in one.gaps:
            parts = {part.name: part for part in gap.parts}
            if parts:
                total = parts.pop("total")
                assert sum(p.value for p in parts.values()) == pytest.approx(total.value, abs=1e-9)


def test_torch_has_its_own_seed_back() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    check(
        "gpt", from_spec("modes:tokens=2"), network="mlp:width=4,depth=1", fit_steps=30,
        samples=200, steps=[1], lengths=[2],
    )  # fmt: skip
    assert torch.equal(torch.rand(1), expected)
