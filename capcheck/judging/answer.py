"""The answer of a survey in one sentence, and the reason of each verdict in a clause.

The sentence tells which families can produce the target and at how many model calls, which would
need how many steps, which cannot and what they lose, and which are undecided. Of more than `FEW`
results it counts the families, and names the cheapest ones and those that it groups by their cause.
A family *lacks cells* if its run was interrupted or failed, and *does not apply* if its procedure
is not defined for the target.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

from capcheck.judging.extrapolation import Extrapolation, sufficient
from capcheck.judging.open_questions import foremost_question
from capcheck.judging.profile import deciding_divergence
from capcheck.judging.resolution import available, label, multiple, tolerance_in_unit
from capcheck.judging.verdict import refusing_divergences
from capcheck.procedures.probe import Failure
from capcheck.results.family import FamilyResult
from capcheck.results.measurement import Cell, Outcome
from capcheck.results.settings import Settings
from capcheck.results.survey import SurveyResult

__all__ = [
    "FEW",
    "LONGEST",
    "LOSSES",
    "answer",
    "because",
    "more_steps",
    "printable",
    "shortened",
    "times",
]

FEW = 5  # largest number of results of which the sentence tells each
LONGEST = 350  # characters of the sentence, above which it names fewer families
CLAUSE = 72  # characters of a reason
NAME = 40  # characters of a name in the sentence
_NOTHING = 1e-6  # tolerances up to which a divergence counts as 0, as for rounding errors of rates

LOSSES: dict[Failure, str] = {
    "missing argument": "its network is not told all that it needs",
    "wrong factorisation": "it loses the dependence between tokens",
    "limited emission": "the form of its output is too narrow",
    "unadjusted step": "its steps do not keep the target's law",
}
"""Clauses that say what a class of failures loses, to follow "it cannot"."""


def answer(result: SurveyResult) -> str:
    """One sentence that answers a survey: which families can, at which cost, and which cannot."""
    asked = [found for found in result.families if found.supported]
    lead = f"On {shortened(result.target.name, NAME)}: "
    if any(found.error for found in asked):
        lead = f"So far, on {shortened(result.target.name, NAME)}: "
    if len(asked) <= FEW:
        said = lead + "; ".join(_each(asked, result.settings)) + "."
        if len(said) <= LONGEST:
            return said
    for names in (6, 5, 4, 3, 2, 1):
        said = lead + "; ".join(_counted(asked, result.settings, names)) + "."
        if len(said) <= LONGEST:
            break
    return said


def because(found: FamilyResult, settings: Settings) -> str:
    """The reason of a family's verdict, or what would decide it, in a clause for a table."""
    if found.error is not None:
        return shortened(_without_name(found, found.error), CLAUSE)
    if found.outcome is Outcome.REPRESENTABLE:
        return shortened(_bounded(found, settings), CLAUSE)
    if found.outcome is Outcome.INCONCLUSIVE:
        return shortened(_undecided(found, settings), CLAUSE)
    needed = more_steps(found, settings)
    if needed is not None:
        name = label(needed.divergence, found.cells[-1].estimates[needed.divergence])
        return shortened(f"{needed}, if {name} falls on as fitted", CLAUSE)
    refused = _refused(found, settings)
    cause = found.failure
    if found.blame == "network":
        return shortened(f"network or fit; {refused}", CLAUSE)
    return shortened(f"{cause}; {refused}" if cause else refused, CLAUSE)


def more_steps(found: FamilyResult, settings: Settings) -> Extrapolation | None:
    """The number of steps that would suffice; None of a network that is to blame itself."""
    if found.outcome is not Outcome.NOT_REPRESENTABLE or found.blame == "network":
        return None
    return sufficient(found, settings.tolerances)


def shortened(text: str, most: int) -> str:
    """A text on one line of at most so many characters, all of them printable."""
    text = printable(" ".join(text.split()))
    return text if len(text) <= most else f"{text[: most - 3].rstrip(' ,;')}..."


