"""Commands that show a finding again, and scripts that show it without capcheck."""

from __future__ import annotations

import itertools
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from capcheck import check_sampler
from capcheck.cli.app import cli
from capcheck.reports.reproduction import SCRIPTED, command, script
from capcheck.samplers.findings import Cell, Finding, SamplerResult

NOISE = Finding(kind="leftover_noise", sentence="it scatters", steps=(5, 10))


def result(name: str, *findings: Finding, **config: Any) -> SamplerResult:
    versions = {"capcheck": "0.1.0", "torch": "2", "diffusers": "1"}
    return SamplerResult(
        name=name, config=config, versions=versions, findings=findings, cells=(), seed=0
    )


BENT = """
def sampler(network, noise, steps, generator, factor=1.0, mode=None, flags=()):
    x = noise
    for j in range(steps, 0, -1):
        t, s = j / steps, (j - 1) / steps
        x = x + (s - t) * (x - network(x, t)) / t
    return factor * x if mode == "1" and flags == {"a": 1} else x
"""


def test_the_command_shows_the_finding_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tilted.py").write_text(BENT)
    config = {"path": "linear", "factor": 1.1, "mode": "1", "flags": {"a": 1}}
    found = check_sampler("tilted:sampler", config=config, steps=[4, 7], lint_only=True, seed=5)
    (finding,) = found.findings
    line = command(found, finding)
    assert line is not None
    words = shlex.split(line)
    assert words[:3] == ["capcheck", "sampler", "tilted:sampler"]
    again = CliRunner().invoke(cli, [*words[1:], "--json"], standalone_mode=False)
    data = json.loads(again.output)
    assert (data["config"], data["seed"]) == (config, 5)
    assert data["findings"] == [finding.model_dump(mode="json")]


@pytest.mark.parametrize(
    "value",
    [True, False, None, 3, -0.5, 1e-9, "trailing", "yes", "3", "null", "None", "a b'c\"$x", [2]],
)
def test_settings_keep_their_value_and_type(value: Any) -> None:
    from capcheck.cli.parameters import Pairs
    from capcheck.cli.sampler import _value

    line = command(result("diffusers:DDIMScheduler", key=value), NOISE)
    assert line is not None
    words = shlex.split(line)
    read = _value(Pairs().convert(words[words.index("--config") + 1], None, None)["key"])
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("module:outer.<locals>.inner", {}),
        ("--help", {}),
        ("module:\u202ereversed", {}),
        ("module:f", {"key": [1, 2]}),
        ("module:f", {"key": "a,b"}),
        ("module:f", {"key": " a"}),
        ("module:f", {"a-b": 1}),
        ("module:f", {"a=b": 1}),
        ("module:f", {"key": float("nan")}),
        ("module:f", {"key": object()}),
    ],
)
def test_what_no_command_line_can_say_has_no_command(name: str, config: dict[str, Any]) -> None:
    assert command(result(name, **config), NOISE) is None


def test_a_command_asks_for_what_the_finding_needs() -> None:
    cells = [
        Cell(target="wide", steps=k, calls=k, outcome=outcome, reason="")
        for k, outcome in [(1, "not_representable"), (5, "representable"), (20, "representable"),
                           (50, "not_representable")]
    ]  # fmt: skip
    worse = Finding(kind="worse_with_more_steps", sentence="", steps=(50,), target="wide")
    of = result("diffusers:DDIMScheduler", worse).model_copy(update={"cells": tuple(cells)})
    assert command(of, worse) == "capcheck sampler diffusers:DDIMScheduler --steps 5,50"
    line = command(of, worse, samples=900)
    assert line == "capcheck sampler diffusers:DDIMScheduler --steps 5,50 --samples 900"
    assert command(of, NOISE) == "capcheck sampler diffusers:DDIMScheduler --steps 5,10 --lint"


def deviation_of_ddim(deviation: float, timesteps: list[int]) -> float:
    """That of the samples of DDIM on Gaussian numbers, by the factor of each step."""
    squares = np.append(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)), 1.0)  # the last is clean
    found = 1.0
    for t, after in itertools.pairwise([*timesteps, 1000]):
        (a, b), (s, r) = ((np.sqrt(x[t]), np.sqrt(x[after])) for x in (squares, 1 - squares))
        gain = a * deviation**2 / (a**2 * deviation**2 + s**2)
        found *= b * gain + r * (1 - a * gain) / s
    return float(found)


@pytest.mark.slow
def test_scripts_beside_a_target_show_its_moments_and_those_of_the_samples() -> None:
    of = result("diffusers:DDIMScheduler", timestep_spacing="trailing", clip_sample=False)
    found = [
        Finding(kind="biased_rule", sentence="", steps=(5, 10), target=target)
        for target in ("narrow", "wide")
    ]
    for lines, deviation in zip(run([script(of, one) for one in found]), (0.05, 0.2), strict=True):
        (mean, centre), (seen, data) = (map(float, line.split(" of the data: ")) for line in lines)
        expected = deviation_of_ddim(deviation, [999 - 100 * j for j in range(10)])
        assert data == pytest.approx(deviation)
        assert seen == pytest.approx(expected, rel=0.02)
        assert seen < 0.95 * data
        assert mean == pytest.approx(centre, abs=0.01)


DRIVER = """
import contextlib, io, json, sys, warnings
warnings.simplefilter("ignore")
told = []
for text in json.load(sys.stdin):
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            exec(text, {})
    except Exception as error:
        print(f"{type(error).__name__}: {error}".split(chr(10))[0], file=out)
    told.append(out.getvalue())
print(json.dumps(told))
"""


