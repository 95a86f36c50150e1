"""Whose mistake it is: the caller's, nobody's, a family's author's, or capcheck's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic.dataclasses import dataclass

from capcheck import CapcheckError, InputError, NetworkError, ProbeError, check, survey
from capcheck.cli.app import main
from capcheck.core.budget import Axis, Budget
from capcheck.core.errors import UnfitError
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.networks.oracles import latent_classes
from capcheck.networks.signatures import TokenPredictor
from capcheck.procedures.groups import Group, Groupwise
from capcheck.procedures.probe import OPTIONS, State
from capcheck.procedures.rows import Row
from capcheck.runs.environment import full_precision
from capcheck.runs.store import Store
from capcheck.targets import from_spec
from capcheck.targets.target import Target

TARGET = from_spec("modes:tokens=3,gap=4")
HOW: dict[str, Any] = {"samples": 200, "lengths": [3], "steps": [1]}


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Broken(Groupwise):
    """A third party's family that raises while it runs."""

    family: ClassVar[str] = "broken"
    row: ClassVar[Row] = "length"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous", "categorical"})
    reads: ClassVar[frozenset[Axis]] = frozenset({"length"})

    how: str = "value"

    def groups(self, spec: SequenceSpec, length: int) -> list[Group]:
        return [Group(tokens=[i]) for i in spec.free[:length]]

    def run(
        self,
        network: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        start: State,
        rng: Randomness,
    ) -> Iterator[State]:
        if self.how == "input":
            raise InputError("levels must be in [0, 1], got 2.")
        if self.how == "unfit":
            raise UnfitError("broken needs a grid, got a sequence.")
        if self.how == "value":
            raise ValueError("no such level")
        yield from super().run(network, spec, budget, start, rng)


@pytest.mark.parametrize("how", ["value", "input"])
def test_a_third_partys_broken_code_is_its_authors(how: str) -> None:
    with pytest.raises(ProbeError, match=r"broken raised \w+: .*tell its author") as caught:
        check(Broken(how=how), TARGET, **HOW)
    assert not isinstance(caught.value, InputError)  # what was asked for was in order
    assert caught.value.exit_code == 4
    result = survey(TARGET, [Broken(how=how), "gpt"], network="none", **HOW)
    broken, gpt = result.families
    assert broken.supported
    assert broken.error is not None
    assert "tell its author" in broken.error
    assert gpt.error is None


def test_a_family_that_does_not_fit_is_nobodys_mistake() -> None:
    with pytest.raises(UnfitError, match="needs a grid"):
        check(Broken(how="unfit"), TARGET, **HOW)
    (found,) = survey(TARGET, [Broken(how="unfit")], **HOW).families
    assert not found.supported
    assert found.reason == "broken needs a grid, got a sequence."


def test_an_input_error_of_our_own_below_a_run_is_no_polite_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wrong(self: Any, network: Any, spec: Any, budget: Any, start: Any, rng: Any) -> Any:
        raise InputError("x must have shape (rows, 3), got (2, 2).")

    monkeypatch.setattr("capcheck.probes.length.gpt.GPT.run", wrong)
    with pytest.raises(CapcheckError, match="gpt raised InputError: x must have shape") as caught:
        check("gpt", TARGET, **HOW)
    assert caught.value.exit_code == 4
    (found,) = survey(TARGET, ["gpt"], **HOW).families
    assert found.supported  # it is an error, and not a family that does not fit
    assert found.error is not None


def test_a_network_that_raises_late_is_the_callers() -> None:
    calls = 0

    def tired(tokens: torch.Tensor, known: torch.Tensor) -> Any:
        nonlocal calls
        calls += 1
        if calls > 7:  # the check makes six
            raise OSError("weights are gone")
        return TARGET.marginals(tokens, (~known).to(TARGET.dtype))

    with pytest.raises(NetworkError, match=r"network raised OSError: weights are gone"):
        check("gpt", TARGET, network=tired, **HOW)


def test_progress_that_raises_is_the_callers() -> None:
    def wrong(progress: Any) -> None:
        raise KeyError("bar")

    with pytest.raises(InputError, match="progress must be a function of a Progress"):
        check("gpt", TARGET, progress=wrong, **HOW)


def test_a_run_keeps_a_log_with_tracebacks(tmp_path: Path) -> None:
    survey(TARGET, [Broken(), "gpt"], network="none", out=tmp_path, **HOW)
    log = (tmp_path / "run.log").read_text()
    assert "broken failed" in log
    assert "ValueError: no such level" in log
    assert "Traceback" in log
    assert "gpt, length 3, steps 1" in log


def test_a_run_of_an_unregistered_family_is_read_again(tmp_path: Path) -> None:
    from capcheck import report

    made = survey(TARGET, [Broken(how="not")], network="none", out=tmp_path, **HOW)
    again = Store.open(tmp_path).result()
    assert again.to_dict() == made.to_dict()
    assert "broken" in report(again, tmp_path / "page.html").read_text()


