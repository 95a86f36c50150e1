"""What every registered family must do, on more than one target."""

from __future__ import annotations

import functools
import math
import sys

import pytest
import torch

from capcheck import Outcome, check
from capcheck.core.budget import Budget
from capcheck.core.errors import InputError
from capcheck.core.randomness import CounterRandomness
from capcheck.networks.signatures import Calls, counted
from capcheck.procedures.coordinates import Chart, chart_of
from capcheck.procedures.given import Given
from capcheck.procedures.probe import AnyProbe, State
from capcheck.procedures.registry import build_probe, families, probe_class
from capcheck.procedures.trace import Recorder
from capcheck.targets import ProductMixture, from_spec, from_table
from capcheck.targets.target import Target
from capcheck.testing.intervention import require_honest

TARGETS: dict[str, Target] = {
    "modes": from_spec("modes:tokens=4,modes=3,gap=3"),
    "one token": from_spec("gaussian:tokens=1,std=2"),
    "correlated": from_spec("gaussian:ar1,tokens=4,rho=0.8"),
    "vectors": ProductMixture(
        torch.tensor([[[0.0, 1.0], [2.0, -1.0]], [[1.0, 1.0], [-2.0, 0.5]]], dtype=torch.float64),
        torch.tensor([[0.5, 1.0], [0.7, 0.4]], dtype=torch.float64),
    ),
    "table": from_table(
        torch.tensor([0.3, 0.1, 0.05, 0.2, 0.02, 0.13, 0.15, 0.05], dtype=torch.float64).reshape(
            2, 2, 2
        )
    ),
    "classes": from_spec("copy:tokens=4,symbols=3"),
    "one id": from_table(torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)),
}
FAMILIES = families()
CASES = [
    pytest.param(family, name, id=f"{family}-{name}")
    for family in FAMILIES
    for name, target in TARGETS.items()
    if target.spec.kind in probe_class(family).kinds
]
"""Every family on every target whose tokens it takes."""


@functools.cache
def placed(family: str, name: str) -> tuple[AnyProbe, Chart]:
    """A probe with its defaults and what it runs on; skips where the family has no oracle."""
    probe = build_probe(family)
    try:
        chart = chart_of(probe, TARGETS[name])
        probe.signature.oracle(chart.target)
    except InputError as refusal:
        pytest.skip(f"no oracle: {refusal}")
    return probe, chart


def main_target(family: str) -> str:
    """A target of several tokens that the family takes."""
    return "modes" if "continuous" in probe_class(family).kinds else "table"


