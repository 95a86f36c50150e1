"""Speculative decoding: Leviathan, Kalman & Matias 2023, https://arxiv.org/abs/2211.17192.

Table 1 prints, for drafts that are accepted with probability alpha whatever became of the others,
and for gamma drafts a round, the arithmetic operations and the speed in those of one token per
call; both costs c of a draft are 0 there:

    speed       (1 - alpha^{gamma+1}) / (1 - alpha)                   (theorem 3.8 with c = 0)
    operations  (1 - alpha) (gamma + 1) / (1 - alpha^{gamma+1})       (theorem 3.11 with c = 0)

capcheck measures both on a law in which drafts are accepted so: the first of gamma + 1 tokens is
one of V symbols c, and each other one is one of c, c + 1, .., c + m - 1 (mod V), all equally likely
and independent given c. A head that drafts before c is known has the uniform law q = 1 / V, the
base model has p = 1 / m on its m symbols, and min(1, q / p) = m / V = alpha for every sequence, so
that a mean over draws has no error. `check("multi_token", ..)` finds the acceptance rate and the
accepted length; the operations follow from that rate by `operations_factor`.

Table 4 prints the expected speed for measured acceptance rates and costs, by theorem 3.8,

    (1 - alpha^{gamma+1}) / ((1 - alpha) (gamma c + 1)),

which is `improvement_factor` at the rate that capcheck finds on such a law. Both inputs are printed
with two digits, and three of twelve speeds are reached only within their rounding. Section 3.6 and
appendix A.5 print further speeds by the same theorem. The measured speeds of table 2 need the
models.

Theorem 3.5 says that alpha is the mean of sum_v min(p(v), q(v)), which is 1 - TV(p, q), and
appendix A.1 that the tokens have the law p. `check_acceptance` runs the paper's rule beside five
pairs of laws of 50 tokens; the rule itself notes 1 - TV of the laws that it is shown.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from fractions import Fraction

import torch
from scipy import stats
from torch import Tensor

from capcheck.api import check
from capcheck.procedures.speculation import improvement_factor, operations_factor
from capcheck.published.claim import Claim, digits
from capcheck.results.speculation import Speculation
from capcheck.samplers.acceptance import LAWS, check_acceptance
from capcheck.targets import CategoricalMixture, Target

__all__ = ["claims"]

SOURCE = "speculative-decoding"
TABLE = (
    (10, 6, 2, "1.53", "1.96"),
    (10, 7, 3, "1.58", "2.53"),
    (5, 4, 2, "1.23", "2.44"),
    (5, 4, 5, "1.63", "3.69"),
    (10, 9, 2, "1.11", "2.71"),
    (10, 9, 10, "1.60", "6.86"),
)
"""Symbols V, symbols m that may follow, gamma, operations and speed as printed; alpha is m / V."""
EXPECTED = (
    (0.75, 7, 0.02, "3.2"),
    (0.80, 7, 0.04, "3.3"),
    (0.82, 7, 0.11, "2.5"),
    (0.62, 7, 0.02, "2.3"),
    (0.68, 5, 0.04, "2.4"),
    (0.71, 3, 0.11, "2.0"),
    (0.65, 5, 0.02, "2.4"),
    (0.73, 5, 0.04, "2.6"),
    (0.74, 3, 0.11, "2.0"),
    (0.53, 5, 0.02, "1.9"),
    (0.55, 3, 0.04, "1.8"),
    (0.56, 3, 0.11, "1.6"),
)
"""Table 4: alpha, gamma, c and the expected speed as printed."""
HALF = 0.005  # half a unit of the last digit of alpha and c
ROUNDED = "alpha and c are printed with two digits; within their rounding, for {:.3f} and {:.3f},"
MEASURED = "3.4 2.8 1.7 2.6 2.4 1.4 3.1 3.0 2.2 2.3 2.2 1.7"  # of table 2
LENIENT = (0.62, 0.71, 0.76, 0.84)  # alpha of T5-small by lenience, table 5
ARGMAX = (0.75, 0.75, 0.80, 0.87)  # the same at temperature 0, in the text of appendix A.5
DRAFT_COST, ARGMAX_DRAFTS, MOST_DRAFTS = 0.015, 8, 100
VOCABULARY = 50
DRAWS = 40_000
CONFIDENCE = 0.999  # of the interval of each acceptance rate


def claims() -> Iterator[Claim]:
    """Tables 1, 2 and 4, speeds in the text, and acceptance with probability 1 - TV."""
    for V, m, gamma, operations, speed in TABLE:
        found = speculation(V, m, gamma)
        assert found.alpha is not None  # blocks have two tokens or more
        row = f"alpha {m / V:g}, gamma {gamma}"
        yield Claim(
            source=SOURCE,
            place="table 1",
            quantity=f"operations, {row}",
            printed=operations,
            by="check('multi_token'), operations_factor",
            value=operations_factor(found.alpha.value, gamma, cost=0),
        )
        yield Claim(
            source=SOURCE,
            place="table 1",
            quantity=f"speed, {row}",
            printed=speed,
            by="check('multi_token')",
            value=found.speed_ups[0].token_drafter.value,
        )
    yield from _expected_speeds()
    yield from _speeds_in_the_text()
    yield from _of_acceptance()


def _expected_speeds() -> Iterator[Claim]:
    for alpha, gamma, c, printed in EXPECTED:
        share = Fraction(str(alpha))
        found = speculation(share.denominator, share.numerator, gamma).alpha
        assert found is not None
        claim = Claim(
            source=SOURCE,
            place="table 4",
            quantity=f"expected speed, alpha {alpha:g}, gamma {gamma}, c {c:g}",
            printed=printed,
            by="check('multi_token'), improvement_factor",
            value=improvement_factor(found.value, gamma, c),
        )
        if claim.status == "contradicted":
            ends = alpha + HALF, c - HALF
            within = improvement_factor(ends[0], gamma, ends[1])
            claim = dataclasses.replace(claim, reason=ROUNDED.format(*ends), instead=within)
        yield claim
    yield Claim(
        source=SOURCE,
        place="table 2",
        quantity="measured speeds of T5, rows from the first",
        printed=MEASURED,
        by="-",
        value=None,
        reason="they are wall-clock times of T5-XXL on a TPU, which need its weights and code",
    )


def _speeds_in_the_text() -> Iterator[Claim]:
    """Speeds by theorem 3.8 whose inputs stand in the text."""

    def claim(place: str, quantity: str, printed: str, value: object, reason: str = "") -> Claim:
        return Claim(source=SOURCE, place=place, quantity=quantity, printed=printed,
                     by="improvement_factor", value=value, reason=reason)  # type: ignore[arg-type] # fmt: skip

    bigram = improvement_factor(0.2, 3, 0)
    yield claim("section 3.6", "speed, alpha 0.2, gamma 3", "1.25", bigram)
    argmax = [improvement_factor(alpha, ARGMAX_DRAFTS, DRAFT_COST) for alpha in ARGMAX]
    yield claim(
        "appendix A.5", "speeds at temperature 0, gamma 8, c 0.015", "3.3 3.3 3.9 4.9", argmax
    )
    best = [
        max(improvement_factor(alpha, gamma, DRAFT_COST) for gamma in range(MOST_DRAFTS))
        for alpha in LENIENT
    ]
    yield claim(
        "appendix A.5",
        "speeds by lenience, c 0.015, best gamma",
        "2.5 3.1 3.6 5",
        best,
        "the source states no gamma, and by theorem 3.8 no gamma reaches these speeds at the "
        "alpha of table 5 and this c",
    )


def speculation(V: int, m: int, gamma: int) -> Speculation:
    """What `multi_token` with gamma heads behind the first finds on the law of the docstring."""
    found = check(
        "multi_token",
        shifted(V, m, gamma + 1),
        options={"heads": gamma + 1},
        lengths=[gamma + 1],
        steps=[1],
        divergences="kl",
        samples=200,
        device="cpu",
    ).found.speculation
    assert found is not None
    assert found.speed_ups[0].cost == 0
    return found


def shifted(V: int, m: int, tokens: int) -> Target:
    """A uniform symbol c, and tokens that are uniform on c, .., c + m - 1 (mod V) given c."""
    near = torch.zeros(V, V, dtype=torch.float64)  # (c, symbol)
    for step in range(m):
        near += torch.eye(V, dtype=torch.float64).roll(step, 1) / m
    first = torch.eye(V, dtype=torch.float64)
    return CategoricalMixture(torch.stack([first, *[near] * (tokens - 1)], 1))


def accepted_by_the_paper(
    target: Tensor, draft: Tensor, token: Tensor, generator: torch.Generator
) -> Tensor:
    """The rule of section 2.3: accept with probability min(1, p / q), else draw (p - q)+ again."""
    p, q = (law.gather(1, token[:, None])[:, 0] for law in (target, draft))
    keep = torch.rand(len(token), generator=generator, dtype=p.dtype) < p / q
    excess = (target - draft).clamp(min=0)
    some = excess.sum(1, keepdim=True) > 0
    again = torch.where(some, excess, target).multinomial(1, generator=generator)[:, 0]
    return torch.where(keep, token, again)


def _of_acceptance() -> Iterator[Claim]:
    overlaps: list[float] = []  # one for each pair of laws, in their order

    def rule(target: Tensor, draft: Tensor, token: Tensor, generator: torch.Generator) -> Tensor:
        overlap = float(torch.minimum(target[0], draft[0]).sum())
        if overlap not in overlaps:
            overlaps.append(overlap)
        return accepted_by_the_paper(target, draft, token, generator)

    found = check_acceptance(rule, vocabularies=[VOCABULARY], draws=DRAWS)
    for cell, overlap in zip(found.cells, overlaps, strict=True):
        k = round(cell.accepted * found.draws)
        low, high = stats.binomtest(k, found.draws).proportion_ci(CONFIDENCE)
        yield Claim(
            source=SOURCE,
            place="theorem 3.5",
            quantity=f"share of drafts accepted, laws {cell.laws}",
            printed=digits(overlap, 4),
            side="closed form",
            by="check_acceptance",
            value=cell.accepted,
            low=float(low),
            high=float(high),
        )
    yield Claim(
        source=SOURCE,
        place="appendix A.1",
        quantity=f"pairs of laws of {len(LAWS)} from which tokens are told",
        printed="0",
        by="check_acceptance",
        value=float(sum(cell.distance > 0 or cell.impossible > 0 for cell in found.cells)),
    )
