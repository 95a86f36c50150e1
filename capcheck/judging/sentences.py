"""Sentences: verdicts about networks, parts, digits and errors, in words that all outputs share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from capcheck.networks.kinds import FittedNetwork
from capcheck.results.family import FamilyResult, PrecisionResult, Sensitivity
from capcheck.results.gap import Gap, PartName
from capcheck.results.measurement import Outcome
from capcheck.results.plan import NetworkFacts

PARTS: tuple[PartName, ...] = ("structural", "network", "objective", "numerics", "total")


def network_sentence(facts: NetworkFacts) -> str:
    """Size and fit of a network, in words."""
    size = "" if facts.parameters is None else f"{facts.parameters:,} parameters; "
    fit = "measured as it is" if facts.fit is None else f"fit: {facts.fit}"
    return size + fit


def blame_sentence(found: FamilyResult) -> str | None:
    """Who is to blame for a failure, in words, or None if nothing failed or it is not known."""
    network = found.plan.network
    end_to_end = isinstance(network, FittedNetwork) and network.objective == "end_to_end"
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
