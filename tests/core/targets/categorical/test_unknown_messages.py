"""Laws by messages over unknown tokens, and by spans of them, equal those of the enumerated law."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

from capcheck.core import randomness
from capcheck.core.randomness import CounterRandomness
from capcheck.laws import DeferredCategorical
from capcheck.targets.categorical import ahead, spans, unknown_messages
from capcheck.targets.categorical.ahead import HELD, Ahead
from capcheck.targets.categorical.markov_chain import MarkovChain
from capcheck.targets.categorical.spans import Spans
from capcheck.targets.categorical.unknown_messages import UnknownMessages

SYMBOLS, TOKENS, ROWS = 3, 6, 60


@pytest.fixture(autouse=True)
def narrow_tables_pay(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small chains take messages over unknown tokens too, but in the test of the rule."""
    if "left_to_the_recursion" not in request.node.name:
        monkeypatch.setattr(unknown_messages, "WIDE", 1)


def tables(order: int, *, own: bool = False) -> list[Tensor]:
    """Tables of a chain, one for each token with `own`."""
    rng = torch.Generator().manual_seed(order)
    sizes = [min(i, order) + 1 for i in range(TOKENS if own else order + 1)]
    drawn = [torch.rand((SYMBOLS,) * k, dtype=torch.float64, generator=rng) + 0.01 for k in sizes]
    return [p / p.sum(-1, keepdim=True) for p in drawn]


def shown(share: float, tokens: int = TOKENS) -> tuple[Tensor, Tensor]:
    """Which tokens are known, and which are asked for."""
    rng = torch.Generator().manual_seed(0)
    known = torch.rand(ROWS, tokens, generator=rng) < share
    return known, torch.rand(ROWS, tokens, generator=rng) < 0.4


def enumerated(
    laws: list[Tensor], x: Tensor, known: Tensor, chosen: Tensor, *, causal: bool
) -> Tensor:
    """The laws of the chosen tokens by the sum over all sequences."""
    sequences = np.array(list(itertools.product(range(SYMBOLS), repeat=TOKENS)))
    mass = np.ones(len(sequences))
    for i in range(TOKENS):
        table = laws[min(i, len(laws) - 1)].numpy()
        past = table.ndim - 1
        mass *= table[tuple(sequences[:, i - past : i + 1].T)]
    found = []
    for row, i in chosen.nonzero().tolist():
        shown_to = known[row].numpy().copy()
        if causal:
            shown_to[i:] = False
        fits = (sequences[:, shown_to] == x[row].numpy()[shown_to]).all(1)
        sums = np.bincount(sequences[fits, i], mass[fits], minlength=SYMBOLS)
        found.append(sums / sums.sum())
    return torch.tensor(np.array(found)).reshape(-1, SYMBOLS)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.0])
def test_laws_equal_those_of_the_enumerated_law(
    order: int, own: bool, causal: bool, share: float
) -> None:
    laws = tables(order, own=own)
    target = MarkovChain(laws, tokens=TOKENS)
    x = target.sample(ROWS, CounterRandomness(0))
    known, asked = shown(share)
    known[:, :2] |= share == 0.5  # tokens that all rows know end the recursions
    messages = UnknownMessages(target._table, order)
    found = messages.laws(x, known, asked, causal=causal)
    expected = enumerated(laws, x, known, asked, causal=causal)
    torch.testing.assert_close(found, expected, atol=1e-13, rtol=0)


