"""ParallelBench: Kang et al. 2025, https://arxiv.org/abs/2510.04767.

Section 4 prints closed forms of four operations on a list of n items, with X the given list and Y
the answer: the loss C(Y|X) of one step, which is a total correlation (equations 3 and 4), that of T
steps (theorem 1), and the accuracy of decoders that place k items a step, or all whose confidence
exceeds a threshold gamma (equation 5, sections 4.2.1 and 4.2.2, table 1). Numbers are in bits.

The targets `shuffle`, `replacement` and `copy` are the laws of Y: for shuffling the permutations of
n symbols, for a random replacement one 1 at a uniform place among 0s. Losses come from
`decoding_plan`; losses of long lists, and accuracies, from the exact law of `parallel_decoder`, of
which the accuracy is the probability of all sequences that the target has.

Greedy decoding of the paper decides between equally likely values by noise, and capcheck's takes
the smallest. Draws at a temperature near 0 take equally likely values equally often.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from capcheck.published.cells import BITS, cell_of, exact_kl, share_of_valid
from capcheck.published.claim import Claim, digits
from capcheck.runs.decoding import decoding_plan
from capcheck.targets import CategoricalTarget, from_spec

__all__ = ["claims"]

SOURCE = "parallelbench"
PLANNED = "decoding_plan"
DECODED = "check('parallel_decoder')"
LONG = 1000  # items of a list whose loss has the digits of the limit
COLD = {"temperature": 0.05}  # in place of greedy: odds of 4 : 1 become 4^20 : 1
TIES = "capcheck's greedy decoder takes the smallest of equally likely values, the paper's any"
BOUNDARY = (
    "capcheck places a token whose confidence equals the threshold, and the paper one whose "
    "confidence exceeds it; for a threshold that is larger by 1e-9"
)


def claims() -> Iterator[Claim]:
    """Losses of one step and of more, and accuracies."""
    yield from _losses_of_one_step()
    yield from _losses_of_shuffling()
    yield from _accuracies_of_shuffling()
    yield from _accuracies_of_replacing()


def _losses_of_one_step() -> Iterator[Claim]:
    given = exact_kl(cell_of("parallel_decoder", _target("copy:tokens=5,symbols=5"), given=[0]))
    yield _claim("table 1", "C(Y|X), copy, n = 5, symbol given", "0", given * BITS)
    long = cell_of("parallel_decoder", _target(f"replacement:{LONG}")).estimates["kl"]
    assert long.value is not None  # the mean over draws of a number that all sequences share
    quantity = f"C(Y|X), replace random, limit (n = {LONG})"
    yield _claim("equation 3", quantity, "1.44", long.value * BITS)
    for n in (4, 8, 12):
        bits = (n - 1) * (math.log2(n) - math.log2(n - 1))
        plan = decoding_plan(_target(f"replacement:{n}"), calls=[1])
        found = plan.total_correlation.value * BITS
        yield _closed("equation 3", f"C(Y|X), replace random, n = {n}", bits, found)


def _losses_of_shuffling() -> Iterator[Claim]:
    """log2(n!! / (n-1)!!) for two items a step, sum |S_t| log2 k_t - log2 n! for other sizes."""
    sizes = (4, 6, 8)
    plans = {n: decoding_plan(_target(f"shuffle:{n}"), calls=[3, n // 2]) for n in sizes}
    for n, plan in plans.items():
        bits = n * math.log2(n) - math.log2(math.factorial(n))
        found = plan.total_correlation.value * BITS
        yield _closed("equation 4", f"C(Y|X), shuffle, n = {n}", bits, found)
    for n, plan in plans.items():
        two = plan.price(n // 2, "uniform")
        assert two is not None
        assert set(two.placed) == {2}
        bits = math.log2(_double(n) / _double(n - 1))
        quantity = f"loss, shuffle, n = {n}, 2 a step"
        yield _closed("section 4.1", quantity, bits, two.kl.value * n * BITS)
    n = sizes[-1]
    price = plans[n].price(3, "cosine")
    assert price is not None
    left = [n - sum(price.placed[:t]) for t in range(3)]
    terms = (size * math.log2(k) for size, k in zip(price.placed, left, strict=True))
    bits = sum(terms) - math.log2(math.factorial(n))
    quantity = f"loss, shuffle, n = {n}, steps of {price.steps_text}"
    yield _closed("section 4.1", quantity, bits, price.kl.value * n * BITS)


def _accuracies_of_shuffling() -> Iterator[Claim]:
    two = {n: _double(n - 1) / _double(n) for n in (4, 6)}
    for n in (4, 5):
        yield _closed(
            "equation 5",
            f"accuracy, shuffle, n = {n}, one step",
            math.factorial(n) / n**n,
            _accuracy(f"shuffle:{n}", tokens_per_step=n),
            by=DECODED,
        )
    for k, closed in ((1, 1.0), (2, two[4])):
        quantity = f"accuracy, shuffle, n = 4, {k} a step"
        value = _accuracy("shuffle:4", tokens_per_step=k)
        yield _closed("equation 5", quantity, closed, value, by=DECODED)
    drawn = cell_of(
        "parallel_decoder",
        _target("shuffle:6"),
        {"tokens_per_step": 2},
        steps=6,
        divergences=["mmd"],
        samples=2000,
    )
    assert drawn.quality is not None
    share = drawn.quality.valid
    yield _claim(
        "equation 5",
        "accuracy, shuffle, n = 6, 2 a step",
        digits(two[6], 4),
        share.value,
        low=share.low,
        high=share.high,
        side="closed form",
    )
    yield _closed(
        "equation 5",
        "accuracy, shuffle, n = 4, 2 a step, greedy",
        two[4],
        _accuracy("shuffle:4", tokens_per_step=2, greedy=True),
        by=DECODED,
        reason=f"{TIES}; at temperature {COLD['temperature']:g}",
        instead=_accuracy("shuffle:4", tokens_per_step=2, **COLD),
    )
    value = _accuracy("shuffle:5", threshold=0.6, greedy=True)
    yield _claim("table 1", "accuracy, shuffle, n = 5, threshold 0.6, greedy", "1", value)


def _accuracies_of_replacing() -> Iterator[Claim]:
    for n in (5, 10):
        quantity = f"accuracy, replace random, n = {n}, one step"
        value = _accuracy(f"replacement:{n}", tokens_per_step=n)
        yield _closed("section 4.2.1", quantity, ((n - 1) / n) ** (n - 1), value, by=DECODED)
    spec, what = "replacement:6", "accuracy, replace random"
    yield _claim(
        "table 1",
        f"{what}, n = 6, 2 a step, greedy",
        "0.5",
        _accuracy(spec, tokens_per_step=2, greedy=True),
        reason=f"{TIES}; at temperature {COLD['temperature']:g}",
        instead=_accuracy(spec, tokens_per_step=2, **COLD),
    )
    value = _accuracy(spec, tokens_per_step=3, greedy=True)
    yield _claim("table 1", f"{what}, n = 6, 3 a step, greedy", "0", value)
    spec, what = "replacement:10", f"{what}, n = 10, threshold"
    for threshold, printed in ((0.8, "0"), (0.95, "1")):
        value = _accuracy(spec, threshold=threshold, greedy=True)
        yield _claim("table 1", f"{what} {threshold:g}, greedy", printed, value)
    yield _claim(
        "table 1",
        f"{what} 0.9 = (n - 1) / n, greedy",
        "1",
        _accuracy(spec, threshold=0.9, greedy=True),
        reason=BOUNDARY,
        instead=_accuracy(spec, threshold=0.9 + 1e-9, greedy=True),
    )


def _accuracy(spec: str, **options: Any) -> float:
    """The probability of the target's sequences among those of a decoder."""
    target = _target(spec)
    cell = cell_of("parallel_decoder", target, options, steps=target.spec.tokens)
    return share_of_valid(target, cell)


def _target(spec: str) -> CategoricalTarget:
    found = from_spec(spec)
    assert isinstance(found, CategoricalTarget)
    return found


def _double(n: int) -> int:
    """The double factorial n!! = n (n - 2) (n - 4) .."""
    return math.prod(range(n, 0, -2))


def _claim(place: str, quantity: str, printed: str, value: float | None, **more: Any) -> Claim:
    return Claim(
        source=SOURCE,
        place=place,
        quantity=quantity,
        printed=printed,
        value=value,
        **{"by": DECODED, **more},
    )


def _closed(place: str, quantity: str, closed: float, value: float, **more: Any) -> Claim:
    by = {"by": PLANNED, **more}
    return _claim(place, quantity, digits(closed), value, side="closed form", **by)
