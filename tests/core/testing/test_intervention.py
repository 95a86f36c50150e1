"""Probes that lie about their loops, and honest ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest
from pydantic.dataclasses import dataclass

from capcheck.core.budget import Budget
from capcheck.core.errors import ProbeError
from capcheck.core.randomness import CounterRandomness, Randomness
from capcheck.core.sequences import SequenceSpec
from capcheck.networks.signatures import TokenPredictor
from capcheck.probes.length.gpt import GPT
from capcheck.procedures.probe import OPTIONS, State
from capcheck.procedures.procedure import Procedure
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
        self,
        network: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        start: State,
        rng: Randomness,
    ) -> Iterator[State]:
        for state in super().run(network, spec, budget, start, rng):
            written = state.placed if bool(state.written.any()) else state.written
            yield State(tokens=state.tokens, placed=state.placed, written=written)


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Hider(GPT):
    """Moves the first token when it writes the last, and does not say so."""

    family: ClassVar[str] = "hider"

    def run(
        self,
        network: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        start: State,
        rng: Randomness,
    ) -> Iterator[State]:
        for state in super().run(network, spec, budget, start, rng):
            tokens = state.tokens.clone()
            tokens[:, 0] += tokens[:, -1]
            yield State(tokens=tokens, placed=state.placed, written=state.written)


def examine(probe: GPT) -> None:
    require_honest(Procedure.of(probe, TARGET), Budget(length=4, steps=2))


def test_an_honest_probe_passes() -> None:
    examine(GPT())


def test_a_probe_that_pretends_to_sweep_is_caught_by_the_intervention_alone() -> None:
    with pytest.raises(ProbeError, match="says that it wrote token 0 again"):
        examine(Sweeper())
    procedure, rng = Procedure.of(Sweeper(), TARGET), CounterRandomness(0)
    recorder = Recorder("sweeper", procedure.start(6, rng))
    for state in procedure.run(Budget(length=4, steps=1), 6, rng):
        recorder.record(state)  # no value moves without a write, so that this cannot notice
    assert recorder.writes.traces().highest == "sweep"


def test_a_hidden_move_is_caught_twice() -> None:
    with pytest.raises(ProbeError, match="moved tokens that it does not report"):
        examine(Hider())
    procedure, rng = Procedure.of(Hider(), TARGET), CounterRandomness(0)
    recorder = Recorder("hider", procedure.start(6, rng))
    states = list(procedure.run(Budget(length=4, steps=1), 6, rng))
    for state in states[:-1]:
        recorder.record(state)
    with pytest.raises(ProbeError, match="moved tokens"):
        recorder.record(states[-1])


def test_every_budget_of_a_real_sweep_responds() -> None:
    procedure = Procedure.of(build_probe("diffusion"), TARGET)
    require_honest(procedure, Budget(length=4, steps=3))
