"""Inference schedules: Chen, Cong & Li 2025, https://arxiv.org/abs/2511.04647.

The paper characterises the expected divergence of a masked decoder in random order exactly, as the
area between its information curve h(m) and the staircase of the schedule, and bounds numbers of
steps by the total correlation and the dual total correlation. On three laws of n tokens the curve
is known by the definitions (nats):

    even parity of n bits            h(m) = ln 2 for m < n - 1, then 0
    one of V symbols, n times        h(0) = ln V, then 0
    Reed-Solomon code of length n and dimension k over q elements
                                     h(m) = ln q for m < k, then 0

Any k tokens of the code are independent and tell the others. A schedule whose steps begin at m_j
and place s_j tokens loses sum_j s_j h(m_j) - H. capcheck finds all of it by `decoding_plan`, from
the list of the law's sequences.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator

from capcheck.published.claim import Claim, closed_form
from capcheck.results.decoding import DecodingPlan
from capcheck.runs.decoding import decoding_plan
from capcheck.targets import Target, from_spec, uniform_over

__all__ = ["claims"]

SOURCE = "inference-schedules"
_claim = functools.partial(closed_form, source=SOURCE, by="decoding_plan")
TOKENS, SYMBOLS = 8, 4
ELEMENTS, DIMENSION = 5, 2


def claims() -> Iterator[Claim]:
    """Correlations, curves and losses of the three laws."""
    n, V, q, k = TOKENS, SYMBOLS, ELEMENTS, DIMENSION
    half = math.log(2)
    laws: tuple[tuple[str, Target, list[float]], ...] = (
        (f"parity, n = {n}", from_spec(f"parity:{n}"), [half] * (n - 1) + [0]),
        (
            f"{V} symbols, {n} times",
            from_spec(f"copy:tokens={n},symbols={V}"),
            [math.log(V)] + [0] * (n - 1),
        ),
        (f"code, q = n = {q}, k = {k}", reed_solomon(q, k), [math.log(q)] * k + [0] * (q - k)),
    )
    for name, target, h in laws:
        N, H = len(h), sum(h)
        plan = decoding_plan(target, calls=[2, 3])
        assert plan.exact
        for quantity, closed, value in (
            ("total correlation", N * h[0] - H, plan.total_correlation.value),
            ("dual total correlation", H - N * h[-1], plan.dual_total_correlation.value),
            ("entropy", H, plan.entropy.value),
        ):
            yield _claim("definitions", f"{quantity}, {name}", closed, value)
        yield from _losses(name, plan, h)


def _losses(name: str, plan: DecodingPlan, h: list[float]) -> Iterator[Claim]:
    for price in plan.prices:
        begins = [0, *itertools.accumulate(price.placed)]
        staircase = sum(s * h[m] for s, m in zip(price.placed, begins, strict=False))
        quantity = f"expected KL, {price.rule} steps {price.steps_text}, {name}"
        value = price.kl.value * plan.tokens
        yield _claim("expected divergence", quantity, staircase - sum(h), value)


def reed_solomon(q: int, k: int) -> Target:
    """The code of all polynomials of degree below k at the q elements of a prime field."""
    words = [
        [sum(c * x**power for power, c in enumerate(coefficients)) % q for x in range(q)]
        for coefficients in itertools.product(range(q), repeat=k)
    ]
    return uniform_over(words, vocabulary=q, description=f"Reed-Solomon code [{q}, {k}]")
