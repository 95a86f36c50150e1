"""What the product promises of a GPU, measured: `tests/gpu/run.sh` calls this file.

Every stage runs in a process of its own with a time limit, so that one that hangs or crashes costs
no other its result. The stages write one JSON file and a Markdown table; the exit code is 1 if a
stage found something wrong. On a CPU the same stages run smaller, as a rehearsal.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from capcheck import check, fit, survey
from capcheck.core.budget import Budget
from capcheck.core.randomness import CounterRandomness
from capcheck.data import Layout, load_target
from capcheck.divergences.estimate import Estimate
from capcheck.fitting import build
from capcheck.noise.paths import PATHS
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe, families, probe_class
from capcheck.runs.options import Progress
from capcheck.targets import ProductMixture, from_spec
from capcheck.testing.cases import TARGETS, cases_of
from capcheck.testing.checks import CHECKS

Found = dict[str, Any]
SLACK = 1e-3  # relative distance by which intervals in float32 and float64 may miss each other


def conformance(device: str, found: Found) -> None:
    """The conformance suite of every family on the device."""
    names, targets = (["gpt"], ["table"]) if device == "cpu" else (families(), list(TARGETS))
    jobs = [(_conforms, (family, name, device)) for family in names for name in targets]
    found |= {"checks": 0, "seconds_by_family": {}}
    for result in _in_processes(jobs):
        found["checks"] += result["checks"]
        found["failures"] += result["failures"]
        spent = found["seconds_by_family"]
        spent[result["family"]] = spent.get(result["family"], 0) + result["seconds"]


def _conforms(family: str, name: str, device: str) -> Found:
    began, checks, failures = time.monotonic(), 0, []
    for case in cases_of(build_probe(family)):
        if case.target != name or case.device != device:
            continue
        for conforms in CHECKS:
            checks += 1
            try:
                conforms(case)
            except Exception:  # a stage reports every failure
                failures.append([f"{conforms.__name__} {case}", traceback.format_exc()[-3000:]])
    seconds = time.monotonic() - began
    return {"family": family, "checks": checks, "failures": failures, "seconds": seconds}


def agreement(device: str, found: Found) -> None:
    """Every family in float32 on the device and in float64 on the CPU, from the same draws."""
    chosen = ["vae"] if device == "cpu" else families()
    found |= {"families": 0, "estimates": 0, "seconds_by_family": {}}
    for result in _in_processes([(_agrees, (family, device)) for family in chosen]):
        found["families"] += 1
        found["estimates"] += result["estimates"]
        found["failures"] += result["failures"]
        found["seconds_by_family"][result["family"]] = result["seconds"]


def _agrees(family: str, device: str) -> Found:
    kinds = probe_class(family).kinds
    target = (
        load_target("digits", Layout()) if "continuous" in kinds else from_spec("copy:tokens=8")
    )
    samples = 200 if device == "cpu" else 1000
    how: dict[str, Any] = {"samples": samples, "lengths": [target.spec.tokens], "steps": [1, 4]}
    found: Found = {"family": family, "estimates": 0, "failures": [], "seconds": []}
    results = []
    for place in (device, "cpu"):
        began = time.monotonic()
        try:
            results.append(check(family, target, device=place, **how))
        except Exception:  # a stage reports every failure
            found["failures"].append([f"{family} on {place}", traceback.format_exc()[-3000:]])
            return found
        found["seconds"].append(round(time.monotonic() - began, 1))
    there, here = results
    if there.found.outcome is not here.found.outcome:
        said = f"{there.found.outcome.value} there, {here.found.outcome.value} on the CPU"
        found["failures"].append([family, said])
    for one, other in zip(there.cells, here.cells, strict=True):
        for name, estimate in one.estimates.items():
            found["estimates"] += 1
            if not _meet(estimate, other.estimates[name]):
                said = f"{estimate} there, {other.estimates[name]} on the CPU"
                found["failures"].append([f"{family}, {name} at {one.budget}", said])
    return found


def _meet(a: Estimate, b: Estimate) -> bool:
    """Whether two intervals meet, or nothing is known on both sides."""
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return a.value is None and b.value is None
    slack = SLACK * max(1.0, abs(a.high) if math.isfinite(a.high) else 1.0)
    return a.low <= b.high + slack and b.low <= a.high + slack


def oracle(device: str, found: Found) -> None:
    """Share of the measured matrix-product peak that the denoiser of a data set reaches."""
    small = device == "cpu"
    peak = _matrix_peak(device, 1024 if small else 8192)
    found["matrix_product_tflops"] = peak
    for rows, components, tokens in (
        [(256, 4000, 64)] if small else [(8192, 60_000, 64), (8192, 60_000, 784)]
    ):
        target, x = _data_set(components, tokens, rows, device)
        level = torch.full((rows, tokens), 0.3, device=device)

        def denoise(target: ProductMixture = target, x: Any = x, level: Any = level) -> object:
            return target.denoise(x, level, PATHS["cosine"])

        seconds = _seconds(denoise, device)
        flops = 4 * rows * components * tokens
        share = flops / seconds / 1e12 / peak
        found[f"{rows} x {components} x {tokens}"] = {"seconds": seconds, "share_of_peak": share}


def million(device: str, found: Found) -> None:
    """A million rows of 64 numbers as a target: draws, denoised rows, and the memory held."""
    components = 20_000 if device == "cpu" else 1_000_000
    rows = 128 if device == "cpu" else 4096
    target, x = _data_set(components, 64, rows, device)
    level = torch.full((rows, 64), 0.3, device=device)
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    seconds = _seconds(lambda: target.denoise(x, level, PATHS["cosine"]), device)
    answer = target.denoise(x[:8], level[:8], PATHS["cosine"])
    exact = target.to(device="cpu", dtype=torch.float64)
    wanted = exact.denoise(x[:8].cpu().double(), level[:8].cpu().double(), PATHS["cosine"])
    error = float((answer.cpu().double() - wanted).abs().max())
    found |= {"rows": components, "denoised": rows, "seconds": seconds, "error": error}
    if device != "cpu":
        found["peak_GiB"] = torch.cuda.max_memory_allocated() / 2**30
    if error > 1e-3:
        found["failures"].append(["denoiser", f"float32 misses float64 by {error}"])


def surveys(device: str, found: Found) -> None:
    """A survey of digits by the oracles, with the seconds of every family."""
    chosen, samples = (["vae"], 200) if device == "cpu" else (None, 2000)
    spent: dict[str, float] = {}
    found["seconds_by_family"] = spent
    last: tuple[float, str] = time.monotonic(), "preparation"

    def note(progress: Progress) -> None:
        nonlocal last
        now, (since, running) = time.monotonic(), last
        spent[running] = round(spent.get(running, 0) + now - since, 2)
        last = now, progress.running.split()[0]

    began = time.monotonic()
    result = survey(
        load_target("digits", Layout()), chosen, device=device, network="none",
        samples=samples, progress=note,
    )  # fmt: skip
    found["survey_seconds"] = time.monotonic() - began
    found["outcomes"] = {each.family: each.outcome.value for each in result.families}
    found["failures"] += [
        [each.family, each.error] for each in result.families if each.error is not None
    ]


def fits(device: str, found: Found) -> None:
    """Steps per second of fits, and what they leave to learn."""
    target = load_target("digits", Layout())
    place, dtype = torch.device(device), torch.float64 if device == "cpu" else torch.float32
    target = target.to(device=place, dtype=dtype)
    steps = 50 if device == "cpu" else 300
    plans = [("diffusion", "mlp:width=128,depth=3")]
    if device != "cpu":
        plans += [(family, "transformer:width=128,depth=4") for family in ("diffusion", "gpt")]
    for family, architecture in plans:
        probe = build_probe(family)
        module = build(probe.signature, Procedure.of(probe, target).spec, architecture)
        began = time.monotonic()
        fitted = fit(probe, target, module, budgets=[Budget(length=8, steps=4)], steps=steps)
        seconds = time.monotonic() - began
        found[f"{family} {architecture}"] = {
            "seconds": seconds, "start": fitted.start, "validation": fitted.validation,
        }  # fmt: skip
        if fitted.diverged or not fitted.validation < fitted.start:
            found["failures"].append([family, f"from {fitted.start} to {fitted.validation}"])


STAGES: dict[str, tuple[Callable[[str, Found], None], int]] = {
    "conformance": (conformance, 130),
    "oracle": (oracle, 50),
    "million": (million, 50),
    "agreement": (agreement, 80),
    "fits": (fits, 40),
    "surveys": (surveys, 90),
}
"""Each stage and its limit in seconds; together 8 minutes."""


def _data_set(
    components: int, tokens: int, rows: int, device: str
) -> tuple[ProductMixture, torch.Tensor]:
    means = CounterRandomness(0).normal((components, tokens, 1))
    bandwidths = torch.full((tokens, 1), 0.3, dtype=torch.float64)
    dtype = torch.float32
    target = ProductMixture(means, bandwidths).to(device=torch.device(device), dtype=dtype)
    assert isinstance(target, ProductMixture)
    return target, CounterRandomness(1).normal((rows, tokens, 1)).to(device, dtype)


def _matrix_peak(device: str, size: int) -> float:
    """TFLOP/s of one large float32 matrix product."""
    a = torch.randn(size, size, device=device)
    return 2 * size**3 / _seconds(lambda: a @ a, device) / 1e12


def _seconds(run: Callable[[], object], device: str, runs: int = 3) -> float:
    """Duration of the fastest of some runs."""
    best = math.inf
    run()
    for _ in range(runs):
        _wait(device)
        began = time.perf_counter()
        run()
        _wait(device)
        best = min(best, time.perf_counter() - began)
    return best


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def _in_processes(jobs: Sequence[tuple[Callable[..., Found], tuple[str, ...]]]) -> Iterator[Found]:
    """The jobs' results as they come, from as many processes as there are cores."""
    workers = min(16, os.cpu_count() or 1)
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        for done in as_completed([pool.submit(job, *given) for job, given in jobs]):
            yield done.result()


