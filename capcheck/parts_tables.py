"""Networks on the terminal: divergences in parts, sizes, digits and errors, as tables."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from rich.markup import escape
from rich.table import Column, Table

from capcheck.budget import Budget
from capcheck.capacity import CapacityCurve
from capcheck.gap import Gap, PartName
from capcheck.records import NetworkFacts, Outcome, PrecisionResult, Sensitivity
from capcheck.results import FamilyResult

PARTS: tuple[PartName, ...] = ("structural", "network", "objective", "numerics", "total")


def network_sentence(facts: NetworkFacts) -> str:
    """Size and fit of a network, in words."""
    size = "" if facts.parameters is None else f"{facts.parameters:,} parameters; "
    fit = "measured as it is" if facts.fit is None else f"fit: {facts.fit}"
    return size + fit


def blame_sentence(found: FamilyResult) -> str | None:
    """Who is to blame for a failure, in words, or None if nothing failed or it is not known."""
    end_to_end = found.objective == "end_to_end"
    if found.blame == "procedure":
        if found.network == "oracle":
            return "blame the procedure or its objective, not the size of a network"
        if end_to_end:
            return "blame the procedure, or this network: the oracle fails, too"
        return "blame the procedure or its objective: the oracle fails, too"
    if found.blame == "network":
        return "blame the network, or its fit: with the oracle the same procedure is representable"
    if found.blame == "numerics":
        failing = [p.precision for p in found.precisions if p.holding == "numerics"]
        return (
            f"in {', '.join(failing)} it is not: blame numerics, not the capacity of procedure or "
            "network"
        )
    if found.outcome is Outcome.REPRESENTABLE:
        if end_to_end and found.oracle_outcome is Outcome.NOT_REPRESENTABLE:
            return (
                "blame the objective for what the oracle cannot do: fitted end to end, the same "
                "procedure can"
            )
        return None
    if found.refused_by_network:
        last, *more = reversed(found.refused_by_network)
        others = f" (and {len(more)} more)" if more else ""
        return f"at {last}{others} blame the network, or its fit: there the oracle suffices"
    return None


def gap_table(found: FamilyResult) -> Table | None:
    """Every divergence of every cell in parts, if there are any; cells alike share a row."""
    used = parts_used(found)
    if not used:
        return None
    with_digits = bool(found.precisions)
    head = ["precision"] if with_digits else []
    table = folding(*head, "length", "steps", "divergence", *used)
    table.title, table.title_justify = f"{found.title}: whose part is it?", "left"
    for precision, own in by_precision(found):
        for lengths, steps, gap in alike(own):
            cells = [precision] if with_digits else []
            parts = (part_in(gap, name, precision) for name in used)
            table.add_row(*cells, lengths, steps, gap.divergence, *map(escape, parts))
        table.add_section()
    said = "total: of draws that the parts share; a cell's own estimate may differ within intervals"
    table.caption = "; ".join(filter(None, [said, without_parts(found)]))
    table.caption_justify = "left"
    return table


def part_in(gap: Gap, name: PartName, precision: str) -> str:
    """A part in words; what a precision has in common with the run's own is told there."""
    part = gap.part(name)
    if part is None:
        return "-"
    return str(part) if precision == "-" or name in ("numerics", "total") else ""


def without_parts(found: FamilyResult) -> str:
    """Which divergences have no parts, and why, in one line."""
    reasons = {
        f"no parts of {gap.divergence}{in_precision(precision)} ({gap.reason})"
        for precision, gaps in by_precision(found)
        for gap in gaps
        if not gap.parts
    }
    return "; ".join(sorted(reasons))


def in_precision(precision: str) -> str:
    """The same in words, with a blank before them; nothing for the run's own."""
    return "" if precision == "-" else f" in {precision}"


def folding(*columns: str) -> Table:
    """A table that loses no digit where the terminal is narrow."""
    return Table(*(Column(name, overflow="fold") for name in columns))


def survey_gap_table(families: Sequence[FamilyResult], budget: Budget) -> Table | None:
    """The largest budget of every family in parts, if any family has them."""
    rows = [
        (found.title if precision == "-" else f"{found.title}, {precision}", gap)
        for found in families
        for precision, gaps in by_precision(found)
        for gap in gaps
        if gap.budget == budget and gap.parts
    ]
    used = [name for name in PARTS if any(gap.part(name) for _, gap in rows)]
    if not rows:
        return None
    table = folding("family", "divergence", *used)
    table.title, table.title_justify = f"at {budget}: whose part is it?", "left"
    for title, of_one in itertools.groupby(rows, key=lambda row: row[0]):
        for i, (_, gap) in enumerate(of_one):
            parts = (escape(part_in(gap, name, "-")) for name in used)
            table.add_row(title if i == 0 else "", gap.divergence, *parts)
        table.add_section()
    return table


