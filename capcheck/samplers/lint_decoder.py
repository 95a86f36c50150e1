"""The structure of a decoder of token ids, seen with a certain model and with an unsure one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from capcheck.core.randomness import CounterRandomness
from capcheck.samplers.findings import Finding
from capcheck.samplers.from_decoder import Decode, decoded
from capcheck.samplers.lint import ROWS, Seen, finding_of, of_errors

__all__ = ["CERTAIN", "lint_decoder", "look_at_decoder"]


CERTAIN = (2, 0, 1, 2, 1, 0, 0, 1)
"""The sequence of which the model is certain."""


def look_at_decoder(
    decode: Decode,
    steps: int,
    config: dict[str, Any],
    seed: int = 0,
    sequence: Sequence[int] = CERTAIN,
) -> tuple[Seen, int]:
    """Run a decoder on a single sequence; also returns the number of tokens left masked.

    The share of tokens that differ from the sequence is the bias. Calls are counted with a model
    that is unsure of every token, since a decoder may end early where all is certain.
    """
    rng, calls = CounterRandomness(seed, name="lint"), 0
    certain = torch.tensor(sequence)
    mask = 3
    sure = torch.full((len(certain), mask), -torch.inf, dtype=torch.float64)
    sure[torch.arange(len(certain)), certain] = 0
    unsure = rng.stream("unsure").normal((len(certain), mask)).log_softmax(-1)

    def answering(log_p: Tensor) -> Callable[..., SimpleNamespace]:
        never = torch.full((len(certain), 1), -torch.inf, dtype=torch.float64)
        logits = torch.cat([log_p, never], 1)

        def model(x: Tensor, *_: Any, **__: Any) -> SimpleNamespace:
            nonlocal calls
            calls += 1
            return SimpleNamespace(logits=logits.repeat(len(x), 1, 1))

        return model

    start = torch.full((ROWS, len(certain)), mask)
    try:
        x, drawing = decoded(decode, answering(sure), start, steps, config, rng)
        calls = 0
        decoded(decode, answering(unsure), start, steps, config, rng)
    except Exception as error:  # whatever other people's code raises is the result
        return Seen(asked=steps, error=f"{type(error).__name__}: {error}".split("\n")[0]), 0
    placed = x != mask
    wrong = float((x != certain)[placed].double().mean()) if bool(placed.any()) else 0.0
    seen = Seen(asked=steps, calls=calls, bias=wrong, draws=drawing.draws)
    return seen, int((~placed).sum()) // ROWS


def lint_decoder(seen: Iterable[tuple[Seen, int]]) -> list[Finding]:
    """The findings of a decoder's runs at several numbers of steps."""
    runs = list(seen)
    left = {run.asked: count for run, count in runs}
    good = [run for run, _ in runs if run.error is None]
    found = [
        finding_of(
            "fewer_steps",
            [run for run in good if run.calls < run.asked],
            lambda run: (
                f"{run.asked} steps were asked for, and the model was called {run.calls} times"
            ),
            calls=lambda run: run.calls,
        ),
        finding_of(
            "leftover_noise",
            [run for run in good if left[run.asked]],
            lambda run: f"{left[run.asked]} of 8 tokens are still masked at the end",
            masked=lambda run: left[run.asked],
        ),
        finding_of(
            "biased_rule",
            [run for run in good if run.bias > 0],
            lambda run: (
                f"where the model is certain of one sequence, {run.bias:.2g} of the tokens "
                "differ from it"
            ),
            share=lambda run: run.bias,
        ),
    ]
    errors = of_errors([run for run, _ in runs])
    return [*errors, *(finding for finding in found if finding is not None)]