def run_stage(name: str, device: str, out: Path) -> Found:
    """One stage in a process of its own; what it had found before its limit counts."""
    began, path = time.monotonic(), out / f"{name}.json"
    limit = STAGES[name][1] * (1 if device != "cpu" else 4)  # others may be using the CPU
    path.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--out", str(out), "--device", device, "--only", name]
    try:
        ended = subprocess.run(command, timeout=limit, check=False).returncode
        wrong = [[name, f"the process ended with exit code {ended}"]] if ended else []
    except subprocess.TimeoutExpired:
        wrong = [[name, f"not done after {limit} s"]]
    found: Found = json.loads(path.read_text()) if path.exists() else {"failures": []}
    return found | {"seconds": time.monotonic() - began, "failures": found["failures"] + wrong}


def only(name: str, device: str, out: Path) -> None:
    """The stage itself; a thread keeps what it has found so far."""
    found: Found = {"failures": []}
    done = threading.Event()

    def keep() -> None:
        last = False
        while not last:
            last = done.wait(1)
            part = out / f"{name}.part"
            part.write_text(json.dumps(found, indent=1))
            part.replace(out / f"{name}.json")

    keeper = threading.Thread(target=keep)
    keeper.start()
    try:
        STAGES[name][0](device, found)
    finally:
        done.set()
        keeper.join()