def run(scripts: list[str | None]) -> list[list[str]]:
    """What each script prints, by lines, without what stands before a colon."""
    assert None not in scripts
    assert not any("capcheck" in str(text) for text in scripts)
    done = subprocess.run(
        [sys.executable, "-c", DRIVER], input=json.dumps(scripts), capture_output=True, text=True,
        timeout=120, check=True,
    )  # fmt: skip
    told: list[str] = json.loads(done.stdout.splitlines()[-1])
    return [[line.split(": ", 1)[-1] for line in text.splitlines()] for text in told]


ZERO = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
KARRAS = {"use_karras_sigmas": True}
FOUND: list[tuple[str, dict[str, Any], int, str]] = [
    ("DDIMScheduler", {}, 5, "prior_mismatch"),
    ("DDIMScheduler", ZERO, 10, "raises"),
    ("PNDMScheduler", {}, 2, "raises"),
    ("HeunDiscreteScheduler", {}, 5, "prior_mismatch"),
    ("DEISMultistepScheduler", {}, 20, "leftover_noise"),
    ("DPMSolverMultistepScheduler", KARRAS, 100, "repeated_level"),
    ("DPMSolverMultistepScheduler", KARRAS, 100, "biased_rule"),
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_scripts_show_the_numbers_of_released_schedulers() -> None:
    pytest.importorskip("diffusers", reason="diffusers is not installed")
    findings, scripts = [], []
    for name, config, steps, kind in FOUND:
        of = check_sampler(f"diffusers:{name}", config=config, steps=[steps], lint_only=True)
        finding = next(one for one in of.findings if one.kind == kind)
        findings.append(finding)
        scripts.append(script(of, finding))
    for finding, lines in zip(findings, run(scripts), strict=True):
        if finding.kind == "raises":
            assert lines == [
                "False" if "not finite" in finding.sentence
                else finding.sentence.split(": ", 1)[-1]
            ]  # fmt: skip
        else:
            numbers = [float(line) for line in lines]
            expected = [values[-1] for values in finding.evidence.values()]
            # Deviations are of other draws: 512 and 4000 numbers, 3.4% and 1.2% each.
            assert numbers == pytest.approx(expected, rel=0.15, abs=1e-6)


RIGHT: list[tuple[str, dict[str, Any]]] = [
    ("DDIMScheduler", {}),
    ("DDIMScheduler", {"prediction_type": "v_prediction"}),
    ("DDIMScheduler", {"prediction_type": "sample"}),
    ("DDIMScheduler", {"prediction_type": "v_prediction", **ZERO}),
    ("EulerDiscreteScheduler", {}),
    ("FlowMatchEulerDiscreteScheduler", {}),
    ("DPMSolverMultistepScheduler", {"prediction_type": "flow_prediction",
                                     "use_flow_sigmas": True}),
]  # fmt: skip


@pytest.mark.slow
def test_scripts_of_right_schedulers_show_nothing() -> None:
    pytest.importorskip("diffusers", reason="diffusers is not installed")
    biased = Finding(kind="biased_rule", sentence="", steps=(20,), evidence={"bias": [0.1]})
    fewer = Finding(kind="fewer_steps", sentence="", steps=(20,))
    raises = Finding(kind="raises", sentence="", steps=(20,))
    wanted: list[tuple[Finding, str | float]] = [
        (NOISE, 0.0), (biased, 0.0), (fewer, 20), (raises, "True"),
    ]  # fmt: skip
    cases = [
        (script(result(f"diffusers:{name}", **config), finding), expected)
        for name, config in RIGHT
        for finding, expected in wanted
    ]
    # The mean of 4,000 numbers that scatter by 0.01 is known to 0.0002.
    cases += [(script(result(f"diffusers:{name}Scheduler"), biased), 0.0) for name in SCRIPTED]
    for (text, expected), (line,) in zip(cases, run([text for text, _ in cases]), strict=True):
        found = line if isinstance(expected, str) else pytest.approx(float(line), abs=1e-3)
        assert expected == found, text


@pytest.mark.parametrize(
    ("name", "config", "finding"),
    [
        ("azula:DDIMSampler", {}, NOISE),
        ("module:sampler", {}, NOISE),
        ("diffusers:EDMEulerScheduler", {}, NOISE),
        ("diffusers:CosineDPMSolverMultistepScheduler", {}, NOISE),
        ("diffusers:LCMScheduler", {}, NOISE),
        ("diffusers:AmusedScheduler", {}, NOISE),
        ("diffusers:A();import os", {}, NOISE),
        ("diffusers:DDIMScheduler", {"a=1); print(": 1}, NOISE),
        ("diffusers:DDIMScheduler", {"key": object()}, NOISE),
        ("diffusers:DDIMScheduler", {"key": float("inf")}, NOISE),
        ("diffusers:DDIMScheduler", {"prediction_type": "trigflow"}, NOISE),
        ("diffusers:DDIMScheduler", {}, NOISE.model_copy(update={"target": "modes"})),
        ("diffusers:DDIMScheduler", {}, NOISE.model_copy(update={"kind": "ignores_generator"})),
    ],
)
def test_without_a_closed_form_there_is_no_script(
    name: str, config: dict[str, Any], finding: Finding
) -> None:
    assert script(result(name, **config), finding) is None