def printable(text: str) -> str:
    """A text in which characters that steer terminals or the direction of a text are replaced."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _without_name(found: FamilyResult, reason: str) -> str:
    """A reason without its subject, the family, and without what to do about it."""
    for lead in (f"{found.title} is ", f"{found.title} ", f"{found.family} is ", found.family):
        if reason.startswith(lead):
            reason = reason[len(lead) :]
            break
    return reason.strip().removesuffix("; run the command again.").removesuffix(".")


def _bounded(found: FamilyResult, settings: Settings) -> str:
    """How far the closest divergence of a representable family is below its tolerance."""
    assert found.smallest_budget is not None
    cell, name = found.cell(found.smallest_budget), deciding_divergence(found, settings.tolerances)
    assert name is not None
    estimate = cell.estimates[name]
    bound = tolerance_in_unit(estimate, settings.tolerances[name])
    high = multiple(estimate.interval(estimate.level)[1], bound)
    said = f"{label(name, estimate)} is 0"
    if high > _NOTHING:
        said = f"{label(name, estimate)} at most {times(high)} times its tolerance"
    if found.without_kl:
        said += ", no bound on KL"
    broken = [one.precision for one in found.precisions if one.holding == "numerics"]
    return f"{said}; not in {', '.join(broken)}" if broken else said


def _undecided(found: FamilyResult, settings: Settings) -> str:
    """What would decide an undecided family."""
    fit = found.facts.fit if found.facts is not None else None
    if fit is not None and fit.failure is not None:
        return fit.failure
    level, tolerances = settings.level_of_a_look, settings.tolerances
    question = foremost_question(found.cells, tolerances, level=level)
    if question is not None:
        return question.answer
    undecided = [cell for cell in found.cells if cell.outcome is Outcome.INCONCLUSIVE]
    return undecided[-1].reason if undecided else found.reason


def _refused(found: FamilyResult, settings: Settings) -> str:
    """Which divergence refuses the largest budget, and by how much at least."""
    cell, name = found.cells[-1], deciding_divergence(found, settings.tolerances)
    assert name is not None
    refusing = refusing_divergences(cell, settings.tolerances, level=settings.level_of_a_look)
    if refusing and name not in refusing:  # several looks ask for more certainty than one
        name = refusing[0]
    low = _least(cell, name, settings)
    short = label(name, cell.estimates[name])
    if low == math.inf:
        return f"{short} is infinite" if _infinite(cell, name) else f"{short} is not 0"
    return f"{short} at least {times(low)} times its tolerance"


def _least(cell: Cell, name: str, settings: Settings) -> float:
    """The lower end that the verdict's own reason states, in tolerances."""
    level = 1 - (1 - settings.level_of_a_look) / len(available(cell))
    estimate = cell.estimates[name]
    bound = tolerance_in_unit(estimate, settings.tolerances[name])
    return multiple(estimate.interval(level)[0], bound)


def _infinite(cell: Cell, name: str) -> bool:
    value = cell.estimates[name].value
    return value is not None and math.isinf(value)


def times(multiple: float) -> str:
    """A multiple in three digits."""
    return f"{multiple:.3g}" if multiple < 999.5 else f"{float(f'{multiple:.3g}'):,.0f}"


def _each(asked: Sequence[FamilyResult], settings: Settings) -> list[str]:
    """One clause for each result: those that can, those that need more steps, and the others."""
    can = sorted(filter(_can, asked), key=_calls)
    said = []
    if can:
        first, *others = can
        calls = f"{_calls(first):,} model {'call' if _calls(first) == 1 else 'calls'}"
        rest = (f"{_named(found)} at {_calls(found):,}" for found in others)
        said.append(", ".join([f"{_named(first)} can at {calls}", *rest]))
    cannot = [found for found in asked if found.outcome is Outcome.NOT_REPRESENTABLE]
    for found in sorted(cannot, key=lambda one: more_steps(one, settings) is None):
        needed = more_steps(found, settings)
        if needed is not None:
            said.append(f"{_named(found)} needs {needed}")
        elif found.failure is not None:
            said.append(f"{_named(found)} cannot: {LOSSES[found.failure]}")
        elif found.blame == "network":
            said.append(f"{_named(found)} cannot, though its oracle can")
        else:
            said.append(f"{_named(found)} cannot: {_refused(found, settings)}")
    said += [
        f"{_named(found)} is undecided: {_undecided(found, settings)}"
        for found in asked
        if _open(found)
    ]
    said += [
        f"{_named(found)} {because(found, settings)}" for found in asked if found.error is not None
    ]
    return said or ["no family is defined for it"]