def alike(gaps: Sequence[Gap]) -> Iterator[tuple[str, str, Gap]]:
    """Lengths, steps and parts; gaps of the same parts at several budgets come once."""
    groups: dict[str, list[Gap]] = {}
    for gap in gaps:
        if gap.parts:
            groups.setdefault(gap.model_dump_json(exclude={"budget"}), []).append(gap)
    for same in groups.values():
        lengths = sorted({gap.budget.length for gap in same})
        steps = sorted({gap.budget.steps for gap in same})
        yield ", ".join(map(str, lengths)), ", ".join(map(str, steps)), same[0]


def parts_used(found: FamilyResult) -> list[PartName]:
    """The parts that any of its divergences has."""
    used = {
        name
        for precision, gaps in by_precision(found)
        for gap in gaps
        for name in PARTS
        if gap.part(name) and part_in(gap, name, precision)
    }
    return [name for name in PARTS if name in used]


def by_precision(found: FamilyResult) -> Iterator[tuple[str, list[Gap]]]:
    """A precision, "-" for the run's own, and its divergences in parts."""
    if found.gaps:
        yield "-", list(found.gaps)
    for rounded in found.precisions:
        yield rounded.precision, [gap for cell in rounded.cells for gap in cell.gaps]


def precision_lines(found: FamilyResult) -> list[str]:
    """What fewer digits do, a line for each precision."""
    return [f"{rounded.precision}: {_held(rounded)}" for rounded in found.precisions]


def _held(rounded: PrecisionResult) -> str:
    words = {
        "holds": "the verdicts hold",
        "numerics": "numerics",
        "undecided": "undecided whether the verdicts hold",
    }
    return f"{words[rounded.holding]}; {rounded.reason}"


def sensitivity_table(found: FamilyResult) -> Table | None:
    """What errors of the oracle cost, if that was measured."""
    if not any(one.cells for one in found.sensitivities):
        return None
    names = list(found.cells[-1].estimates)
    table = folding("error", "size", *names, "verdict", "slope per size")
    budget = found.sensitivities[0].budget
    table.title = f"{found.title}, {budget}: how good must the network be?"
    table.title_justify = "left"
    for one in found.sensitivities:
        for i, cell in enumerate(one.cells):
            first = i == 0
            table.add_row(
                one.perturbation if first else "",
                f"{cell.size:g}",
                *(escape(str(cell.estimates[name])) for name in names),
                cell.outcome.value.replace("_", " "),
                escape(_slopes(one)) if first else "",
            )
        table.add_section()
    return table


def allowed_sentence(one: Sensitivity) -> str:
    """How large an error may be, in words."""
    if not one.cells:
        return f"{one.perturbation}: not measured, {one.reason}"
    passed = [cell.size for cell in one.cells if cell.outcome is Outcome.REPRESENTABLE]
    refused = [cell.size for cell in one.cells if cell.outcome is Outcome.NOT_REPRESENTABLE]
    said = []
    if one.allowed is not None:
        said.append(f"passes up to {one.allowed:g}")
    if refused:
        said.append(f"is refused from {min(refused):g} on")
    if not said or (passed and one.allowed is None):
        said.append("is undecided")
    limit = " and ".join(said)
    return f"{one.perturbation} (size 1: {one.meaning}): {limit}"


def _slopes(one: Sensitivity) -> str:
    return ", ".join(f"{name} {part}" for name, part in one.slopes.items())


def curve_table(curve: CapacityCurve) -> Table:
    """Divergence against size."""
    table = folding(
        "network", "parameters", "validation", "verdict", "divergence", "total", "change"
    )
    table.title = f"{curve.family}, {curve.budget}: which size suffices?"
    table.title_justify = "left"
    for point in curve.points:
        validation = "-" if point.fit is None else f"{point.fit.validation:.3g}"
        verdict = point.outcome.value.replace("_", " ")
        facts = [point.network, f"{point.parameters:,}", validation, verdict]
        for i, (name, total) in enumerate(point.totals.items()):
            change = point.changes.get(name)
            own = facts if i == 0 else [""] * len(facts)
            numbers = [escape(str(total)), "-" if change is None else escape(str(change))]
            table.add_row(*own, name, *numbers)
        table.add_section()
    smallest = curve.smallest or "none of them suffices"
    table.caption_justify = "left"
    table.caption = (
        f"smallest that suffices here: {smallest}; validation: held-out loss above the oracle's; "
        "change: from the next smaller network, on the same random numbers"
    )
    return table
