"""Plans of parallel decoding: `decoding_plan` finds a target's curve and has schedules priced."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from capcheck.core.arguments import function, real_number, several, shown, whole_number
from capcheck.core.errors import InputError
from capcheck.divergences import DIVERGENCES
from capcheck.exact.information_curve import exact_curve, measured_curve
from capcheck.procedures.density_cost import WORK
from capcheck.results.decoding import DecodingPlan
from capcheck.results.settings import Settings
from capcheck.runs.cells import Cells
from capcheck.runs.options import MAX_SEED, Progress
from capcheck.runs.schedule_prices import Pricing, plain_starts
from capcheck.targets.target import CategoricalTarget, Target, require_one_law, require_target

__all__ = [
    "ALL_SIZES",
    "DRAWN_TOKENS",
    "FEWEST",
    "USUAL",
    "decoding_plan",
    "keep_plan",
]

DRAWN_TOKENS = 16_384  # tokens of all rows of a measured curve: a long row tells as much as many
FEWEST = 16  # rows of a measured curve at least, for its intervals
USUAL = 32  # fewest rows by default
ALL_SIZES = 64  # most tokens for which a curve is measured at every number of known ones


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
    require_target(target)
    require_one_law(target, "decoding_plan")
    function("progress", progress, "a Progress")
    spec, N = target.spec, target.spec.tokens
    tolerance = DIVERGENCES[spec.kind]["kl"].tolerance if tolerance is None else tolerance
    _require_numbers(tolerance, level, seed)
    usual = max(USUAL, DRAWN_TOKENS // N)
    rows = whole_number("samples", usual if samples is None else samples, FEWEST)
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
    pricing = Pricing(curve=curve, spec=spec, tolerance=tolerance, level=level)
    prices, cheapest = pricing.schedules(calls)
    return DecodingPlan(
        target=target.provenance.source or target.provenance.description,
        law=target.provenance.description,
        held_out=target.provenance.held_out,
        tokens=N,
        counted=len(spec.counted),
        sizes=curve.sizes,
        curve=pricing.heights(),
        entropy=pricing.mean(curve.row_entropies, curve.entropy),
        total_correlation=pricing.mean(curve.costs_by_row([0, N]), curve.cost([0, N])),
        dual_total_correlation=pricing.mean(curve.dual_by_row, curve.dual_total_correlation),
        prices=tuple(prices),
        cheapest=cheapest,
        tolerance=tolerance,
        level=level,
        exact=curve.is_exact,
        method=curve.method,
        seed=seed,
    )


def keep_plan(target: Target, settings: Settings, cells: Cells) -> None:
    """Keep the decoding plan of token ids beside the cells of a survey, unless it is there.

    Args:
        target: The target of the survey.
        settings: Settings of the survey; the plan takes a few times as long as the log-density of a
            cell.
        cells: Cells of the survey.
    """
    if not isinstance(target, CategoricalTarget) or target.left_to_right:
        return
    if settings.given or cells.decoding is not None:
        return
    rows = max(USUAL, DRAWN_TOKENS // target.spec.tokens)
    work = 2 * min(target.spec.tokens, ALL_SIZES) * target.conditional_cost  # of a row
    if work > 0:
        rows = max(FEWEST, min(rows, int(settings.seconds_per_cell * WORK / work)))
    tolerance = settings.tolerances.get("kl")
    plan = decoding_plan(
        target, tolerance=tolerance, samples=rows, seed=settings.seed, level=settings.level
    )
    cells.keep_decoding(plan)


def _nodes(tokens: int, calls: Sequence[int]) -> list[int] | None:
    """The sizes at which a curve is measured: those that schedules ask for, and a grid."""
    if tokens <= ALL_SIZES:
        return None
    ends = [*range(8), *range(tokens - 8, tokens)]
    grid = range(0, tokens, max(1, tokens // ALL_SIZES))
    return sorted({*ends, *grid, *plain_starts(tokens, calls)})


def _powers_of_two(tokens: int, most: int) -> list[int]:
    """The powers of two below the number of tokens, up to a largest one, and this number."""
    return [*(2**j for j in range(tokens.bit_length()) if 2**j < min(tokens, most + 1)), tokens]


def _require_calls(calls: Sequence[int], tokens: int) -> list[int]:
    """The numbers of calls in rising order, once each.

    Raises:
        InputError: One is no whole number from 1 to the number of tokens, or there is none.
    """
    cure = f"use [{shown(calls)}]" if isinstance(calls, int) else "use [1, 2]"
    listed = several("calls", calls, "whole numbers", cure)
    found = sorted({whole_number("calls", k, 1, tokens) for k in listed})
    if not found:
        raise InputError(f"calls needs at least one number from 1 to {tokens}, got none.")
    return found


def _require_numbers(tolerance: float, level: float, seed: int) -> None:
    """Raise InputError if a number is out of its range."""
    finite = "positive and finite"
    real_number("tolerance", tolerance, finite, lambda t: 0 < t < float("inf"))
    real_number("level", level, "between 0 and 1", lambda p: 0 < p < 1, "use 0.95")
    whole_number("seed", seed, 0, MAX_SEED)
