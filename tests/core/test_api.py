"""The acceptance facts of the first check, from the Python side."""

from __future__ import annotations

import ast
import inspect
import json
import math
import pydoc
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import capcheck
from capcheck import (
    Budget,
    CapcheckError,
    InputError,
    Outcome,
    Progress,
    check,
    report,
    save,
    survey,
)
from capcheck.core.budget import Axis
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.fitting import build
from capcheck.laws import MixtureOfGaussians, TokenLaw
from capcheck.networks.signatures import DenoiserSignature, TokenPredictorSignature
from capcheck.procedures.groups import Group, Groupwise
from capcheck.procedures.probe import State
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe
from capcheck.procedures.rows import Row
from capcheck.runs.options import RunOptions
from capcheck.runs.store import Store
from capcheck.runs.sweep import Sweep
from capcheck.targets import ProductMixture, Target, from_spec


def test_diffusion_needs_its_steps(digits: ProductMixture) -> None:
    result = check("diffusion", digits, steps=[1, 4, 32], lengths=[8])
    limits = {"wasserstein": 0.01 * digits.spec.spread**2, "mmd": 0.004}
    first, last = (result.cell(Budget(length=8, steps=k)).estimates for k in (1, 32))
    for name, limit in limits.items():
        low = first[name].low
        assert low is not None
        assert low > limit
    mmd, w2 = last["mmd"], last["wasserstein"]
    assert mmd.high is not None
    assert mmd.high < limits["mmd"]
    assert w2.low is not None
    assert w2.low < limits["wasserstein"]
    assert [cell.model_calls for cell in result.cells] == [1, 4, 32]
    assert (last["kl"].kind, first["kl"].value) == ("estimate", math.inf)
    assert "inversion" in last["kl"].method
    assert result.axes.steps == "used"
    assert result.loop_order == "steps"


