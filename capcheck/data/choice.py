"""The law `auto`: of the laws that can be built from rows, the one that predicts unseen rows best.

Every law is fitted to four fifths of the rows and scored on the others. Where laws predict the
others about equally well, the first in the order of `PREFERRED` is taken, as more families have an
oracle on it. Laws whose fit would take long are left out, by their cost and not by the clock, so
that the choice does not depend on the machine. Where nothing but `rows` would be left, they are
fitted to as many of the rows as they can be, since one component per row predicts large rows badly.
Laws that cannot be built from the rows are named in the description, with the reason. The scores of
all laws are kept with the held-out score of the one that is taken (`HeldOut.candidates`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from capcheck.core.errors import InputError
from capcheck.core.sequences import Kind
from capcheck.targets.categorical.emissions import MANY
from capcheck.targets.provenance import LawScore
from capcheck.targets.target import Target

__all__ = ["EQUAL", "PREFERRED", "chosen_law"]

EQUAL = 0.05  # nats a token by which a law must be better than one that is preferred to it
PREFERRED: dict[Kind, tuple[str, ...]] = {
    "continuous": ("rows", "diagonal", "gaussian", "mixture"),
    "categorical": ("rows", "markov", "classes", "hmm"),
}
# The largest data to which a law is fitted in some 15 seconds on two cores:
NUMBERS = {"diagonal": 1e7, "classes": 2e5, "hmm": 5e3}  # numbers or token ids of all rows
OF_MANY = {"hmm": 1e6}  # the same for more than `MANY` symbols
LARGE = ("markov", "classes")  # laws whose tables of so many symbols are too large
IDS = 3e6  # token ids of all rows, for the law `rows`; of real numbers there may be any number
SQUARES = {"gaussian": 1e11, "mixture": 1e8}  # rows, times the square of the numbers of a row
LEAST = 500  # rows that a law is fitted to at least where it cannot be fitted to all


def chosen_law(
    rows: np.ndarray,
    kind: Kind,
    build: Callable[[str, np.ndarray], Target],
    *,
    vocabulary: int | None = None,
) -> Target:
    """The law of the highest held-out likelihood, with the others in its description.

    Args:
        rows: (n, N, d) real numbers, or (n, N) token ids.
        kind: Kind of the tokens.
        build: Function that fits the law of a name to rows.
        vocabulary: Vocabulary size V of token ids, or None for real numbers.

    Raises:
        InputError: No law can be built from the rows, or they do not differ.
    """
    if not np.ptp(rows, axis=0).any():
        raise InputError(
            f"a law needs at least 2 distinct rows, got 1 in {len(rows)}; add rows that differ."
        )
    many = (vocabulary or 0) > MANY
    names = tuple(name for name in PREFERRED[kind] if not (many and name in LARGE))
    counts = _counts(rows, names, NUMBERS | OF_MANY if many else NUMBERS)
    laws: dict[str, Target] = {}
    refused: dict[str, InputError] = {}
    for name, count in counts.items():
        try:
            laws[name] = build(name, rows if count == len(rows) else _some(rows, count))
        except InputError as error:  # other laws may still be possible
            refused[name] = error
    if not laws:
        raise next(iter(refused.values()))
    scores = {name: _score(law) for name, law in laws.items()}
    first = next(iter(laws))
    least = max(scores.values()) - EQUAL * rows.shape[1]
    compared = not math.isinf(scores[first])  # with few rows there are none to be scored
    name = next((name for name in laws if scores[name] >= least), first) if compared else first
    left_out = [other for other in names if other not in counts]
    part = f"; fitted to {counts[name]:,} of the rows" if counts[name] < len(rows) else ""
    reasons = dict.fromkeys(left_out, "not fitted, as the fit would take long")
    reasons |= {other: f"not possible: {_reason(error)}" for other, error in refused.items()}
    if many:
        reasons |= dict.fromkeys(LARGE, "not fitted, as its tables would be too large")
    parts = {other: count for other, count in counts.items() if count < len(rows)}
    return _with_candidates(laws, name, scores, reasons, parts).with_provenance(
        description=_described(laws[name], name, scores)
        + part
        + "".join(f"; {name} not possible ({_reason(refused[name])})" for name in refused)
        + (f"; {', '.join(left_out)} not tried, as the fit would take long" if left_out else "")
        + (f"; {', '.join(LARGE)} not tried, as their tables would be too large" if many else "")
    )


def _counts(rows: np.ndarray, names: tuple[str, ...], numbers: dict[str, float]) -> dict[str, int]:
    """How many rows, (n, N, d) numbers or (n, N) ids, each law that is tried is fitted to."""
    counts = {name: _affordable(name, rows, numbers) for name in names}
    whole = {name: count for name, count in counts.items() if count == len(rows)}
    if whole.keys() - {"rows"}:
        return whole
    least = max(LEAST, rows[0].size)  # fewer rows than numbers tell no covariance
    return {name: count for name, count in counts.items() if name in whole or count >= least}


def _affordable(name: str, rows: np.ndarray, numbers: dict[str, float]) -> int:
    """How many of the rows the law of a name is fitted to in seconds."""
    size = rows[0].size
    count = IDS if name == "rows" and rows.ndim == 2 else numbers.get(name, math.inf)
    most = min(count / size, SQUARES.get(name, math.inf) / size**2)
    return len(rows) if most >= len(rows) else int(most)


def _some(rows: np.ndarray, count: int) -> np.ndarray:
    """Rows picked at random, the same ones each time, in their order."""
    picked = np.random.default_rng(0).choice(len(rows), count, replace=False)
    return rows[np.sort(picked)]


def _reason(error: InputError) -> str:
    """The rule of an error that a law is refused with, without its cure."""
    return str(error).rpartition(";")[0] or str(error).rstrip(".")


def _score(law: Target) -> float:
    held_out = law.provenance.held_out
    score = -math.inf if held_out is None else held_out.log_likelihood
    return -math.inf if math.isnan(score) else score


def _with_candidates(
    laws: Mapping[str, Target],
    name: str,
    scores: Mapping[str, float],
    reasons: Mapping[str, str],
    parts: Mapping[str, int],
) -> Target:
    """The law that is taken, with the scores of all laws, simpler ones first.

    Args:
        laws: The laws that were fitted, by name.
        name: Name of the one that is taken.
        scores: Their held-out log-likelihoods, in nats per sequence.
        reasons: Why other laws were not fitted, by name.
        parts: Number of rows that laws were fitted to, where these are not all.
    """
    taken = laws[name]
    held_out = taken.provenance.held_out
    if held_out is None:
        return taken
    simpler: dict[str, LawScore] = {}
    tried: list[LawScore] = []
    for other, law in laws.items():
        known = law.provenance.held_out
        said = [f"fitted to {parts[other]:,} of the rows"] if other in parts else []
        if known is None:
            said.append("too few rows to hold any out")
            tried.append(LawScore(name=other, log_likelihood=None, note="; ".join(said)))
            continue
        if other == name and scores[name] < max(scores.values()):
            said.append(
                f"preferred, as more families have an oracle on it and no law is better by {EQUAL} "
                "nats a token"
            )
        for one in known.candidates:
            if one.baseline:
                simpler.setdefault(one.name, one)
                continue
            chosen = one.chosen and other == name
            note = "; ".join(said[: len(said) if chosen else other in parts])
            tried.append(one.model_copy(update={"chosen": chosen, "note": note}))
    others = (LawScore(name=one, log_likelihood=None, note=why) for one, why in reasons.items())
    candidates = (*simpler.values(), *tried, *others)
    return taken.with_provenance(held_out=held_out.model_copy(update={"candidates": candidates}))


def _described(law: Target, name: str, scores: dict[str, float]) -> str:
    others = {other: score for other, score in scores.items() if other != name}
    described = law.provenance.description
    if not others or math.isinf(scores[name]):
        return described
    second = max(others, key=others.__getitem__)
    return (
        f"{described}; --law auto preferred it to {second}, whose held-out log-likelihood is "
        f"{others[second]:.2f}"
    )
