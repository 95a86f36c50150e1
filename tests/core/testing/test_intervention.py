"""Probes that lie about their loops, and honest ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest
from pydantic.dataclasses import dataclass

from capcheck.core.budget import Budget
from capcheck.core.errors import CapcheckError
from capcheck.core.randomness import CounterRandomness, Randomness
from capcheck.core.sequences import SequenceSpec
from capcheck.networks.signatures import TokenPredictor
from capcheck.probes.length.gpt import GPT
from capcheck.procedures.probe import OPTIONS, State
from capcheck.procedures.registry import build_probe
from capcheck.procedures.trace import Recorder
from capcheck.targets import from_spec
from capcheck.testing.intervention import require_honest

TARGET = from_spec("modes:tokens=4,modes=3,gap=3")


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Sweeper(GPT):
    """Says that every token is written again whenever one is."""

    family: ClassVar[str] = "sweeper"

    def run(
        self, network: TokenPredictor, spec: SequenceSpec, budget: Budget, n: int, rng: Randomness
    ) -> Iterator[State]:
        for state in super().run(network, spec, budget, n, rng):
            written = state.placed if bool(state.written.any()) else state.written
            yield State(tokens=state.tokens, placed=state.placed, written=written)


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Hider(GPT):
    """Moves the first token when it writes the last, and does not say so."""

    family: ClassVar[str] = "hider"

    def run(
        self, network: TokenPredictor, spec: SequenceSpec, budget: Budget, n: int, rng: Randomness
    ) -> Iterator[State]:
        for state in super().run(network, spec, budget, n, rng):
            tokens = state.tokens.clone()
            tokens[:, 0] += tokens[:, -1]
            yield State(tokens=tokens, placed=state.placed, written=state.written)


def examine(probe: GPT) -> None:
    network = probe.signature.oracle(TARGET)
    require_honest(probe, network, TARGET.spec, Budget(length=4, steps=2))


def test_an_honest_probe_passes() -> None:
    examine(GPT())


def test_a_probe_that_pretends_to_sweep_is_caught_by_the_intervention_alone() -> None:
    with pytest.raises(CapcheckError, match="says that it wrote token 0 again"):
        examine(Sweeper())
    recorder = Recorder("sweeper")
    rng = CounterRandomness(0)
    network = GPT().signature.oracle(TARGET)
    for state in Sweeper().run(network, TARGET.spec, Budget(length=4, steps=1), 6, rng):
        recorder.record(state)  # no value moves without a write, so that this cannot notice
    assert recorder.traces(4).highest == "sweep"


def test_a_hidden_move_is_caught_twice() -> None:
    with pytest.raises(CapcheckError, match="moved tokens that it does not report"):
        examine(Hider())
    recorder = Recorder("hider")
    rng = CounterRandomness(0)
    network = GPT().signature.oracle(TARGET)
    states = list(Hider().run(network, TARGET.spec, Budget(length=4, steps=1), 6, rng))
    for state in states[:-1]:
        recorder.record(state)
    with pytest.raises(CapcheckError, match="moved tokens"):
        recorder.record(states[-1])


def test_every_budget_of_a_real_sweep_responds() -> None:
    probe = build_probe("diffusion")
    require_honest(probe, probe.signature.oracle(TARGET), TARGET.spec, Budget(length=4, steps=3))