@pytest.mark.parametrize("tile", [1, 1 << 24])
def test_small_tiles_change_nothing(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    laws = tables(2)
    target = MarkovChain(laws, tokens=TOKENS)
    x = target.sample(ROWS, CounterRandomness(0))
    known, asked = shown(0.3)
    monkeypatch.setattr(unknown_messages, "TILE", tile)
    monkeypatch.setattr(unknown_messages, "FEW_ROWS", 7)
    found = UnknownMessages(target._table, 2).laws(x, known, asked)
    expected = enumerated(laws, x, known, asked, causal=False)
    torch.testing.assert_close(found, expected, atol=1e-13, rtol=0)


def test_a_message_over_too_few_tokens_would_be_seen() -> None:
    # The twin: a chain of order 2 has states of two tokens.
    target = MarkovChain(tables(2), tokens=TOKENS)
    x = target.sample(ROWS, CounterRandomness(0))
    known, asked = shown(0.5)
    first = UnknownMessages(MarkovChain(tables(1), tokens=TOKENS)._table, 1)
    right = UnknownMessages(target._table, 2).laws(x, known, asked)
    assert float((first.laws(x, known, asked) - right).abs().max()) > 0.01


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_laws_of_the_chain_are_the_same_with_spans_and_without(
    order: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans, "PAYS", float("inf"))
    monkeypatch.setattr(randomness, "FOLLOWED", 1)
    target = MarkovChain(tables(order), tokens=20)
    x = target.sample(ROWS, CounterRandomness(0))
    known, asked = shown(share, 20)
    asked = asked & ~known

    def law() -> DeferredCategorical:
        return target.marginals(x, (~known).double())

    whole = law().mean()
    torch.testing.assert_close(whole[known].amax(-1), torch.ones(int(known.sum())).double())
    torch.testing.assert_close(law().probabilities_where(asked), whole[asked])
    of_values = torch.where(asked, whole.gather(-1, x[..., None])[..., 0].log(), 0)
    torch.testing.assert_close(law().log_prob_where(x, asked), of_values)
    draws = law().sample_where(CounterRandomness(1), asked)
    monkeypatch.setattr(spans, "PAYS", 0.0)
    again = law().sample_where(CounterRandomness(1), asked)
    assert torch.equal(draws[asked], again[asked])
    reordered = law().select([5, 0, 7]).mean()
    torch.testing.assert_close(reordered, whole[:, [5, 0, 7]])


def test_a_wrong_span_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    # The twin: one known token does not screen off a chain of order 2.
    target = MarkovChain(tables(2), tokens=20)
    x = target.sample(ROWS, CounterRandomness(0))
    known, asked = shown(0.5, 20)
    asked = asked & ~known
    messages = UnknownMessages(target._table, 2)
    monkeypatch.setattr(spans, "PAYS", float("inf"))
    right = Spans(x, known, 2, messages.laws).laws(asked)
    wrong = Spans(x, known, 1, messages.laws).laws(asked)
    assert right is not None
    assert wrong is not None
    assert float((right - wrong).abs().max()) > 0.01


def test_long_spans_are_left_to_the_recursion() -> None:
    target = MarkovChain(tables(2), tokens=12)
    messages = UnknownMessages(target._table, 2)
    x = target.sample(ROWS, CounterRandomness(0))
    nothing = torch.zeros(ROWS, 12, dtype=torch.bool)
    assert Spans(x, nothing, 2, messages.laws).laws(~nothing) is None
    most = ~nothing
    most[:15, 6] = False  # a quarter of the rows, from token 4 to token 8
    assert Spans(x, most, 2, messages.laws).laws(~most) is not None
    assert Spans(x, most, 2, messages.laws).laws(most) is None  # known tokens have no spans


def test_narrow_tables_and_high_orders_are_left_to_the_recursion() -> None:
    assert not UnknownMessages.serves(0.01, 2, 20, torch.float64)
    assert UnknownMessages.serves(0.01, 2, 40, torch.float64)
    assert not UnknownMessages.serves(0.01, 8, 4, torch.float64)
    assert MarkovChain(tables(2), tokens=TOKENS)._messages is None


def test_rare_transitions_are_left_to_logarithms() -> None:
    assert not UnknownMessages.serves(1e-80, 2, 40, torch.float64)
    assert UnknownMessages.serves(1e-70, 2, 40, torch.float64)
    assert not UnknownMessages.serves(1e-70, 2, 40, torch.float32)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("share", [0.2, 0.8])
def test_laws_ahead_of_known_tokens_equal_those_of_the_enumerated_law(
    order: int, causal: bool, share: float
) -> None:
    laws = tables(order)
    target = MarkovChain(laws, tokens=TOKENS)
    x = target.sample(ROWS, CounterRandomness(0))
    known, asked = shown(share)
    known[::2, :4], known[::2, 4:] = True, False  # a prefix of every other row
    some, found = Ahead(laws[-1]).laws(x, known, asked, causal=causal)
    assert bool(some[::2, 4:].equal(asked[::2, 4:]))
    expected = enumerated(laws, x, known, some, causal=causal)
    torch.testing.assert_close(found, expected, atol=1e-13, rtol=0)
    # The twin: the law two tokens ahead is not that of the next one.
    far = some & (torch.arange(TOKENS) == 5)
    far[1::2] = False
    wrong = laws[-1][tuple(x[:, 4 - order : 4].T)][far.any(1)]
    right = enumerated(laws, x, known, far, causal=causal)
    assert float((wrong - right).abs().max()) > 0.01


def test_laws_of_a_chain_join_those_ahead_and_those_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    laws = tables(2)
    target = MarkovChain(laws, tokens=TOKENS)
    x = target.sample(ROWS, CounterRandomness(0))
    known, asked = shown(0.4)
    for causal in (False, True):
        law = target.marginals(x, (~known).double(), causal=causal)
        expected = enumerated(laws, x, known, asked, causal=causal)
        if not causal:
            certain = torch.nn.functional.one_hot(x, SYMBOLS).double()
            expected = torch.where(known[asked][:, None], certain[asked], expected)
        torch.testing.assert_close(law.probabilities_where(asked), expected)
    wide = Ahead(torch.full((40, 40, 40), 1 / 40, dtype=torch.float64))
    monkeypatch.setattr(ahead, "MULTIPLIED", 1.0)
    short = Ahead(torch.full((40, 40, 40), 1 / 40, dtype=torch.float64))
    assert (wide._most, short._most) == (HELD // 40**3, 1)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize("own", [False, True])
def test_values_of_one_token_have_the_joint_log_probability(order: int, own: bool) -> None:
    laws = tables(order, own=own)
    target = MarkovChain(laws, tokens=TOKENS)
    x = target.sample(ROWS, CounterRandomness(0))
    for token in range(TOKENS):
        found = target.log_prob_of_values(x, token)
        assert found is not None
        for value in range(SYMBOLS):
            changed = x.clone()
            changed[:, token] = value
            plainly = torch.zeros(ROWS, dtype=torch.float64)
            for i in range(TOKENS):
                table = laws[min(i, len(laws) - 1)]
                past = table.dim() - 1
                plainly += table[tuple(changed[:, i - past : i + 1].T)].log()
            torch.testing.assert_close(found[:, value], plainly)
            torch.testing.assert_close(target.log_prob(changed), plainly)


def test_a_copy_arranges_its_own_tables() -> None:
    target = MarkovChain(tables(2), tokens=TOKENS)
    x = target.sample(ROWS, CounterRandomness(0))
    known, asked = shown(0.4)
    law = target.marginals(x, (~known).double()).probabilities_where(asked)
    assert target._messages is not None
    assert target._messages._arranged
    again = pickle.loads(pickle.dumps(target))
    assert again._messages._arranged == {}
    found = again.marginals(x, (~known).double()).probabilities_where(asked)
    torch.testing.assert_close(found, law, atol=0, rtol=0)
