"""The page of the handbook, made of the stored results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prediction.texts import INTRODUCTION, LESSONS, MEANING, REPEAT, TRAINED
from prediction.verdict import Record, interval, multiples, violates

__all__ = ["PAGE", "PICTURE", "excess", "page"]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "reports" / "handbook" / "prediction.md"
PICTURE = ROOT / "reports" / "handbook" / "pictures" / "prediction.svg"


def page(results: dict[str, Any]) -> str:
    """The page as MyST Markdown."""
    runs = results["runs"]
    parts = [
        INTRODUCTION.format(runs=len(runs)),
        _answer(results),
        "![Divergence after training against the floor predicted before, in multiples of the "
        "tolerance, one mark for each run](pictures/prediction.svg)",
        _caption(results),
        "## All runs",
        _runs(runs),
        "## Longer and wider",
        _sizes(results),
        TRAINED,
        MEANING,
        _found(results),
        REPEAT.format(
            minutes=f"{results['minutes']:.0f}",
            processor=f"{results['processor_minutes']:.0f}",
            workers=results["workers"],
        ),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _answer(results: dict[str, Any]) -> str:
    said = results["verdict"]
    by_name = {run["name"]: run for run in results["runs"]}
    below = [f"{name} (by {_short(by_name[name])})" for name in said["violations"]]
    ended = f"{len(below)} of {said['runs']} runs ended significantly below their floor"
    ended += f": {', '.join(below)}. See below." if below else "."
    held = (
        f"{said['bounds']} floors hold for every network, and {len(said['violated'])} of these "
        f"runs ended below; the other {said['runs'] - said['bounds']} are floors of the optimum of "
        "the training loss."
    )
    word = "All" if said["separated"] else "Not all"
    within = ", ".join(f"{task} {value:.2f}" for task, value in said["within"].items())
    return "\n".join(
        (
            f"- **Floors**: {ended} {held} Each statement is one-sided at {said['each']:.4%}, all "
            f"together at 99%. {said['below']} outcomes lie below the floor at all.",
            f"- **Ranking**: Spearman's correlation of floor and outcome is {said['spearman']:.3f} "
            f"(95% interval {said['low']:.3f} to {said['high']:.3f}). Within tasks: {within}.",
            f"- **Verdicts**: {said['representable']} of {said['runs']} runs were called "
            f"representable. {word} of them ended below every run that was called not "
            "representable, in multiples of the tolerance.",
        )
    )


def _short(run: Record) -> str:
    """How far a run ended below its floor, as a share of the floor."""
    return f"{-excess(run) / run['prediction']['value']:.2g} of the floor"


def _caption(results: dict[str, Any]) -> str:
    return (
        f"*Bars are the intervals of the test, at {results['verdict']['each']:.4%} on each side. "
        "On the diagonal a network reached what capcheck predicted; below it would contradict the "
        "prediction. Floors of 0 stand at the left edge. The dashed lines are the tolerance.*"
    )


def _runs(runs: Sequence[Record]) -> str:
    lines = [
        "| run | predicted floor | after training | ratio | × tolerance | verdict before |",
        "|---|---|---|---|---|---|",
    ]
    for run in runs:
        floor, found = run["prediction"], run["outcome"]
        ratio = f"{found['value'] / floor['value']:.2f}" if floor["value"] > 0 else "-"
        unit = " (MMD²)" if run["divergence"] == "mmd" else ""
        before, after = _number(floor["value"]), _ended(found)
        scaled = " → ".join(_number(value) for value in multiples(run))
        lines.append(
            f"| {run['name']}{unit} | {before} | {after} | {ratio} | {scaled} "
            f"| {floor['verdict']} |"
        )
    return "\n".join(lines)


def _sizes(results: dict[str, Any]) -> str:
    by_name = {run["name"]: run for run in [*results["runs"], *results["sizes"]]}
    lines = ["| run | small | as above | large |", "|---|---|---|---|"]
    for name in dict.fromkeys(run["of"] for run in results["sizes"]):
        three = [by_name[f"{name}: small"], by_name[name], by_name[f"{name}: large"]]
        cells = [
            f"{_number(excess(run))} ({run['outcome']['parameters']:,} parameters, "
            f"{run['updates']:,} updates)"
            for run in three
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return (
        "The excess over the floor, in nats, of three runs that were called representable, each "
        "trained in three sizes:\n\n" + "\n".join(lines)
    )


def excess(run: Record) -> float:
    """The outcome less the predicted floor, in the unit of the divergence."""
    return float(run["outcome"]["value"]) - float(run["prediction"]["value"])


def _found(results: dict[str, Any]) -> str:
    by_name = {run["name"]: run for run in [*results["runs"], *results["others"]]}
    learned, stuck, one_level = (
        _number(by_name[name]["outcome"]["value"])
        for name in ("parity, masked, 1 per step", "parity, SiLU", "plane, denoiser, 1 step")
    )
    everywhere = [run for run in results["others"] if run["continuous"]]
    lines = [
        f"  | {run['updates']:,} | {_ended(run['outcome'])} "
        f"| {'yes' if violates(run, results['verdict']['each']) else 'no'} |"
        for run in everywhere
    ]
    inverted = [run["outcome"] for run in results["runs"] if "folded" in run["outcome"]]
    mixed = [
        f"  | {one['per_step']} | {_number(one['oracle'])} | {_number(one['least'])} |"
        for one in results["orders"]
    ]
    seeds = [run for run in results["others"] if run["name"].startswith("parity, 2 per step")]
    again = [by_name["parity, masked, 2 per step"], *seeds]
    return LESSONS.format(
        again=", ".join(f"{excess(run):+.1e}" for run in again),
        seeds=len(seeds),
        orders="\n".join(mixed),
        learned=learned,
        stuck=stuck,
        one_level=one_level,
        floor=_number(everywhere[0]["prediction"]["value"]),
        levels="\n".join(lines),
        inverted=len(inverted),
        rows=f"{sum(found['draws'] for found in inverted):,}",
        lost=sum(found["lost"] for found in inverted),
        folded=sum(found["folded"] for found in inverted),
    )


def _ended(found: Record) -> str:
    """An outcome with its 95% interval, if it has one."""
    low, high = interval(found)
    value = _number(found["value"])
    return f"{value} [{_number(low)}, {_number(high)}]" if found["error"] else value


def _number(value: float) -> str:
    return "0" if value == 0 else f"{value:.3g}"
