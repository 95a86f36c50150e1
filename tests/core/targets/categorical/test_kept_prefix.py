"""What a chain keeps of a prefix changes no answer, and saves the recursion."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from capcheck.core.randomness import CounterRandomness
from capcheck.targets import from_spec
from capcheck.targets.categorical.chain import Chain


def fresh(target: Chain) -> Chain:
    """The same law without anything kept."""
    found: Chain = pickle.loads(pickle.dumps(target))
    return found


@pytest.mark.parametrize("spec", ["brackets:12", "parity:9", "ising:3,3"])
def test_laws_are_those_of_a_target_that_keeps_nothing(spec: str) -> None:
    target = from_spec(spec)
    assert isinstance(target, Chain)
    N, x = target.spec.tokens, target.sample(30, CounterRandomness(1))
    generator = torch.Generator().manual_seed(0)
    x = x.clone()
    for call in range(60):
        i = min(call % (N + 2), N - 1)
        known = (torch.arange(N) < i).expand(30, N).clone()
        if call % 7 == 3:  # another row, another prefix, or a token known that was not
            x[5, 0] = 1 - x[5, 0]
        if call % 5 == 4:
            known[torch.randint(30, (1,), generator=generator), : N // 2] = False
        rows = slice(0, 30 if call % 11 else 12)
        causal = call % 2 == 0
        levels = (~known[rows]).double()
        found, expected = (
            one.marginals(x[rows], levels, causal=causal).select([i]).mean()
            for one in (target, fresh(target))
        )
        assert torch.equal(found, expected)


def test_a_growing_prefix_takes_one_step_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    target = from_spec("brackets:40")
    steps = 0
    advance = type(target)._advance  # type: ignore[attr-defined]

    def counted(self: Chain, message: torch.Tensor, i: int) -> torch.Tensor:
        nonlocal steps
        steps += 1
        found: torch.Tensor = advance(self, message, i)
        return found

    monkeypatch.setattr(type(target), "_advance", counted)
    x = target.sample(8, CounterRandomness(2))
    steps = 0
    for i in range(40):
        levels = (torch.arange(40) >= i).double().expand(8, 40)
        target.marginals(x, levels).select([i]).mean()
    assert steps == 39


def test_copies_keep_nothing() -> None:
    target = from_spec("brackets:12")
    size = len(pickle.dumps(target))
    x = target.sample(30, CounterRandomness(1))
    target.marginals(x, torch.ones(30, 12).double()).select([6]).mean()
    assert len(pickle.dumps(target)) <= size + 200
    assert len(pickle.dumps(copy.copy(target))) <= size + 200
