"""Laws by spans equal those of the whole recursion, and are used where they are shorter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from capcheck.core.randomness import CounterRandomness
from capcheck.targets.categorical import markov_chain, spans
from capcheck.targets.categorical.markov_chain import MarkovChain
from capcheck.targets.categorical.spans import Spans

SYMBOLS, TOKENS, ROWS = 3, 12, 200


def chain(order: int) -> MarkovChain:
    rng = torch.Generator().manual_seed(order)
    tables = [
        torch.rand((SYMBOLS,) * k, dtype=torch.float64, generator=rng) + 0.01
        for k in range(1, order + 2)
    ]
    return MarkovChain([p / p.sum(-1, keepdim=True) for p in tables], tokens=TOKENS)


def shown(share: float) -> tuple[Tensor, Tensor]:
    """Which tokens are known, and some of the others."""
    rng = torch.Generator().manual_seed(0)
    known = torch.rand(ROWS, TOKENS, generator=rng) < share
    chosen = (torch.rand(ROWS, TOKENS, generator=rng) < 0.3) & ~known
    return known, chosen


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_laws_by_spans_are_those_of_the_whole_recursion(
    order: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(markov_chain, "LARGE", 1)
    monkeypatch.setattr(spans, "PAYS", float("inf"))
    target = chain(order)
    x = target.sample(ROWS, CounterRandomness(0))
    known, chosen = shown(share)
    whole = target.marginals(x, (~known).double()).mean()
    law = target.marginals(x, (~known).double())
    torch.testing.assert_close(law.probabilities_where(chosen), whole[chosen])
    of_values = whole.gather(-1, x[..., None])[..., 0].log()
    some = torch.where(chosen, of_values, 0)
    torch.testing.assert_close(law.log_prob_where(x, chosen), some)
    draws = law.sample_where(CounterRandomness(1), chosen)
    monkeypatch.setattr(spans, "PAYS", 0.0)
    by_whole = target.marginals(x, (~known).double()).sample_where(CounterRandomness(1), chosen)
    assert torch.equal(draws[chosen], by_whole[chosen])


def test_a_wrong_span_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    # The twin: one known token does not screen off a chain of order 2.
    target = chain(2)
    x = target.sample(ROWS, CounterRandomness(0))
    known, chosen = shown(0.5)
    recursion = target._at_places
    monkeypatch.setattr(spans, "PAYS", float("inf"))
    right = Spans(x, known, 2, recursion).laws(chosen)
    wrong = Spans(x, known, 1, recursion).laws(chosen)
    assert right is not None
    assert wrong is not None
    assert float((right - wrong).abs().max()) > 0.01


def test_long_spans_are_left_to_the_recursion() -> None:
    target = chain(2)
    x = target.sample(ROWS, CounterRandomness(0))
    nothing = torch.zeros(ROWS, TOKENS, dtype=torch.bool)
    assert Spans(x, nothing, 2, target._at_places).laws(~nothing) is None
    most = ~nothing
    most[:50, 6] = False  # a quarter of the rows, from token 4 to token 8
    assert Spans(x, most, 2, target._at_places).laws(~most) is not None
