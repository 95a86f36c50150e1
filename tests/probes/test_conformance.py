"""What every registered family must do, on more than one target."""

from __future__ import annotations

import math

import pytest
import torch

from capcheck import Outcome, check
from capcheck.budget import Budget
from capcheck.randomness import CounterRandomness
from capcheck.registry import build_probe, families, probe_class
from capcheck.signatures import Calls, counted
from capcheck.targets import ProductMixture, from_spec
from capcheck.trace import Recorder

TARGETS = {
    "modes": from_spec("modes:tokens=4,modes=3,gap=3"),
    "one token": from_spec("gaussian:tokens=1,std=2"),
    "vectors": ProductMixture(
        torch.tensor([[[0.0, 1.0], [2.0, -1.0]], [[1.0, 1.0], [-2.0, 0.5]]], dtype=torch.float64),
        torch.tensor([[0.5, 1.0], [0.7, 0.4]], dtype=torch.float64),
    ),
}
FAMILIES = families()


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_well_formed_and_budgets_kept(family: str, target: ProductMixture) -> None:
    probe, spec = build_probe(family), target.spec
    for length in {0, spec.tokens // 2, spec.tokens}:
        for steps in (1, 7):
            calls, recorder = Calls(), Recorder(family)
            network = counted(probe.signature.oracle(target), probe.signature, calls)
            budget = Budget(length=length, steps=steps)
            states = list(probe.run(network, spec, budget, 5, CounterRandomness(0)))
            for state in states:
                recorder.record(state)  # catches moves without writes
                assert state.tokens.shape == (5, spec.tokens, spec.dim)
                assert state.placed.shape == state.written.shape == (5, spec.tokens)
                assert bool(state.tokens.isfinite().all())
            if probe.row == "length":
                assert states[-1].placed.sum(1).tolist() == [length] * 5
            else:
                assert bool(states[-1].placed.all())
            assert calls.tokens == calls.sequential * 5 * spec.tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_runs_are_deterministic_and_rows_independent_of_the_batch(family: str) -> None:
    probe, target = build_probe(family), TARGETS["modes"]
    network = probe.signature.oracle(target)

    def final(n: int, first: int, seed: int = 0) -> torch.Tensor:
        rng = CounterRandomness(seed, first_row=first)
        *_, last = probe.run(network, target.spec, Budget(length=4, steps=3), n, rng)
        return last.tokens

    whole = final(20, 0)
    assert torch.equal(final(20, 0), whole)
    assert (final(8, 12) - whole[12:]).abs().max() < 1e-12
    assert not torch.equal(final(20, 0, seed=1), whole)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_broken_oracle_is_caught(family: str) -> None:
    target = TARGETS["modes"]
    wrong = build_probe(family).signature.oracle(from_spec("modes:tokens=4,modes=2,gap=3"))
    found = check(family, target, network=wrong, lengths=[4], steps=[16], samples=1000)
    assert found.outcome is Outcome.NOT_REPRESENTABLE


@pytest.mark.parametrize("family", FAMILIES)
def test_extreme_budgets_give_numbers(family: str) -> None:
    found = check(family, TARGETS["one token"], lengths=[0, 1], steps=[1, 64], samples=200)
    for cell in found.cells:
        for estimate in cell.estimates.values():
            assert estimate.value is None or not math.isnan(estimate.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_card_states_what_a_reader_needs(family: str) -> None:
    import sys

    card = sys.modules[probe_class(family).__module__].__doc__ or ""
    for word in ("Source:", "Signature:", "Assumption:", "Budgets:", "Known:"):
        assert word in card
