"""Reports of several kinds of runs, each made once per worker, with the JSON of its run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capcheck import survey
from capcheck.core.budget import Grid
from capcheck.data import Layout, load_target
from capcheck.divergences.estimate import Estimate
from capcheck.procedures.registry import report_writer
from capcheck.results.measurement import Cell
from capcheck.results.survey import SurveyResult
from capcheck.runs.store import Store
from capcheck.targets import ProductMixture

__all__ = ["HOSTILE_FAMILY", "HOSTILE_FILE", "HOSTILE_TEXT", "RUNS", "Report", "written"]

FAMILIES = ("gpt", "maskgit", "diffusion")
TURN = "\u202e"  # right-to-left override: what follows reads backwards
HOSTILE_FAMILY = "<script>alert('family')</script>\"'&,"
HOSTILE_FILE = "<img src=x onerror=alert('file')>\"'&"
HOSTILE_TEXT = f"</script><script>alert('text')</script>{TURN}\"' </pre></body>\n"
COPIES, LENGTHS, STEPS = 20, 25, 10  # families, lengths and steps of a run of 5,000 cells


@dataclass(frozen=True, kw_only=True)
class Report:
    """A page, and what it is of.

    Attributes:
        path: File of the page.
        run: The run.
        result: The run's JSON.
    """

    path: Path
    run: SurveyResult
    result: dict[str, Any]


def written(run: SurveyResult, path: Path) -> Report:
    """Writes the report of a run to a file."""
    path.write_text(report_writer()(run), encoding="utf-8")
    return Report(path=path, run=run, result=run.to_dict())


def continuous(three: ProductMixture, folder: Path) -> SurveyResult:
    """A run on three real tokens, with verdicts of both kinds and a family that fails."""
    return survey(three, [*FAMILIES, "var"], samples=200, lengths=[0, 3], steps=[1, 8])


def text(three: ProductMixture, folder: Path) -> SurveyResult:
    """A run on windows of four characters, which diffusion is not defined for."""
    (folder / "tale.txt").write_text("to be or not to be, that is the question; " * 20)
    target = load_target(str(folder / "tale.txt"), Layout(tokens=4), law="markov:1")
    families = ["gpt", "maskgit", "masked_diffusion", "diffusion"]
    return survey(target, families, samples=200, lengths=[0, 4], steps=[1, 4])


def hostile(three: ProductMixture, folder: Path) -> SurveyResult:
    """A run whose data file, text and first family are named to break out of a page."""
    path = folder / f"{HOSTILE_FILE}{TURN}.txt"
    path.write_text(HOSTILE_TEXT * 40)
    target = load_target(str(path), Layout(tokens=4), law="markov:1")
    run = survey(target, ["gpt", "maskgit"], samples=200, lengths=[0, 4], steps=[1])
    named, other = run.families
    plan = named.plan.model_copy(update={"family": f"{HOSTILE_FAMILY}{TURN}"})
    named = named.model_copy(update={"plan": plan, "notes": (HOSTILE_TEXT,)})
    return run.model_copy(update={"families": (named, other)})


def unfinished(three: ProductMixture, folder: Path) -> SurveyResult:
    """A run that was killed in its second of three families."""
    out = folder / "run"
    survey(three, FAMILIES, samples=200, lengths=[0, 3], steps=[1, 8], out=out)
    lines = (out / "cells.jsonl").read_text().splitlines(keepends=True)
    places = [place for place, line in enumerate(lines) if '"key"' in line]
    (out / "cells.jsonl").write_text("".join(lines[: places[5] + 1]))  # four cells, and two
    return Store.open(out).result()


def many(three: ProductMixture, folder: Path) -> SurveyResult:
    """A run of 5,000 cells, copies of measured ones with divergences that fall along each axis."""
    run = survey(three, FAMILIES, samples=200, lengths=[0, 3], steps=[1, 8])
    tokens = LENGTHS - 1
    grid = Grid.over(tokens, range(LENGTHS), [2**k for k in range(STEPS)])
    families = []
    for copy in range(COPIES):
        found = run.families[copy % len(run.families)]
        cells = [
            _cell(found.cells[place % len(found.cells)], budget, 1 + copy / 7)
            for place, budget in enumerate(grid.budgets())
        ]
        plan = found.plan.model_copy(update={"family": f"{found.family}{copy}"})
        smallest = None if found.smallest_budget is None else cells[-1].budget
        update = {"plan": plan, "cells": tuple(cells), "smallest_budget": smallest}
        families.append(found.model_copy(update=update))
    settings = run.settings.model_copy(update={"grid": grid})
    target = run.target.model_copy(update={"tokens": tokens})
    update = {"families": tuple(families), "settings": settings, "target": target}
    return run.model_copy(update=update)


def _cell(cell: Cell, budget: Any, scale: float) -> Cell:
    """A cell at another budget, with its divergences scaled."""
    factor = scale * math.exp(-budget.length / 10) / math.sqrt(budget.steps)
    estimates = {name: _scaled(one, factor) for name, one in cell.estimates.items()}
    calls = max(1, budget.length) * budget.steps
    update = {"budget": budget, "model_calls": calls, "estimates": estimates}
    return cell.model_copy(update=update)


def _scaled(estimate: Estimate, factor: float) -> Estimate:
    ends = {name: getattr(estimate, name) for name in ("value", "low", "high")}
    return estimate.model_copy(
        update={name: None if x is None else x * factor for name, x in ends.items()}
    )


RUNS: dict[str, Callable[[ProductMixture, Path], SurveyResult]] = {
    "continuous": continuous,
    "text": text,
    "hostile": hostile,
    "unfinished": unfinished,
    "many": many,
}