def test_the_flow_map_in_the_denoisers_place_makes_one_step_exact() -> None:
    target = from_spec("gaussian:tokens=2,std=2")

    def flow_map(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return x_t  # at t = 1, from N(0, 1) to the target in its own units

    exact = check("diffusion", target, network=flow_map, steps=[1], lengths=[2])
    oracle = check("diffusion", target, steps=[1], lengths=[2])
    assert exact.outcome is not Outcome.NOT_REPRESENTABLE
    assert exact.cells[0].estimates["mmd"].high < 0.004  # type: ignore[operator]
    assert oracle.outcome is Outcome.NOT_REPRESENTABLE


def test_same_seed_same_numbers_whatever_the_batch_and_the_order(
    three: ProductMixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*names: str, **changes: Any) -> dict[str, Any]:
        how: dict[str, Any] = {"samples": 200, "lengths": [1, 3], "steps": [1, 3]}
        return survey(three, names, network="none", **how, **changes).to_dict()

    names = ["gpt", "maskgit", "diffusion", "mar", "ar_smoothing", "flow"]
    assert run("gpt", seed=1) != run("gpt") == run("gpt")
    whole = run(*names)
    order = Sweep.runs
    monkeypatch.setattr(Sweep, "runs", lambda *given: order(*given)[::-1])
    assert run(*names) == whole
    monkeypatch.undo()
    split = run(*names, batch=77)
    for one, other in zip(whole["families"], split["families"], strict=True):
        for a, b in zip(one["cells"], other["cells"], strict=True):
            for name, estimate in a["estimates"].items():
                # The flow's adaptive steps are those of a whole batch: 1e-6 of a token.
                near = 1e-5 if "share their random numbers" in estimate["method"] else 1e-9
                for end in ("value", "low", "high"):
                    assert b["estimates"][name][end] == pytest.approx(estimate[end], abs=near)


def test_batches_share_their_draws(three: ProductMixture) -> None:
    for family in ("gpt", "maskgit", "diffusion"):
        a = check(family, three, samples=300, steps=[3], lengths=[2], divergences=["mmd"])
        b = check(family, three, samples=300, steps=[3], lengths=[2], divergences=["mmd"], batch=64)
        drawn = torch.tensor(a.cells[0].examples) - torch.tensor(b.cells[0].examples)
        assert drawn.abs().max() < 1e-3  # examples keep four digits


def test_snapshots_equal_separate_runs(three: ProductMixture) -> None:
    together = check("gpt", three, samples=300, steps=[1], lengths=[0, 1, 2, 3])
    for cell in together.cells:
        alone = check("gpt", three, samples=300, steps=[1], lengths=[cell.budget.length])
        assert alone.cells[0].estimates == cell.estimates
        assert alone.cells[0].examples == cell.examples
        assert alone.cells[0].model_calls == cell.model_calls
        assert alone.cells[0].traces == cell.traces
    # Completion is one more call, so l = N - 1 costs the same N calls and is already exact.
    assert [cell.model_calls for cell in together.cells] == [1, 2, 3, 3]
    assert together.smallest_budget == Budget(length=2, steps=1)


def test_default_grids_have_at_least_two_budgets_on_each_axis(three: ProductMixture) -> None:
    grid = check("gpt", three, samples=200).settings.grid
    assert grid.lengths == (0, 1, 3)
    assert grid.steps == (1, 4, 16)


def test_the_result_schema_uses_its_words(three: ProductMixture) -> None:
    found = check("diffusion", three, samples=200, steps=[1, 2]).to_dict()
    json.dumps(found, allow_nan=False)
    assert found["schema_version"] == 5
    assert found["outcome"] in {"representable", "not_representable", "inconclusive"}
    assert set(found["axes"]) == {"length", "steps"}
    for cell in found["cells"]:
        for estimate in cell["estimates"].values():
            words = {"value", "low", "high", "level", "kind", "method", "unit", "samples", "null"}
            assert words <= set(estimate)
            assert not {"terms", "below", "above"} & set(estimate)


def test_a_result_survives_saving(three: ProductMixture, tmp_path: Path) -> None:
    from capcheck.runs.store import Store

    result = check("maskgit", three, samples=200, lengths=[0, 3], steps=[1])
    save(result.survey, tmp_path / "run")
    again = Store.open(tmp_path / "run").result()
    assert again.check_result("maskgit").to_dict() == result.to_dict()
    assert report(result, tmp_path / "page.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("gtp", {}, "did you mean 'gpt'"),
        ("gpt", {"steps": [0]}, "Budget.steps must be at least 1, got 0"),
        ("gpt", {"lengths": [4]}, "at most 3, got 4: the target has 3 tokens to be placed"),
        ("gpt", {"lengths": [-1]}, "at least 0, got -1"),
        ("gpt", {"lengths": []}, "at least one value"),
        ("gpt", {"lengths": [1.5]}, "a whole number, got 1.5"),
        ("gpt", {"samples": 10}, "at least 200, got 10"),
        ("gpt", {"seed": -1}, "at least 0, got -1"),
        ("gpt", {"batch": 0}, "at least 1, got 0"),
        ("gpt", {"level": 1.0}, "below 1, got 1.0"),
        ("gpt", {"device": "tpu9"}, "device must be"),
        ("gpt", {"divergences": ["k"]}, "did you mean 'kl'|unknown"),
        ("gpt", {"divergences": []}, "at least one of"),
        ("gpt", {"tolerance": {"kl": 0}}, "positive and finite, got 0"),
        ("gpt", {"tolerance": {"lk": 1}}, "did you mean 'kl'"),
        ("gpt", {"tolerance": {"kl": "0.1"}}, "positive and finite, got '0.1'"),
        ("gpt", {"steps": 4}, "must be a list of whole numbers, got 4"),
        ("gpt", {"level": "x"}, "got 'x'"),
        ("gpt", {"device": 3.5}, "device must be"),
        ("gpt", {"sampels": 300}, "did you mean 'samples'"),
        ("gpt", {"options": {"windo": 2}}, "did you mean 'window'"),
        ("gpt", {"options": {"window": -2}}, "gpt.window"),
        ("maskgit", {"options": {"order": "left"}}, "maskgit.order"),
        ("gpt", {"network": lambda x, known: x}, "must return a capcheck.laws.TokenLaw"),
        ("diffusion", {"network": lambda x, t: x[:, :1]}, r"shape \(3, 3, 1\).*got \(3, 1"),
    ],
)
def test_impossible_requests_are_refused_in_one_sentence(
    three: ProductMixture, family: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        check(family, three, **({"samples": 200} | changes))
    assert "\n" not in str(caught.value)


def test_numpy_numbers_are_numbers(three: ProductMixture) -> None:
    found = check("gpt", three, lengths=np.arange(3), seed=np.int64(3), samples=200)  # type: ignore[arg-type]
    assert found.settings.grid.lengths == (0, 1, 2)


def test_a_network_that_breaks_is_refused(three: ProductMixture) -> None:
    oracle = TokenPredictorSignature().oracle(three)

    def breaks(tokens: torch.Tensor, known: torch.Tensor) -> TokenLaw:
        broken = torch.full((1, 3, 1, 1), torch.nan, dtype=torch.float64)
        law = MixtureOfGaussians(
            broken[:, :1, :, 0], broken.expand(len(tokens), -1, -1, -1), broken
        )
        return law if bool(known.any()) and len(tokens) > 100 else oracle(tokens, known)

    found = check("gpt", three, network=breaks, lengths=[2, 3], steps=[1], samples=200)
    assert found.outcome is Outcome.NOT_REPRESENTABLE
    lost = found.cells[0].estimates["wasserstein"]
    assert lost.value == math.inf
    assert "200 of 200" in lost.method


def test_samples_that_contradict_the_density_are_caught(
    three: ProductMixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def zeros(self: Any, network: Any, spec: Any, budget: Any, start: State, rng: Any) -> Any:
        state = start
        yield state
        yield state.write(state.tokens)

    monkeypatch.setattr("capcheck.probes.length.gpt.GPT.run", zeros)
    with pytest.raises(CapcheckError, match="disagree"):
        check("gpt", three, lengths=[3], steps=[1], samples=400)


def test_results_of_two_networks_do_not_share_a_folder(
    three: ProductMixture, tmp_path: Path
) -> None:
    def result(target: Target) -> capcheck.CheckResult:
        oracle = TokenPredictorSignature().oracle(target)
        return check("gpt", three, network=oracle, lengths=[3], steps=[1], samples=200)

    save(result(three).survey, tmp_path)
    with pytest.raises(InputError, match="holds another network for gpt, given"):
        save(result(from_spec("gaussian:tokens=3")).survey, tmp_path)


def test_in_many_dimensions_transport_is_certified_from_both_sides() -> None:
    target = from_spec("modes:tokens=256,modes=2,gap=0.1")
    oracle = DenoiserSignature("cosine").oracle(target)

    def shifted(mean: float) -> capcheck.CheckResult:
        return check(
            "diffusion",
            target,
            network=lambda x_t, t: oracle(x_t, t) + mean,
            lengths=[256],
            steps=[32],
            divergences=["wasserstein"],
            samples=600,
        )

    near, far = shifted(0.0), shifted(0.5)
    assert (near.outcome, far.outcome) == (Outcome.REPRESENTABLE, Outcome.NOT_REPRESENTABLE)
    for result in (near, far):
        estimate = result.cells[0].estimates["wasserstein"]
        assert estimate.kind == "two bounds"
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low < estimate.high


def test_without_a_coupling_transport_in_many_dimensions_can_only_refuse() -> None:
    target = from_spec("modes:tokens=16,modes=2,gap=2")
    result = check("maskgit", target, lengths=[16], steps=[1], divergences=["wasserstein"])
    assert result.cells[0].estimates["wasserstein"].kind == "lower bound"
    assert result.outcome is not Outcome.REPRESENTABLE


def test_inputs_are_never_written_into(rows: Any) -> None:
    before = rows.copy()
    check("gpt", capcheck.targets.from_samples(rows), samples=200, lengths=[0, 4], steps=[1])
    assert (rows == before).all()


def test_options_may_be_text_or_values() -> None:
    assert build_probe("gpt", {"window": "3"}) == build_probe("gpt", {"window": 3})


def test_an_undecided_family_is_drawn_again_until_it_is_decided(tmp_path: Path) -> None:
    # The marginals of three modes lose about 0.58 nats per token: few draws cannot tell.
    target = from_spec("modes:tokens=2,modes=3,gap=6")
    settings: Any = {
        "lengths": [0],
        "steps": [1],
        "divergences": ["kl"],
        "samples": 200,
        "tolerance": {"kl": 0.55},
    }
    once = check("gpt", target, **settings)
    assert once.outcome is Outcome.INCONCLUSIVE
    calls: list[Progress] = []
    looked = check("gpt", target, looks=8, out=tmp_path / "run", progress=calls.append, **settings)
    assert looked.outcome is Outcome.REPRESENTABLE
    assert looked.cells[0].samples > 200
    assert calls[-1].done == calls[-1].total == 8
    assert looked.settings.level_of_a_look == pytest.approx(1 - 0.05 / 8)
    # Looks that would not decide are left out: the first one is followed by a much larger one.
    records = map(json.loads, (tmp_path / "run" / "cells.jsonl").read_text().splitlines())
    assert [record["cell"]["samples"] for record in records] == [200, looked.cells[0].samples]
    assert looked.cells[0].samples > 400
    # The folder is judged like the run, and the same call finds every look in it.
    again = check("gpt", target, looks=8, out=tmp_path / "run", **settings)
    assert again.to_dict() == looked.to_dict()
    saved = Store.open(tmp_path / "run").result()
    assert saved.check_result("gpt").to_dict() == looked.to_dict()
    copied = Store.open(save(looked.survey, tmp_path / "copy")).result()
    assert copied.check_result("gpt").to_dict() == looked.to_dict()


def test_looks_have_a_limit() -> None:
    with pytest.raises(InputError, match="looks must be at most 10, got 11"):
        check("gpt", from_spec("parity:2"), looks=11)


class TwoByTwo(Groupwise):
    """A family that nobody registered."""

    family: ClassVar[str] = "two_by_two"
    row: ClassVar[Row] = "length"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous", "categorical"})
    reads: ClassVar[frozenset[Axis]] = frozenset({"length"})

    def groups(self, spec: SequenceSpec, length: int) -> list[Group]:
        free = spec.free[:length]
        return [Group(tokens=list(free[i : i + 2])) for i in range(0, len(free), 2)]


def test_a_probe_that_nobody_registered_can_be_checked_surveyed_required_and_fitted() -> None:
    target = from_spec("gaussian:ar1,tokens=3,rho=0.8")
    found = check(TwoByTwo(), target, samples=200, lengths=[0, 3], steps=[1])
    assert found.outcome is Outcome.NOT_REPRESENTABLE
    # Tokens 0 and 1 are drawn independently: I(x_0; x_1) = -1/2 ln(1 - 0.8^2).
    kl = found.cells[-1].estimates["kl"].value
    assert kl == pytest.approx(-0.5 * math.log(1 - 0.64), abs=1e-9)
    names = [f.family for f in survey(target, [TwoByTwo(), "gpt"], samples=200).families]
    assert names == ["two_by_two", "gpt"]
    with pytest.raises(capcheck.CapacityError, match="two_by_two is not representable"):
        capcheck.require(TwoByTwo(), target, samples=200, lengths=[3], steps=[1])
    module = build(TwoByTwo().signature, Procedure.of(TwoByTwo(), target).spec, "mlp:width=8")
    fitted = capcheck.fit(TwoByTwo(), target, module, budgets=[Budget(length=3, steps=1)], steps=20)
    assert fitted.validation < fitted.start
    with pytest.raises(InputError, match="make the probe first, as in MyProbe"):
        check(TwoByTwo, target)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="give them to TwoByTwo"):
        check(TwoByTwo(), target, options={"window": 1})


@pytest.mark.parametrize("function", [capcheck.check, capcheck.survey, capcheck.require])
def test_help_lists_every_keyword(function: Any) -> None:
    text = pydoc.plain(pydoc.render_doc(function))
    for keyword in (*RunOptions.__annotations__, "fit_steps", "fit_seconds", "network", "options"):
        assert re.search(rf"^ +{keyword}: ", text, re.M), keyword
        assert keyword in str(inspect.signature(function))
    assert "**" not in str(inspect.signature(function))


def test_public_names_exist_and_are_listed() -> None:
    for name in capcheck.__all__:
        assert getattr(capcheck, name) is not None
    missing = []
    root = Path(capcheck.__file__).parent
    for path in sorted(root.rglob("*.py")):
        module = ast.parse(path.read_text())
        names = [t.id for n in module.body if isinstance(n, ast.Assign) for t in n.targets
                 if isinstance(t, ast.Name)]  # fmt: skip
        public = [
            n.name for n in module.body
            if isinstance(n, (ast.ClassDef, ast.FunctionDef)) and not n.name.startswith("_")
        ]  # fmt: skip
        if public and "__all__" not in names:
            missing.append(str(path.relative_to(root)))
    assert missing == []


def test_given_tokens_work_with_a_network_that_is_not_the_oracle() -> None:
    target = from_spec("gaussian:ar1,tokens=3,rho=0.8")
    wrong = Procedure.of(build_probe("gpt"), from_spec("gaussian:ar1,tokens=3,rho=0.5")).oracle
    found = check("gpt", target, network=wrong, given=[0], lengths=[2], steps=[1], samples=200)
    # Each of the two drawn tokens is N(.5 x, 1 - .25) in place of N(.8 x, 1 - .64), x ~ N(0, 1):
    # KL = 1/2 [ln(.75 / .36) - 1 + (.36 + .09) / .75] each.
    each = 0.5 * (math.log(0.75 / 0.36) - 1 + 0.45 / 0.75)
    assert found.cells[0].estimates["kl"].value == pytest.approx(2 * each, abs=1e-9)
    fitted = check(
        "gpt", target, network="mlp:width=8", fit_steps=20, given=[0], lengths=[2], steps=[1],
        samples=200, precision=["float32"], sensitivity=[0.1],
    )  # fmt: skip
    assert fitted.found.facts is not None
    assert fitted.found.precisions[0].cells


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
def test_hundreds_of_tokens_stay_small() -> None:
    # 200 numbers for every pair of 512 tokens would take 400 MiB more.
    code = """
import re, torch, capcheck
from capcheck.targets import MarkovChain

def peak():  # in KiB; getrusage would start at the parent's
    return int(re.findall(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[0])

T = torch.full((4, 4), 0.1).double() + 0.6 * torch.eye(4).double()
target = MarkovChain([torch.full((4,), 0.25).double(), T], tokens=512)
capcheck.check("gpt", capcheck.targets.from_spec("parity:4"), samples=200)
before = peak()
capcheck.check("gpt", target, samples=200, lengths=[512], steps=[1], divergences=["kl"])
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) / 1024 < 300, done.stdout