def table(machine: Found, stages: dict[str, Found]) -> str:
    """The results as a Markdown table."""
    lines = [f"{machine['device']}, torch {machine['torch']}, Python {machine['python']}", ""]
    lines += ["| stage | s | failed | found |", "|---|---|---|---|"]
    hidden = {"seconds", "failures", "seconds_by_family", "outcomes"}
    for name, found in stages.items():
        told = "; ".join(f"{key}: {_told(found[key])}" for key in found if key not in hidden)
        lines.append(f"| {name} | {found['seconds']:.0f} | {len(found['failures'])} | {told} |")
    return "\n".join(lines) + "\n"


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_told(v)}" for k, v in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--stage", action="append", choices=list(STAGES))
    parser.add_argument("--only", choices=list(STAGES), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU; rehearse with --device cpu")
    chosen.out.mkdir(parents=True, exist_ok=True)
    if chosen.only is not None:
        only(chosen.only, chosen.device, chosen.out)
        return 0
    machine = {
        "device": torch.cuda.get_device_name() if chosen.device == "cuda" else platform.processor(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    stages: dict[str, Found] = {}
    for name in chosen.stage or STAGES:
        stages[name] = run_stage(name, chosen.device, chosen.out)
        print(table(machine, stages).splitlines()[-1], flush=True)
        (chosen.out / "gpu.json").write_text(json.dumps({"machine": machine} | stages, indent=1))
        (chosen.out / "gpu.md").write_text(table(machine, stages))
    for name, found in stages.items():
        for where, what in found["failures"]:
            print(f"{name}: {where}: {what.strip().splitlines()[-1]}")
    return 1 if any(found["failures"] for found in stages.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
