"""Sentences about blame, parts of a gap, precisions and errors, shared by terminal and report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from capcheck.networks.kinds import FittedNetwork
from capcheck.results.family import FamilyResult, PrecisionResult, Sensitivity
from capcheck.results.gap import Gap, PartName
from capcheck.results.measurement import Outcome
from capcheck.results.plan import NetworkFacts
from capcheck.results.settings import TargetSummary
from capcheck.results.speculation import Speculation

__all__ = [
    "PARTS",
    "blame_sentence",
    "gaps_by_precision",
    "grouped_gaps",
    "missing_parts_sentence",
    "network_sentence",
    "part_text",
    "parts_used",
    "precision_lines",
    "sensitivity_sentence",
    "speculation_sentences",
    "target_sentences",
]

PARTS: tuple[PartName, ...] = ("structural", "network", "objective", "numerics", "total")


def target_sentences(target: TargetSummary) -> list[str]:
    """What a target is, which law stands for the data, and how well it predicts unseen rows."""
    provenance = target.provenance
    lines = [f"{target.name}, {target.size}"]
    if provenance.source:
        lines.append(f"{provenance.preparation}; {provenance.description}")
    held = provenance.held_out
    if held is None:
        return lines
    lines.append(
        f"held-out log-likelihood of your rows {held.log_likelihood:.2f} nats "
        f"({held.baseline_name} {held.baseline:.2f}, "
        f"rows it was built from {held.in_sample:.2f})"
    )
    if held.dependence is not None:
        lines += held.dependence.sentence.split(": ", 1)
    if held.memorises:
        lines.append(
            f"warning: {held.baseline_name} would predict your unseen rows better than this "
            "target, which memorises its rows"
        )
    return lines


def network_sentence(facts: NetworkFacts) -> str:
    """A sentence with the size of a network and the outcome of its fit."""
    size = "" if facts.parameters is None else f"{facts.parameters:,} parameters; "
    fit = "measured as it is" if facts.fit is None else f"fit: {facts.fit}"
    return size + fit


def speculation_sentences(found: FamilyResult) -> list[str]:
    """Sentences on how the drafts of a family fare, and on what they gain; none without drafts."""
    drafts = found.speculation
    if drafts is None or drafts.alpha is None:
        return []
    places = ", ".join("-" if q is None else f"{q.value:.3g}" for q in drafts.acceptance)
    lead = "drafts" if found.family == "blockwise" else "a verification would accept"
    rates = (
        f"{lead}: acceptance rate {drafts.alpha}, by place in a block of {drafts.block} tokens "
        f"{places}; accepted length {drafts.accepted_length}; {drafts.tokens_per_round} tokens per "
        f"round of two calls"
    )
    if found.family != "blockwise":
        rates += f", where unverified heads make {drafts.block} per call"
    return [rates, _speed_ups(drafts)]


def _speed_ups(drafts: Speculation) -> str:
    costs = ", ".join(f"{one.cost:g}" for one in drafts.speed_ups)
    block = ", ".join(f"{one.block_drafter.value:.3g}" for one in drafts.speed_ups)
    token = ", ".join(f"{one.token_drafter.value:.3g}" for one in drafts.speed_ups)
    return (
        f"speed-up where a call that drafts costs {costs} of one that verifies: {block} with one "
        f"such call per block, {token} with one per draft"
    )


def blame_sentence(found: FamilyResult) -> str | None:
    """A sentence that says whether procedure, network or arithmetic causes a failure.

    Returns:
        The sentence, or None if nothing failed or the cause is not known.
    """
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


def part_text(gap: Gap, name: PartName, precision: str) -> str:
    """A part as text, "-" if the gap lacks it.

    In a lower precision, parts other than the numerics and the total are empty: they equal those of
    the run's own precision, which are listed there.
    """
    part = gap.part(name)
    if part is None:
        return "-"
    return str(part) if precision == "-" or name in ("numerics", "total") else ""


def missing_parts_sentence(found: FamilyResult) -> str:
    """One line that lists the divergences without parts and the reasons."""
    reasons = {
        f"no parts of {gap.divergence}{'' if precision == '-' else f' in {precision}'} "
        f"({gap.reason})"
        for precision, gaps in gaps_by_precision(found)
        for gap in gaps
        if not gap.parts
    }
    return "; ".join(sorted(reasons))


def grouped_gaps(gaps: Sequence[Gap]) -> Iterator[tuple[str, str, Gap]]:
    """Groups the gaps of several budgets that have equal parts.

    Yields:
        The lengths and the steps of the group's budgets, as text, and one of its gaps.
    """
    groups: dict[str, list[Gap]] = {}
    for gap in gaps:
        if gap.parts:
            groups.setdefault(gap.model_dump_json(exclude={"budget"}), []).append(gap)
    for same in groups.values():
        lengths = sorted({gap.budget.length for gap in same})
        steps = sorted({gap.budget.steps for gap in same})
        yield ", ".join(map(str, lengths)), ", ".join(map(str, steps)), same[0]


def parts_used(found: FamilyResult) -> list[PartName]:
    """The parts that at least one divergence of a family has, in the order of `PARTS`."""
    used = {
        name
        for precision, gaps in gaps_by_precision(found)
        for gap in gaps
        for name in PARTS
        if gap.part(name) and part_text(gap, name, precision)
    }
    return [name for name in PARTS if name in used]


def gaps_by_precision(found: FamilyResult) -> Iterator[tuple[str, list[Gap]]]:
    """Yields each precision with its gaps; the run's own precision is called "-"."""
    if found.gaps:
        yield "-", list(found.gaps)
    for rounded in found.precisions:
        yield rounded.precision, [gap for cell in rounded.cells for gap in cell.gaps]


def precision_lines(found: FamilyResult) -> list[str]:
    """One line for each lower precision, which says whether the verdicts hold there."""
    return [f"{rounded.precision}: {_held(rounded)}" for rounded in found.precisions]


def _held(rounded: PrecisionResult) -> str:
    words = {
        "holds": "the verdicts hold",
        "numerics": "numerics",
        "undecided": "undecided whether the verdicts hold",
    }
    return f"{words[rounded.holding]}; {rounded.reason}"


def sensitivity_sentence(one: Sensitivity) -> str:
    """A sentence that says up to which size errors of the network are harmless."""
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
    return f"{one.perturbation} (size 1: {one.meaning}): {' and '.join(said)}"
