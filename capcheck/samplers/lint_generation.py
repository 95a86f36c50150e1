"""The structure of a decoding strategy of `transformers`, and the law of its tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from capcheck.networks.signatures import PrefixPredictorSignature
from capcheck.samplers.battery import OTHERS, TOKEN_TARGETS, judged
from capcheck.samplers.findings import Cell, Finding
from capcheck.samplers.from_transformers import Generation
from capcheck.samplers.generation_probe import table_of
from capcheck.samplers.lint import Seen
from capcheck.targets import Target
from capcheck.targets.categorical.sequence_law import numbers, sequences

__all__ = ["DISTANCE", "judged_generation", "law_findings", "look_at_generation"]

DISTANCE = 1e-4  # total variation that counts; single precision makes about 1e-7
WIDE = 64  # values of a token, of which the library draws 50 by default


def look_at_generation(
    generation: Generation, steps: int, sequence: Sequence[int] = (2, 0, 1, 1)
) -> tuple[Seen, list[Finding]]:
    """Run a strategy with a model that is certain of one sequence, and with one of 64 tokens."""
    certain = torch.tensor(sequence)
    V, N = 3, len(certain)
    sure = torch.nn.functional.one_hot(certain, V).double().expand(V**N, N, V)
    weights = torch.arange(WIDE, 2 * WIDE).double()  # none twice, since equal ones are cut together
    wide = (weights / weights.sum()).expand(WIDE, 1, WIDE).contiguous()
    try:
        law = generation.law(sure.contiguous(), steps)
        never = int((generation.law(wide, 1) == 0).sum())  # one token: nothing is drafted
    except Exception as error:  # whatever other people's code raises is the result
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        return Seen(asked=steps, error=reason), []
    wrong = 1 - float(law[numbers(certain[None], V)])
    seen = Seen(asked=steps, calls=steps, bias=wrong if wrong > DISTANCE else 0.0)
    if not never:
        return seen, []
    sentence = (
        f"of {WIDE} tokens of similar probability {never} are never drawn; top_k is 50 unless it "
        "is set to 0, and other settings cut as well"
    )
    return seen, [Finding(kind="biased_rule", sentence=sentence, steps=(steps,))]


def judged_generation(
    generation: Generation, name: str, cells: Sequence[Cell], *, other: bool = False
) -> list[Finding]:
    """The findings of the cells of one target: what is raised, and what the law is.

    Args:
        generation: The strategy.
        name: Name of the target.
        cells: Its cells.
        other: Whether they are those of the other target of this kind.
    """
    raising = [cell for cell in cells if cell.outcome == "raises"]
    ran = [cell.steps for cell in cells if cell.outcome != "raises"]
    target = (OTHERS if other else TOKEN_TARGETS)[name]()
    return [*judged(raising), *law_findings(generation, name, target, ran)]


def law_findings(
    generation: Generation, name: str, target: Target, steps: Sequence[int]
) -> list[Finding]:
    """The findings about the law of the tokens beside a target.

    Args:
        generation: The strategy, which runs on this target at these steps.
        name: Name of the target.
        target: The target.
        steps: Numbers of drafted tokens.
    """
    if not steps:
        return []
    table = table_of(PrefixPredictorSignature().oracle(target), target.spec.dim, target.spec.tokens)
    plain = generation.without_drafts()
    by_drafts, by_settings = dict[int, float](), dict[int, float]()
    for k in steps:
        law = generation.law(table, k)
        by_settings[k] = _distance(law, _joint(table))
        if plain is not None:
            by_drafts[k] = _distance(law, plain.law(table, 1))
    found = []
    if by_drafts and max(by_drafts.values()) > DISTANCE:
        worst = max(by_drafts, key=by_drafts.__getitem__)
        sentence = (
            f"with {worst} drafted tokens the law of the tokens is {by_drafts[worst]:.3g} in total "
            "variation from that of sampling without drafts under the same settings: the drafts "
            "are not lossless"
        )
        found.append(_finding(sentence, name, by_drafts))
    elif max(by_settings.values()) > DISTANCE:
        worst = max(by_settings, key=by_settings.__getitem__)
        sentence = (
            f"the law of the tokens is {by_settings[worst]:.3g} in total variation from the "
            "model's: the settings change it"
            + (", and the drafts change nothing further" if by_drafts else "")
        )
        found.append(_finding(sentence, name, by_settings))
    return found


def _finding(sentence: str, target: str, distances: dict[int, float]) -> Finding:
    return Finding(
        kind="biased_rule",
        sentence=sentence,
        steps=tuple(k for k, distance in distances.items() if distance > DISTANCE),
        target=target,
        evidence={"steps": list(distances), "total_variation": list(distances.values())},
    )


def _distance(p: Tensor, q: Tensor) -> float:
    """Total variation distance of two laws (V^N,)."""
    return float((p - q).abs().sum() / 2)


def _joint(table: Tensor) -> Tensor:
    """Probability of every sequence (V^N,) by the chain rule."""
    _, N, V = table.shape
    x = torch.cat(list(sequences(V, N)))
    return table.gather(2, x[..., None])[..., 0].prod(1)
