"""Users' decoders of token ids: which keep the law, which do not, and planted mistakes."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from capcheck import SamplerResult, check_sampler
from capcheck.core.errors import UnfitError
from capcheck.samplers.battery import cells_of, judged
from capcheck.samplers.from_decoder import decoder_probe

Model = Callable[[Tensor], SimpleNamespace]


def mask_of(model: Model, x: Tensor) -> int:
    return int(model(x).logits.shape[-1]) - 1


def left_to_right(model: Model, tokens: Tensor, steps: int) -> Tensor:
    """As many tokens at once as the steps ask for, from the left."""
    x, N = tokens, tokens.shape[1]
    for j in range(steps):
        logits = model(x).logits
        first, last = N * j // steps, N * (j + 1) // steps
        if first < last:
            p = logits[:, first:last].softmax(-1)
            drawn = torch.multinomial(p.flatten(0, 1), 1).reshape(len(x), -1)
            x = torch.cat([x[:, :first], drawn, x[:, last:]], 1)
    return x


def low_confidence(model: Model, tokens: Tensor, steps: int) -> Tensor:
    """Masked diffusion as published: Gumbel draws of all, of which the likeliest are kept."""
    x, N = tokens.clone(), tokens.shape[1]
    mask = mask_of(model, x)
    for j in range(steps):
        logits = model(x).logits.double()
        noise = -torch.rand_like(logits).log()
        x0 = (logits.exp() / noise).argmax(-1)
        confidence = logits.softmax(-1).gather(-1, x0[..., None])[..., 0]
        confidence = torch.where(x == mask, confidence, -torch.inf)
        count = N * (j + 1) // steps - N * j // steps
        keep = confidence.topk(count, dim=1).indices
        x = x.scatter(1, keep, x0.gather(1, keep))
    return x


def by_threshold(model: Model, tokens: Tensor, steps: int, threshold: float = 0.8) -> Tensor:
    """All tokens whose likeliest value is likely enough, and at least the likeliest."""
    x = tokens.clone()
    mask = mask_of(model, x)
    for _ in range(tokens.shape[1]):
        p = model(x).logits.softmax(-1)
        best = torch.where(x == mask, p.amax(-1), -1)
        first = torch.zeros_like(x).scatter(1, best.argmax(1, keepdim=True), 1).bool()
        chosen = (best >= threshold) | first
        drawn = torch.multinomial(p.flatten(0, 1), 1).reshape(x.shape)
        x = torch.where(chosen & (x == mask), drawn, x)
    return x


def leaves_masks(model: Model, tokens: Tensor, steps: int) -> Tensor:
    x = left_to_right(model, tokens, steps)
    return torch.cat([x[:, :-1], tokens[:, -1:]], 1)


def one_call(model: Model, tokens: Tensor, steps: int) -> Tensor:
    return left_to_right(model, tokens, 1)


def shifted(model: Model, tokens: Tensor, steps: int) -> Tensor:
    return left_to_right(model, tokens, steps).roll(1, dims=1)


def breaks(model: Model, tokens: Tensor, steps: int) -> Tensor:
    return tokens[:, :-1]


def outcome(decode: Any, target: str, steps: int, samples: int, **config: Any) -> str:
    """The verdict beside a single target."""
    probe = decoder_probe(decode, "decoder", config)
    (cell,) = cells_of(probe, target, [steps], samples=samples, seed=0)
    return cell.outcome


def outcomes(found: SamplerResult, steps: int) -> dict[str, str]:
    return {cell.target: cell.outcome for cell in found.cells if cell.steps == steps}


def test_one_token_at_a_time_keeps_every_law() -> None:
    found = check_sampler(left_to_right, samples=1000)
    assert found.silent, found.findings
    assert all(cell.exact for cell in found.cells)
    assert set(outcomes(found, 4).values()) == {"representable"}
    assert outcomes(found, 1) == {
        "independent": "representable", "sticky": "not_representable",
        "parity": "not_representable",
    }  # fmt: skip


def test_the_order_by_confidence_of_drawn_values_is_biased_however_many_steps() -> None:
    assert outcome(low_confidence, "independent", 3, 4000) == "not_representable"
    assert outcome(left_to_right, "independent", 3, 4000) == "representable"


def test_a_threshold_trades_calls_for_dependence() -> None:
    refused = "not_representable"
    assert outcome(by_threshold, "parity", 4, 2000, threshold=1.0) != refused
    assert outcome(by_threshold, "parity", 4, 2000, threshold=0.5) == refused
    assert outcome(by_threshold, "independent", 4, 2000, threshold=0.5) != refused


@pytest.mark.parametrize(
    ("decode", "kind", "sentence"),
    [
        (leaves_masks, "leftover_noise", "1 of 8 tokens are still masked"),
        (one_call, "fewer_steps", "4 steps were asked for, and the model was called 1 times"),
        (shifted, "biased_rule", "certain of one sequence"),
        (breaks, "raises", "must return token ids"),
    ],
)
def test_planted_mistakes_have_their_names(decode: Any, kind: str, sentence: str) -> None:
    found = check_sampler(decode, steps=[2, 4], lint_only=True)
    told = {str(finding.kind): finding.sentence for finding in found.findings}
    assert sentence in told[kind]
    assert check_sampler(left_to_right, steps=[2, 4], lint_only=True).silent


def greedy(model: Any, tokens: Tensor, steps: int) -> Tensor:
    likeliest: Tensor = model(tokens).logits.argmax(-1)
    return likeliest


def test_a_decoder_that_always_writes_the_same_has_a_biased_rule() -> None:
    found = check_sampler(greedy, steps=[1, 4], samples=1000)
    biased = {one.target for one in found.findings if one.kind == "biased_rule"}
    assert biased >= {"independent", "sticky"}
    assert all(one.confirmed for one in found.findings if one.target in ("independent", "sticky"))


def test_what_takes_us_too_long_is_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_long(*_: Any, **__: Any) -> None:
        raise UnfitError("a run would take 29 min.")

    monkeypatch.setattr("capcheck.samplers.battery.api.check", too_long)
    cells = list(
        cells_of(decoder_probe(greedy, "greedy", {}), "sticky", [1, 2], samples=200, seed=0)
    )
    assert [cell.outcome for cell in cells] == ["inconclusive"] * 2
    assert judged(cells) == []