def _counted(asked: Sequence[FamilyResult], settings: Settings, names: int) -> list[str]:
    """Counts of families, with so many names in each list."""
    oracles = [found for found in asked if found.network == "oracle"]
    counted = oracles or asked
    fitted = [found for found in asked if found.network != "oracle"] if oracles else []
    judged = [found for found in counted if found.error is None]
    can = sorted(filter(_can, judged), key=_calls)
    said = []
    if can:
        cheapest = _cheapest(can, names)
        said.append(f"{len(can)} of {len(judged)} families can: {cheapest}")
    elif judged:
        said.append(f"none of {len(judged)} families can")
    cannot = [found for found in judged if found.outcome is Outcome.NOT_REPRESENTABLE]
    needs = [(found, more_steps(found, settings)) for found in cannot]
    short = [f"{_named(found)} {needed}" for found, needed in needs if needed is not None]
    if short:
        said.append(f"with more steps {_listed(short, names)}")
    groups = list(_by_cause([found for found, needed in needs if needed is None]))
    if groups:
        causes = (f"{cause}: {_listed(map(_named, members), names)}" for cause, members in groups)
        said.append(f"{sum(len(group) for _, group in groups)} cannot ({'; '.join(causes)})")
    undecided = [_named(found) for found in judged if _open(found)]
    if undecided:
        said.append(f"undecided: {_listed(undecided, 2 * names)}")
    whole = [found for found in fitted if found.error is None]
    if whole:
        said.append(f"with networks {sum(map(_can, whole))} of {len(whole)} can")
    lacking = sum(found.error is not None for found in asked)
    if lacking:
        said.append(f"{lacking} of {len(asked)} results lack cells")
    return said or ["no family is defined for it"]


def _cheapest(can: Sequence[FamilyResult], names: int) -> str:
    """The sufficient families of fewest model calls, grouped by their calls."""
    groups = [(calls, list(members)) for calls, members in itertools.groupby(can, key=_calls)]
    said: list[str] = []
    left = names
    for calls, members in groups:
        if left <= 0:
            break
        model = " model call" if calls == 1 else " model calls"
        unit = "" if said else model
        said.append(f"{_listed(map(_named, members), left)} at {calls:,}{unit}")
        left -= len(members)
    more = len(can) - sum(len(members) for _, members in groups[: len(said)])
    if more:
        said.append(f"{more} more at up to {groups[-1][0]:,}")
    return ", ".join(said)


def _by_cause(cannot: Sequence[FamilyResult]) -> Iterable[tuple[str, list[FamilyResult]]]:
    """Refused families by the failure whose removal lifts their floor, unknown causes last."""
    for cause in (*LOSSES, None):
        members = [found for found in cannot if found.failure == cause]
        if members:
            yield cause or "cause unknown", members


def _listed(names: Iterable[str], most: int) -> str:
    """Names separated by commas, of which those beyond the most are counted."""
    names = list(names)
    more = len(names) - most
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:most])} and {more} more"


def _named(found: FamilyResult) -> str:
    """Name of a family and its network, in words that a list of names can hold."""
    name = found.family if found.network == "oracle" else f"{found.family} with {found.network}"
    return shortened(name, NAME)


def _can(found: FamilyResult) -> bool:
    return found.outcome is Outcome.REPRESENTABLE and found.error is None


def _open(found: FamilyResult) -> bool:
    """Whether a family was measured and is undecided."""
    return found.outcome is Outcome.INCONCLUSIVE and found.error is None


def _calls(found: FamilyResult) -> int:
    """Model calls at the smallest sufficient budget."""
    assert found.smallest_budget is not None
    return found.cell(found.smallest_budget).model_calls
