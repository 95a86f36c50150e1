"""Is an acceptance rule lossless? Its tokens must have the target's law, whatever the drafts.

A rule is a function `rule(target, draft, token, generator) -> token`: laws of the next token under
the target model and under the draft model, (n, V), and the drafted tokens (n,), which are drawn
from `draft`. It returns the tokens that are kept, (n,).

Half of the draws choose the set of tokens that come too often; the other half bound how much too
often it comes, which is at most the total variation distance from the target's law. A rule that
fails is refused at a level that all laws share.

Source: Leviathan, Kalman & Matias 2023, "Fast Inference from Transformers via Speculative
Decoding", appendix A.1, https://arxiv.org/abs/2211.17192
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from scipy import stats
from torch import Tensor

from capcheck.core.arguments import several, shown, whole_number
from capcheck.core.errors import InputError
from capcheck.core.randomness import MAX_SEED, CounterRandomness, Randomness
from capcheck.core.record import Record
from capcheck.samplers.drawing import others_code

__all__ = ["LAWS", "LEVEL", "ROWS", "VOCABULARIES", "AcceptanceResult", "Bias", "check_acceptance"]

Rule = Callable[[Tensor, Tensor, Tensor, torch.Generator], Tensor]
VOCABULARIES = (3, 50, 1000)
ROWS = 40_000  # draws beside each pair of laws
MOST_DRAWS = 100_000_000  # draws whose tokens fit into memory
LEVEL = 1e-3  # probability at which a lossless rule is refused, over all pairs of laws
TILE = 1 << 22  # numbers of the laws that a rule is shown at once
LAWS = ("alike", "apart", "sharp draft", "sharp target", "equal but one")
"""Pairs of laws: a draft near the target, unrelated ones, near-certain ones, and laws
that differ by one token alone, which only the draft proposes."""


class Bias(Record):
    """What a rule does beside one pair of laws.

    Attributes:
        laws: One of `LAWS`.
        vocabulary: Number V of tokens.
        accepted: Share of the drafted tokens that are returned.
        distance: Total variation distance from the target's law, at least, with the confidence of
            the check; 0 if no distance is seen.
        resolution: Distance that such draws would have told, about.
        impossible: Number of tokens that the target cannot have.
    """

    laws: str
    vocabulary: int
    accepted: float
    distance: float
    resolution: float
    impossible: int


class AcceptanceResult(Record):
    """The result of `check_acceptance`.

    Attributes:
        name: Name of the rule.
        lossless: Whether no pair of laws tells the rule's tokens from the target's.
        sentence: The result in one sentence.
        cells: Every pair of laws.
        draws: Number of tokens beside each pair.
        seed: Seed of all draws.
    """

    name: str
    lossless: bool
    sentence: str
    cells: tuple[Bias, ...]
    draws: int
    seed: int


def check_acceptance(
    rule: Rule, *, vocabularies: Sequence[int] = VOCABULARIES, draws: int = ROWS, seed: int = 0
) -> AcceptanceResult:
    """Check whether an acceptance rule of speculative decoding keeps the target's law.

    Args:
        rule: The rule, see the module's docstring. Its random numbers come from our source.
        vocabularies: Numbers of tokens, each 2 to 100,000.
        draws: Number of tokens beside each pair of laws, at least 1,000.
        seed: Seed of all draws.

    Raises:
        InputError: An argument is not possible, or the rule returns no tokens.

    Example:
        >>> import capcheck, torch
        >>> def greedy(target, draft, token, generator):
        ...     return target.argmax(1)
        >>> capcheck.check_acceptance(greedy, vocabularies=[3]).lossless
        False
    """
    if not callable(rule):
        raise InputError(
            f"rule must be a function of (target, draft, token, generator), got {shown(rule)}."
        )
    listed = several("vocabularies", vocabularies, "whole numbers", "write [50]")
    sizes = [whole_number("vocabularies", V) for V in listed]
    if not sizes or not all(2 <= V <= 100_000 for V in sizes):
        raise InputError(f"vocabularies must be from 2 to 100,000, got {shown(sizes)}.")
    draws = whole_number("draws", draws, most=MOST_DRAWS)
    if draws < 1000:
        raise InputError(f"draws must be at least 1000, got {shown(draws)}.")
    seed = whole_number("seed", seed, 0, MAX_SEED)
    cases = [(V, laws) for V in sizes for laws in LAWS]
    level = LEVEL / len(cases)
    cells = [_bias(rule, V, laws, draws, seed, level) for V, laws in cases]
    name = f"{rule.__module__}:{getattr(rule, '__qualname__', 'rule')}"
    worst = max(cells, key=lambda cell: (cell.impossible > 0, cell.distance))
    where = f"of {worst.vocabulary} tokens ({worst.laws})"
    if worst.impossible:
        told = f"beside laws {where} it returns tokens that the target cannot have"
    elif worst.distance > 0:
        told = (
            f"beside laws {where} its tokens are at least {worst.distance:.3g} from the target's "
            "law in total variation"
        )
    else:
        told = (
            f"beside {len(cells)} pairs of laws no distance is seen, where one of about "
            f"{max(cell.resolution for cell in cells):.2g} would have been"
        )
    lossless = worst.distance == 0 and not worst.impossible
    sentence = f"{'lossless' if lossless else 'not lossless'}: {told}"
    return AcceptanceResult(
        name=name, lossless=lossless, sentence=sentence, cells=tuple(cells), draws=draws, seed=seed
    )


def _bias(rule: Rule, V: int, laws: str, draws: int, seed: int, level: float) -> Bias:
    rng = CounterRandomness(seed, name=f"{V}, {laws}")
    target, draft = _laws(V, laws, rng.stream("laws"))
    found, accepted = [], 0
    for part, rows in enumerate(torch.arange(draws).split(max(1, TILE // V))):
        n, source = len(rows), rng.stream(f"part {part}")
        p, q = target.expand(n, V), draft.expand(n, V)
        token = source.stream("draft").categorical(q, (n, 1))[:, 0]
        tokens = _tokens(rule, p, q, token, source.stream("rule"))
        accepted += int((tokens == token).sum())
        found.append(tokens)
    first, second = torch.cat(found).tensor_split(2)
    counts = torch.bincount(first, minlength=V)
    often = counts > len(first) * target
    seen, expected = int(often[second].sum()), float(target[often].sum())
    low = float(stats.beta.ppf(level, seen, len(second) - seen + 1)) if seen else 0.0
    resolution = float(stats.norm.isf(level)) * 0.5 / len(second) ** 0.5
    return Bias(
        laws=laws,
        vocabulary=V,
        accepted=accepted / draws,
        distance=max(0.0, low - expected),
        resolution=resolution,
        impossible=int((target[torch.cat(found)] == 0).sum()),
    )


def _tokens(rule: Rule, p: Tensor, q: Tensor, token: Tensor, rng: Randomness) -> Tensor:
    """The tokens (n,) that a rule returns.

    Raises:
        InputError: They are no tokens.
    """
    with others_code(rng, len(token)):
        tokens = rule(p.clone(), q.clone(), token.clone(), torch.Generator())
    good = isinstance(tokens, Tensor) and tokens.shape == token.shape
    if (
        not good
        or tokens.is_floating_point()
        or not 0 <= int(tokens.min()) <= int(tokens.max()) < p.shape[1]
    ):
        raise InputError(
            f"a rule must return {len(token)} token ids from 0 to {p.shape[1] - 1}, got "
            f"{tuple(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__}."
        )
    return tokens.long().cpu()


def _laws(V: int, laws: str, rng: Randomness) -> tuple[Tensor, Tensor]:
    """The laws of the target and of the draft, both (V,); some tokens have probability 0."""
    u = rng.uniform((3, V))
    p, q, noise = -u.log()
    if laws == "alike":
        q = p * (1 + 0.3 * noise)
    elif laws == "sharp draft":
        q = q**6
    elif laws == "sharp target":
        p = p**6
    elif laws == "equal but one":
        q = p.clone()
    p[u[2].argmax()] = 0  # which the draft proposes
    return p / p.sum(), q / q.sum()