@pytest.mark.parametrize(("family", "name"), CASES)
def test_states_are_well_formed_and_budgets_kept(family: str, name: str) -> None:
    probe, chart = placed(family, name)
    target, spec = chart.target, chart.target.spec
    for length in {0, spec.tokens // 2, spec.tokens}:
        for steps in (1, 7):
            calls, recorder = Calls(), Recorder(family)
            network = counted(probe.signature.oracle(target), probe.signature, calls)
            budget = Budget(length=length, steps=steps)
            states = list(probe.run(network, spec, budget, 5, CounterRandomness(0)))
            for state in states:
                recorder.record(state)  # catches moves without writes
                assert state.tokens.shape == (5, spec.tokens, *spec.token_shape)
                assert state.placed.shape == state.written.shape == (5, spec.tokens)
                assert bool(state.tokens.isfinite().all())
                if spec.kind == "categorical":
                    assert bool(((state.tokens >= 0) & (state.tokens < spec.dim)).all())
            assert all(bool(state.written.any()) for state in states[1:])
            final = states[-1].placed.sum(1)
            if probe.row in ("neither", "steps"):
                assert final.tolist() == [spec.tokens] * 5
            else:
                assert bool((final <= length).all())
                if length == spec.tokens:
                    assert final.tolist() == [length] * 5
            assert calls.sequential > 0 or length == 0
            assert recorder.traces(len(states) - 1).highest


@pytest.mark.parametrize(("family", "name"), CASES)
def test_runs_are_deterministic_and_rows_independent_of_the_batch(family: str, name: str) -> None:
    probe, chart = placed(family, name)
    network, spec = probe.signature.oracle(chart.target), chart.target.spec

    def final(n: int, first: int, seed: int = 0) -> torch.Tensor:
        rng = CounterRandomness(seed, first_row=first)
        *_, last = probe.run(network, spec, Budget(length=spec.tokens, steps=3), n, rng)
        return last.tokens

    whole = final(20, 0)
    assert torch.equal(final(20, 0), whole)
    assert (final(8, 12) - whole[12:]).abs().max() < 1e-9
    assert not torch.equal(final(20, 0, seed=1), whole)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_snapshots_along_an_anytime_axis_are_the_smaller_runs(family: str, name: str) -> None:
    probe, chart = placed(family, name)
    network, spec = probe.signature.oracle(chart.target), chart.target.spec

    def states(length: int, steps: int) -> list[State]:
        budget = Budget(length=length, steps=steps)
        return list(probe.run(network, spec, budget, 6, CounterRandomness(3)))

    largest = states(spec.tokens, 5)
    if "steps" in probe.anytime:
        assert torch.equal(states(spec.tokens, 2)[-1].tokens, largest[:3][-1].tokens)
    if "length" in probe.anytime:
        half = spec.tokens // 2
        held = [state for state in largest if int(state.placed[0].sum()) <= half][-1]
        small = states(half, 5)[-1]
        assert torch.equal(small.placed, held.placed)
        assert torch.equal(small.tokens[small.placed], held.tokens[held.placed])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_probe_writes_what_it_says(family: str) -> None:
    probe, chart = placed(family, main_target(family))
    spec = chart.target.spec
    budget = Budget(length=spec.tokens, steps=2)
    require_honest(probe, probe.signature.oracle(chart.target), spec, budget)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_broken_oracle_is_caught(family: str) -> None:
    name = main_target(family)
    probe = build_probe(family)
    other = (
        from_spec("modes:tokens=4,modes=2,gap=3")
        if name == "modes"
        else from_table(torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8]).double().reshape(2, 2, 2) / 36)
    )
    chart = chart_of(probe, other)
    tokens = TARGETS[name].spec.tokens
    wrong = probe.signature.oracle(chart.target)
    found = check(family, TARGETS[name], network=wrong, lengths=[tokens], steps=[16], samples=1000)
    assert found.outcome is Outcome.NOT_REPRESENTABLE


@pytest.mark.parametrize("family", FAMILIES)
def test_extreme_budgets_give_numbers(family: str) -> None:
    name = "one token" if "continuous" in probe_class(family).kinds else "one id"
    placed(family, name)
    found = check(family, TARGETS[name], lengths=[0, 1], steps=[1, 64], samples=200)
    for cell in found.cells:
        for estimate in cell.estimates.values():
            assert estimate.value is None or not math.isnan(estimate.value)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_given_tokens_are_kept_and_the_rest_is_filled_in(family: str, name: str) -> None:
    if (target := TARGETS[name]).spec.tokens == 1:
        pytest.skip("one token leaves nothing to give")
    probe = Given(inner=build_probe(family), target=target, given=(0,))
    whole = target.sample(7, CounterRandomness(0).stream("given"))
    budget = Budget(length=target.spec.tokens - 1, steps=3)
    network = probe.signature.oracle(target)
    try:
        states = list(probe.run(network, target.spec, budget, 7, CounterRandomness(0)))
    except InputError as refusal:
        pytest.skip(f"no oracle: {refusal}")
    for state in states:
        assert torch.equal(state.tokens[:, 0], whole[:, 0])
        assert bool(state.placed[:, 0].all())
        assert not bool(state.written[:, 0].any())
    assert bool(states[-1].placed.all())


@pytest.mark.parametrize("family", FAMILIES)
def test_suspects_are_other_procedures_for_the_same_tokens(family: str) -> None:
    probe = build_probe(family)
    for suspect in probe.suspects():
        assert suspect.probe != probe
        assert suspect.probe.kinds & probe.kinds
        assert suspect.cure.rstrip(".") == suspect.cure != ""


@pytest.mark.parametrize("family", FAMILIES)
def test_a_card_states_what_a_reader_needs(family: str) -> None:
    card = sys.modules[probe_class(family).__module__].__doc__ or ""
    for word in ("Source:", "Signature:", "Assumption:", "Budgets:", "Known:"):
        assert word in card
