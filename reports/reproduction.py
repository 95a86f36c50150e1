"""A finding is repeated by a command of capcheck, and by a script without capcheck.

The script runs a scheduler of `diffusers` with the network that is best where all data are
`capcheck.samplers.lint.POINT`, or independent Gaussian numbers, which has a closed form in the
scheduler's own convention. It exists for findings that need no target, and beside the targets in
`capcheck.samplers.battery.SCALARS`, on the denoising schedulers with `alphas_cumprod` or flow time.

| prediction | answer for the input m = a x_0 + s e |
|---|---|
| epsilon | (m - a x_0) / s |
| v_prediction | a (m - a x_0) / s - s x_0 |
| sample | x_0 |
| flow | (m - a x_0) / s - x_0, with s = t / num_train_timesteps and a = 1 - s |
"""

from __future__ import annotations

import ast
import json
import shlex
from collections.abc import Mapping
from typing import Any

from capcheck.results.measurement import Outcome
from capcheck.samplers.battery import SCALARS
from capcheck.samplers.check_sampler import SAMPLES
from capcheck.samplers.findings import Finding, SamplerResult
from capcheck.samplers.lint import POINT

__all__ = ["ANSWERS", "SCRIPTED", "command", "script"]

ANSWERS = {
    "epsilon": "(m - a * x_0) / s",
    "v_prediction": "a * (m - a * x_0) / s - s * x_0",
    "sample": "x_0",
    "flow": "(m - a * x_0) / s - x_0",
}
"""The answer of the best network, by the scheduler's prediction."""

SCRIPTED = (
    "CogVideoXDDIM", "DDIM", "DDIMParallel", "DDPM", "DDPMParallel", "DEISMultistep",
    "DPMSolverMultistep", "DPMSolverSinglestep", "EulerAncestralDiscrete", "EulerDiscrete",
    "FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete", "HeunDiscrete", "KDPM2AncestralDiscrete",
    "KDPM2Discrete", "LMSDiscrete", "PNDM", "SASolver", "UniPCMultistep",
)  # fmt: skip
"""The schedulers, without `Scheduler`, whose network is a denoiser in one of these conventions."""

WORDS = {"yes": True, "true": True, "no": False, "false": False, "none": None}


def command(result: SamplerResult, finding: Finding, *, samples: int = SAMPLES) -> str | None:
    """The shell command that shows a finding again, or None if no command line can say it.

    Args:
        result: The result that the finding belongs to.
        finding: The finding.
        samples: Number of draws where the law of the samples is not known, at least 200.
    """
    words = ["capcheck", "sampler", result.name]
    if "<" in result.name or result.name.startswith("-"):
        return None  # a local function has no name that can be imported
    for key, value in result.config.items():
        text = _setting(value)
        if text is None or "=" in key or "," in key or "-" in key or key != key.strip() or not key:
            return None
        words += ["--config", f"{key}={text}"]
    words += ["--steps", ",".join(map(str, _steps(result, finding)))]
    if finding.target is None:
        words.append("--lint")
    elif samples != SAMPLES:
        words += ["--samples", str(samples)]
    if result.seed:
        words += ["--seed", str(result.seed)]
    line = shlex.join(words)
    return line if line.isprintable() else None


def script(result: SamplerResult, finding: Finding) -> str | None:
    """A Python script that shows a finding with the third party's code alone.

    Args:
        result: The result that the finding belongs to.
        finding: The finding.

    Returns:
        The text, or None if there is no closed form for this finding or scheduler.
    """
    library, _, scheduler = result.name.partition(":")
    if (
        library != "diffusers"
        or finding.target not in (None, *SCALARS)
        or scheduler not in {f"{name}Scheduler" for name in SCRIPTED}
        or not _literal(result.config)
    ):
        return None
    prediction = str(result.config.get("prediction_type") or "epsilon")
    flow = "FlowMatch" in scheduler or prediction == "flow_prediction"
    answer, told = ANSWERS.get("flow" if flow else prediction), _told(finding, flow)
    if answer is None or told is None:
        return None
    settings = ", ".join(f"{key}={value!r}" for key, value in result.config.items())
    # A finding is told at its largest number of steps, and an exception at its smallest.
    steps = min(finding.steps) if finding.kind == "raises" else max(finding.steps)
    versions = ", ".join(f"{name} {result.versions.get(name, '')}" for name in (library, "torch"))
    lines = [
        "import diffusers, numpy, torch",
        "",
        f"# {versions}".rstrip(),
        f"scheduler = diffusers.{scheduler}({settings})",
        f"scheduler.set_timesteps({steps})",
        *_levels(flow),
        *(_loop(answer, flow, finding.target) if _samples(finding) else []),
        *told,
    ]
    text = "\n".join(lines) + "\n"
    return text if all(line.isprintable() for line in lines) else None


def _setting(value: Any) -> str | None:
    """The text of `--config` that is read as a value, or None if there is none."""
    if value is None or isinstance(value, bool):
        text = {None: "none", True: "yes", False: "no"}[value]
    elif isinstance(value, str) and _read(value) == value:
        text = value
    else:
        try:
            text = json.dumps(value)
        except (TypeError, ValueError):
            return None
    same = _read(text) == value and type(_read(text)) is type(value)
    return text if same and "," not in text and text == text.strip() else None


