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

Theorem 3.5 says that alpha is the mean of sum_v min(p(v), q(v)), which is 1 - TV(p, q), and
appendix A.1 that the tokens have the law p. `check_acceptance` runs the paper's rule beside five
pairs of laws of 50 tokens; the rule itself notes 1 - TV of the laws that it is shown.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from scipy import stats
from torch import Tensor

from capcheck.api import check
from capcheck.procedures.speculation import operations_factor
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
VOCABULARY = 50
DRAWS = 40_000
CONFIDENCE = 0.999  # of the interval of each acceptance rate


def claims() -> Iterator[Claim]:
    """Table 1, and acceptance with probability 1 - TV."""
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
    yield from _of_acceptance()


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
