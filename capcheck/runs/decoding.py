"""Plans of parallel decoding: the information curve of a target, and the prices of schedules."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence

from sklearn.isotonic import isotonic_regression
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.divergences import DIVERGENCES
from capcheck.divergences.estimate import t_quantile
from capcheck.exact.information_curve import InformationCurve, exact_curve, measured_curve
from capcheck.procedures.orders import uniform_schedule
from capcheck.procedures.unmasking_schedules import best_schedules, cosine_schedule
from capcheck.results.decoding import DecodingPlan, Quantity, Rule, SchedulePrice
from capcheck.runs.options import MAX_SEED, Progress, whole_number
from capcheck.targets.target import Target, require_one_law

__all__ = [
    "ALL_SIZES",
    "DRAWN_TOKENS",
    "FEWEST",
    "FEW_CALLS",
    "MOST_NODES",
    "ROUNDING",
    "USUAL",
    "decoding_plan",
]

DRAWN_TOKENS = 16_384  # tokens of all rows of a measured curve: a long row tells as much as many
FEWEST = 16  # rows of a measured curve at least, for its intervals
USUAL = 32  # fewest rows by default
ALL_SIZES = 64  # most tokens for which a curve is measured at every number of known ones
ROUNDING = 1e-12  # nats per token that sums of entropies may be off by
FEW_CALLS = 16  # calls up to which a long sequence's best schedules know all sizes of plain ones
MOST_NODES = 1024  # most sizes at which a best schedule may begin a step: seconds


def decoding_plan(
    target: Target,
    *,
    calls: Sequence[int] | None = None,
    tolerance: float | None = None,
    samples: int | None = None,
    seed: int = 0,
    level: float = 0.95,
    progress: Callable[[Progress], None] | None = None,
) -> DecodingPlan:
    """Tell how many tokens a decoder in random order may place per step, and what is lost.

    Nothing is sampled from any procedure: with exact conditionals the mean over orders of KL is an
    area under the target's information curve (`capcheck.exact.information_curve`). It bounds the KL
    of the law that is sampled from above. It is that of all tokens, told per token that counts.

    Args:
        target: The law that is decoded.
        calls: Numbers of steps whose schedules are priced, each from 1 to the number of tokens; by
            default the powers of two, up to 64 without a closed form, and the number of tokens.
        tolerance: Tolerance of KL in nats per token, 0.01 by default.
        samples: Rows of a curve that has no closed form, at least 16; by default as many as have
            16,384 tokens together, at least 32.
        seed: Seed of their draws.
        level: Confidence of the intervals, between 0 and 1.
        progress: Function that is told how far the work is.

    Raises:
        InputError: An argument is not possible; the message names it and the rule that it breaks.

    Example:
        >>> from capcheck import targets
        >>> plan = decoding_plan(targets.from_spec("parity:8"), calls=[2])
        >>> [(one.rule, one.placed, str(one.kl)) for one in plan.prices][-1]
        ('best', (7, 1), '0')
    """
    require_one_law(target, "decoding_plan")
    spec = target.spec
    N, per_token = spec.tokens, 1 / len(spec.counted)
    tolerance = DIVERGENCES[spec.kind]["kl"].tolerance if tolerance is None else tolerance
    _require_numbers(tolerance, level, seed)
    least, most = FEWEST, max(USUAL, DRAWN_TOKENS // N)
    rows = whole_number("samples", most if samples is None else samples, least)
    asked = None if calls is None else _require_calls(calls, N)

    def tell(share: float) -> None:
        if progress is not None:
            done = round(100 * share)
            progress(Progress(done=done, total=100, running="the information curve", share=share))

    tell(0.0)
    curve = exact_curve(target)
    calls = asked or _powers_of_two(N, N if curve is not None else ALL_SIZES)
    if curve is None:
        sizes = _nodes(N, calls)
        curve = measured_curve(target, sizes=sizes, rows=rows, seed=seed, progress=tell)
    # A best schedule is chosen by one half of the rows and priced by the other, which it does not
    # know: its price is not flattered by noise.
    choosing, pricing = curve.of_rows(slice(0, rows // 2)), curve.of_rows(slice(rows // 2, rows))

    reach = spec.tokens * math.log(max(spec.dim, 2)) if spec.kind == "categorical" else math.inf

    def mean(by_row: Tensor | None, value: float, most: float = reach) -> Quantity:
        return _mean(by_row, value, level=level, reach=most, rounding=ROUNDING * N)

    def priced(rule: Rule, schedule: Sequence[int]) -> SchedulePrice:
        if len(schedule) == N + 1:  # one token at a time
            kl = Quantity(value=0.0, low=0.0, high=0.0)
        else:
            chosen = rule == "best" and len(schedule) > 2  # one call leaves nothing to choose
            source = pricing if chosen else curve
            kl = mean(source.costs_by_row(schedule), source.cost(schedule)).scaled(per_token)
        placed = tuple(after - before for before, after in itertools.pairwise(schedule))
        return SchedulePrice(rule=rule, placed=placed, kl=kl, suffices=kl.high <= tolerance)

    best = _best(choosing, calls, priced)
    prices = [
        price
        for k in calls
        for price in (
            priced("uniform", uniform_schedule(N, k)),
            priced("cosine", cosine_schedule(N, k)),
            best[k],
        )
    ]
    plain = [one for one in prices if one.suffices and one.rule != "best"]
    cheapest = min([_fewest(best), *plain], key=lambda one: one.calls)
    return DecodingPlan(
        target=target.provenance.source or target.provenance.description,
        law=target.provenance.description,
        tokens=N,
        sizes=curve.sizes,
        curve=tuple(
            mean(None if curve.rows is None else curve.rows[:, k], float(value), reach / N)
            for k, value in enumerate(curve.values)
        ),
        entropy=mean(curve.row_entropies, curve.entropy),
        total_correlation=mean(curve.costs_by_row([0, N]), curve.cost([0, N])),
        dual_total_correlation=mean(_dual_by_row(curve), curve.dual_total_correlation),
        prices=tuple(prices),
        cheapest=cheapest,
        tolerance=tolerance,
        level=level,
        exact=curve.is_exact,
        method=curve.method,
        seed=seed,
    )


def _best(
    choosing: InformationCurve,
    calls: Sequence[int],
    priced: Callable[[Rule, Sequence[int]], SchedulePrice],
) -> dict[int, SchedulePrice]:
    """The best schedules by their number of calls: of those asked for, and others.

    One token at a time is among them, and of an exact curve all up to one that suffices.
    """
    N = choosing.tokens
    sizes = _thinned(choosing.sizes, N, calls)
    place = [choosing.sizes.index(m) for m in sizes]
    # No curve rises, so that one which does is noise.
    values = isotonic_regression(choosing.values[place].numpy(), increasing=False)
    best = {N: priced("best", range(N + 1))}
    for k, (_, schedule) in enumerate(best_schedules(N, sizes, values), start=1):
        best[k] = priced("best", _cheaper(choosing, schedule) if k in calls else schedule)
        if choosing.is_exact and best[k].suffices and k >= max(calls):
            break
    for k in set(calls) - set(best):  # more calls than sizes
        best[k] = priced("best", _cheaper(choosing, uniform_schedule(N, k)))
    return best


def _fewest(best: dict[int, SchedulePrice]) -> SchedulePrice:
    """The best schedule of fewest calls that suffices, with all of more calls that are known.

    Tests in a fixed order, from many calls down to the first that fails, hold their level together.
    """
    falling = [best[k] for k in sorted(best, reverse=True)]
    return list(itertools.takewhile(lambda one: one.suffices, falling))[-1]


def _cheaper(curve: InformationCurve, schedule: list[int]) -> list[int]:
    """The schedule, or a uniform or cosine one of as many steps that costs less."""
    k = len(schedule) - 1
    plain = [make(curve.tokens, k) for make in (uniform_schedule, cosine_schedule)]
    measured = [one for one in plain if set(one[:-1]) <= set(curve.sizes)]
    return min([schedule, *measured], key=curve.cost)


def _nodes(tokens: int, calls: Sequence[int]) -> list[int] | None:
    """The sizes at which a curve is measured: those that schedules ask for, and a grid."""
    if tokens <= ALL_SIZES:
        return None
    ends = [*range(8), *range(tokens - 8, tokens)]
    grid = range(0, tokens, max(1, tokens // ALL_SIZES))
    return sorted({*ends, *grid, *_asked(tokens, calls)})


def _thinned(sizes: Sequence[int], tokens: int, calls: Sequence[int]) -> list[int]:
    """At most about `MOST_NODES` of the sizes, with those at which few steps begin."""
    if len(sizes) <= MOST_NODES:
        return list(sizes)
    few = _asked(tokens, [k for k in calls if k <= FEW_CALLS])
    kept = {*range(0, tokens, math.ceil(tokens / MOST_NODES)), *few, tokens - 1}
    return [m for m in sizes if m in kept]


def _asked(tokens: int, calls: Sequence[int]) -> set[int]:
    """The sizes at which uniform and cosine schedules begin their steps."""
    schedules = [
        make(tokens, k) for k in calls if k < tokens for make in (uniform_schedule, cosine_schedule)
    ]
    return {m for schedule in schedules for m in schedule[:-1]}


def _dual_by_row(curve: InformationCurve) -> Tensor | None:
    """The values (n,) whose mean is the dual total correlation, or None of an exact curve."""
    if curve.rows is None or curve.row_entropies is None:
        return None
    return curve.row_entropies - curve.tokens * curve.rows[:, -1]


def _mean(
    by_row: Tensor | None, value: float, *, level: float, reach: float, rounding: float
) -> Quantity:
    """A mean over rows with its t interval, or an exact value; rounding errors are 0.

    Where all rows are equal, the interval is what a single row that differs could do.

    Args:
        by_row: The values of the rows, (n,), or None of an exact value.
        value: Their mean.
        level: Confidence of the interval.
        reach: Largest difference that a row could make, in the unit of the value.
        rounding: Error of sums, in the same unit.
    """
    value, half = 0.0 if abs(value) < rounding else value, 0.0
    if by_row is not None:
        n, deviation = len(by_row), float(by_row.std())
        half = t_quantile(level, n - 1) * deviation / math.sqrt(n)
        if deviation < rounding and math.isfinite(reach):
            half = reach / n
    return Quantity(value=value, low=value - half, high=value + half)


def _powers_of_two(tokens: int, most: int) -> list[int]:
    """The powers of two below the number of tokens, up to a largest one, and this number."""
    return [*(2**j for j in range(tokens.bit_length()) if 2**j < min(tokens, most + 1)), tokens]


def _require_calls(calls: Sequence[int], tokens: int) -> list[int]:
    """The numbers of calls in rising order, once each.

    Raises:
        InputError: One is no whole number from 1 to the number of tokens, or there is none.
    """
    if not isinstance(calls, Iterable):
        raise InputError(f"calls must be several whole numbers, got {calls!r}; use [{calls!r}].")
    found = sorted({whole_number("calls", k, 1, tokens) for k in calls})
    if not found:
        raise InputError(f"calls needs at least one number from 1 to {tokens}, got none.")
    return found


def _require_numbers(tolerance: float, level: float, seed: int) -> None:
    """Raise InputError if a number is out of its range."""
    if not isinstance(tolerance, (int, float)) or not 0 < tolerance < math.inf:
        raise InputError(f"tolerance must be positive and finite, got {tolerance!r}.")
    if not isinstance(level, (int, float)) or not 0 < level < 1:
        raise InputError(f"level must be between 0 and 1, got {level!r}; use 0.95.")
    whole_number("seed", seed, 0, MAX_SEED)