def _read(text: str) -> Any:
    """The value that the command line reads in a text."""
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _steps(result: SamplerResult, finding: Finding) -> list[int]:
    """The numbers of steps that a finding needs: its own, and the first that suffices."""
    steps = set(finding.steps)
    if finding.kind == "worse_with_more_steps":
        steps |= {
            min(
                (
                    cell.steps
                    for cell in result.cells
                    if cell.target == finding.target and cell.outcome == Outcome.REPRESENTABLE.value
                ),
                default=min(steps),
            )
        }
    return sorted(steps)


def _literal(config: Mapping[str, Any]) -> bool:
    """Whether all settings can be written in Python."""
    try:
        return all(
            key.isidentifier() and ast.literal_eval(repr(value)) == value
            for key, value in config.items()
        )
    except (SyntaxError, ValueError):
        return False


def _levels(flow: bool) -> list[str]:
    """Lines that define `level(t)`, the amplitudes of signal and noise at a timestep."""
    if flow:
        return [
            "",
            "def level(t):  # signal, noise",
            "    s = float(t) / scheduler.config.num_train_timesteps",
            "    return 1 - s, s",
            "",
        ]
    return [
        "ratio = (1 / scheduler.alphas_cumprod.double() - 1).sqrt().numpy()  # noise / signal",
        "",
        "def level(t):  # signal, noise",
        "    a = 1 / numpy.hypot(1, numpy.interp(float(t), range(len(ratio)), ratio))",
        "    return a, (1 - a * a) ** 0.5",
        "",
    ]


def _samples(finding: Finding) -> bool:
    """Whether samples are needed to show a finding."""
    drawn = finding.kind in ("raises", "leftover_noise") or "bias" in finding.evidence
    return drawn or finding.target is not None


def _loop(answer: str, flow: bool, target: str | None) -> list[str]:
    """Lines that make samples x where all data are `POINT`, or those of a target."""
    scale = "" if flow else " * scheduler.init_noise_sigma"
    scaled = "x" if flow else "scheduler.scale_model_input(x, t)"
    mean, deviation = (POINT, 0.0) if target is None else SCALARS[target]
    return [
        f"mean, variance = {mean}, {deviation} ** 2  # of every number of every image",
        "torch.manual_seed(0)",
        f"x = torch.randn(10000, 1, 2, 2, dtype=torch.float64){scale}",
        "for t in scheduler.timesteps:",
        "    a, s = level(t)",
        f"    m = {scaled}",
        "    x_0 = mean + a * variance / (a**2 * variance + s**2) * (m - a * mean)",
        f"    x = scheduler.step({answer}, t, x).prev_sample",
    ]


def _told(finding: Finding, flow: bool) -> list[str] | None:
    """The last lines, which print the numbers of a finding; None if no script shows it."""
    if finding.target is not None and finding.kind != "raises":
        return [
            'print("mean of the samples:", float(x.mean()), "of the data:", mean)',
            'print("deviation of the samples:", float(x.std()), "of the data:", variance**0.5)',
        ]
    if finding.kind == "raises":
        return ['print("all samples are finite:", bool(x.isfinite().all()))']
    if finding.kind == "fewer_steps":
        return ['print("levels:", len(set(scheduler.timesteps.tolist())))']
    if "collisions" in finding.evidence:
        return [
            "t = scheduler.timesteps",
            "told = t.bfloat16()",
            'print("equal in bfloat16:", int(((told[1:] == told[:-1]) & (t[1:] != t[:-1])).sum()))',
        ]
    if finding.kind == "repeated_level":
        return [
            "t = scheduler.timesteps.tolist()",
            'print("repeated levels:", sum(a == b for a, b in zip(t, t[1:])))',
        ]
    if finding.kind == "leftover_noise":
        return ['print("deviation of the samples, which should be 0:", float(x.std()))']
    if finding.kind == "prior_mismatch":
        return [
            "t = scheduler.timesteps[0]",
            "a, s = level(t)",
            'print("power of the signal in units of the noise, at first:", (a / s) ** 2)',
            'noise = torch.ones(1, 1, 2, 2) * getattr(scheduler, "init_noise_sigma", 1.0)',
            'if hasattr(scheduler, "scale_model_input"):',
            "    noise = scheduler.scale_model_input(noise, t)",
            'print("width of the starting noise, which should be 1:", float(noise.mean() / s))',
        ]
    if "bias" in finding.evidence:
        return ['print("bias of the samples:", abs(float(x.mean()) - mean))']
    if "mismatch" in finding.evidence:
        return [
            "own = scheduler.sigmas[: len(scheduler.timesteps)].double()",
            f"told = [{'s' if flow else 's / a'} for a, s in map(level, scheduler.timesteps)]",
            "logs = (own / torch.tensor(told, dtype=torch.float64)).log()",
            'print("mismatch, a logarithm:", float(logs[logs.isfinite()].abs().max()))',
        ]
    return None