def test_the_gap_that_cannot_be_had_has_a_reason(tmp_path: Path) -> None:
    from capcheck.networks.signatures import TokenPredictorSignature

    oracle = TokenPredictorSignature().oracle(TARGET)
    found = check(Broken(how="not"), TARGET, network=oracle, **HOW)
    assert {gap.divergence for gap in found.found.gaps} == {"kl", "wasserstein", "mmd"}


def test_latent_classes_are_fitted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fits = 0
    fit = latent_classes.best_classes

    def counted(target: Target, classes: int) -> Any:
        nonlocal fits
        fits += 1
        return fit(target, classes)

    monkeypatch.setattr("capcheck.networks.signatures.decoder.best_classes", counted)
    check(
        "vae", from_spec("parity:4"), options={"classes": 2}, samples=200, looks=2, steps=[1],
        precision=["float32", "bfloat16"], sensitivity=[0.1], divergences=["mmd"],
    )  # fmt: skip
    assert fits == 1


@pytest.mark.parametrize("before", ["highest", "high"])
def test_tf32_is_off_while_measuring_and_comes_back(before: str) -> None:
    held = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    seen: list[tuple[str, bool]] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.set_float32_matmul_precision(before)
            torch.backends.cudnn.allow_tf32 = True

        def look(progress: Any) -> None:
            seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))

        check("gpt", TARGET, progress=look, **HOW)
        assert set(seen) == {("highest", False)}
        assert torch.get_float32_matmul_precision() == before
        assert torch.backends.cudnn.allow_tf32
        with pytest.raises(KeyError), full_precision():
            raise KeyError
        assert torch.get_float32_matmul_precision() == before
    finally:
        torch.set_float32_matmul_precision(held[0])
        torch.backends.cudnn.allow_tf32 = held[1]


def test_seeds_that_torch_does_not_take_are_refused() -> None:
    with pytest.raises(InputError, match=r"seed must be at most 9223372036854775807, got 9223372"):
        check("gpt", TARGET, seed=2**63, **HOW)
    found = check("gpt", TARGET, seed=2**63 - 1, network="mlp:width=4", fit_steps=2, **HOW)
    assert found.found.facts is not None


@pytest.mark.slow
def test_a_reader_that_goes_away_does_not_change_the_exit_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = "check --family gpt --target modes:tokens=3,gap=6 --samples 200"
    shell = f"{sys.executable} -m capcheck {words} --json | head -n 1; echo ${{PIPESTATUS[0]}}"
    piped = subprocess.run(
        ["bash", "-c", shell], capture_output=True, text=True, check=True, env=os.environ
    )
    assert piped.stdout.splitlines()[-1] == "0"
    assert "Traceback" not in piped.stderr
    refused = [*words.replace("gpt", "multi_token").split(), "--length", "3"]
    monkeypatch.setattr(sys, "argv", ["capcheck", *refused])
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        with pytest.raises(SystemExit, match="1"):
            main()


def test_debug_shows_the_traceback_and_json_has_no_bare_infinity(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def capcheck(words: str) -> tuple[object, str, str]:
        """Exit code, standard output and standard error of a command."""
        monkeypatch.setattr(sys, "argv", ["capcheck", *words.split()])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    wrong = "check --family gpt --target parity:0"
    (plain, _, sentence), (debug, _, traceback) = capcheck(wrong), capcheck(f"{wrong} --debug")
    assert (plain, debug) == (2, 2)
    assert "Traceback" not in sentence
    assert "Traceback" in traceback
    assert sentence.splitlines()[-1] == traceback.splitlines()[-1]
    words = "check --family diffusion --target gaussian:tokens=2 --steps 1 --samples 200 --json"
    _, found, _ = capcheck(words)

    def refuse(word: str) -> None:
        raise AssertionError(word)

    data = json.loads(found, parse_constant=refuse)
    assert data["cells"][0]["estimates"]["kl"]["value"] == "Infinity"


def test_a_suspect_that_fails_does_not_take_the_family_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from capcheck.probes.length.gpt import GPT
    from capcheck.probes.length.maskgit import MaskGIT
    from capcheck.procedures.probe import Suspect

    suspect = Suspect(failure="wrong factorisation", cure="another", probe=Broken())
    monkeypatch.setattr(MaskGIT, "suspects", lambda self: (suspect,))
    found = check("maskgit", TARGET, options={"rounds": 1}, **HOW)
    assert found.outcome.value == "not_representable"
    assert found.found.causes == ()
    assert GPT().suspects() == ()


def test_names_and_indices_may_come_as_people_write_them() -> None:
    indices: Any = [np.int64(1)]
    found = check("gpt", TARGET, divergences="kl,mmd", given=indices, samples=200, lengths=[2])
    assert set(found.cells[0].estimates) == {"kl", "mmd"}
    assert found.settings.given == (1,)
    assert check("gpt", TARGET, given=None, **HOW).settings.given == ()


def test_a_failure_leaves_nothing_on_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ProbeError):
        check(Broken(), TARGET, **HOW)
    assert "Traceback" not in capfd.readouterr().err
