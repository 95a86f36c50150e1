"""Networks on the terminal: divergences in parts, sizes, digits and errors, as tables."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from rich.markup import escape
from rich.table import Table

from capcheck.budget import Budget
from capcheck.capacity import CapacityCurve
from capcheck.gap import Gap, PartName
from capcheck.records import NetworkFacts, PrecisionResult, Sensitivity
from capcheck.results import FamilyResult

PARTS: tuple[PartName, ...] = ("structural", "network", "objective", "numerics", "total")


def network_sentence(facts: NetworkFacts) -> str:
    """Size and fit of a network, in words."""
    size = "" if facts.parameters is None else f"{facts.parameters:,} parameters; "
    fit = "measured as it is" if facts.fit is None else f"fit: {facts.fit}"
    return size + fit


def blame_sentence(found: FamilyResult) -> str | None:
    """Who is to blame for a failure, in words, or None if nothing failed or it is not known."""
    if found.blame == "procedure":
        if found.network == "oracle":
            return "blame the procedure or its objective, not the size of a network"
        return "blame the procedure or its objective: the oracle fails, too"
    if found.blame == "network":
        return "blame the network, or its fit: with the oracle the same procedure is representable"
    if found.blame == "numerics":
        failing = [p.precision for p in found.precisions if p.holding == "numerics"]
        return f"blame numerics in {', '.join(failing)}, not the capacity of procedure or network"
    return None


def gap_table(found: FamilyResult) -> Table | None:
    """Every divergence of every cell in parts, if there are any; cells alike share a row."""
    used = parts_used(found)
    if not used:
        return None
    with_digits = bool(found.precisions)
    head = ["precision"] if with_digits else []
    table = Table(*head, "length", "steps", "divergence", *used)
    table.title, table.title_justify = f"{found.title}: whose part is it?", "left"
    for precision, own in by_precision(found):
        for lengths, steps, gap in alike(own):
            cells = [precision] if with_digits else []
            table.add_row(*cells, lengths, steps, gap.divergence, *(_part(gap, n) for n in used))
        table.add_section()
    return table


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
    table = Table("family", "divergence", *used)
    table.title, table.title_justify = f"at {budget}: whose part is it?", "left"
    for title, of_one in itertools.groupby(rows, key=lambda row: row[0]):
        for i, (_, gap) in enumerate(of_one):
            parts = (_part(gap, name) for name in used)
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
    gaps = [gap for _, own in by_precision(found) for gap in own]
    return [name for name in PARTS if any(gap.part(name) for gap in gaps)]


def by_precision(found: FamilyResult) -> Iterator[tuple[str, list[Gap]]]:
    """A precision, "-" for the run's own, and its divergences in parts."""
    if found.gaps:
        yield "-", list(found.gaps)
    for rounded in found.precisions:
        yield rounded.precision, [gap for cell in rounded.cells for gap in cell.gaps]


def _part(gap: Gap, name: PartName) -> str:
    part = gap.part(name)
    return "-" if part is None else escape(str(part))


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
    if not found.sensitivities:
        return None
    names = list(found.cells[-1].estimates)
    table = Table("error", "size", *names, "verdict", "slope per size")
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
    if one.allowed is None:
        limit = f"even {one.cells[0].size:g} is refused"
    elif one.allowed == one.cells[-1].size:
        limit = f"none up to {one.allowed:g} is refused"
    else:
        limit = f"none up to {one.allowed:g} is refused, and the next size is"
    return f"{one.perturbation} (size 1: {one.meaning}): {limit}"


def _slopes(one: Sensitivity) -> str:
    return ", ".join(f"{name} {part}" for name, part in one.slopes.items())


def curve_table(curve: CapacityCurve) -> Table:
    """Divergence against size."""
    table = Table(
        "network",
        "parameters",
        "validation",
        "verdict",
        "divergence",
        "total",
        "gain over the last",
    )
    table.title = f"{curve.family}, {curve.budget}: which size suffices?"
    table.title_justify = "left"
    for point in curve.points:
        validation = "-" if point.fit is None else f"{point.fit.validation:.3g}"
        verdict = point.outcome.value.replace("_", " ")
        facts = [point.network, f"{point.parameters:,}", validation, verdict]
        for i, (name, total) in enumerate(point.totals.items()):
            gain = point.gains.get(name)
            own = facts if i == 0 else [""] * len(facts)
            numbers = [escape(str(total)), "-" if gain is None else escape(str(gain))]
            table.add_row(*own, name, *numbers)
        table.add_section()
    smallest = curve.smallest or "none of them suffices"
    table.caption = f"smallest that suffices: {smallest}"
    return table
