"""The conformance suite over every registered family, and families that must not pass it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
import torch
from pydantic.dataclasses import dataclass

from capcheck import Outcome, ProbeError, check
from capcheck.core.budget import Axis, Budget
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.networks.signatures import TokenPredictor, TokenPredictorSignature
from capcheck.procedures.groups import Group, Groupwise
from capcheck.procedures.probe import OPTIONS, Probe, State
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe, families, probe_class
from capcheck.procedures.rows import Row
from capcheck.targets import from_spec, from_table
from capcheck.testing import check_family
from capcheck.testing.cases import TARGETS, Case, cases_of
from capcheck.testing.checks import CHECKS, check_declaration

FAMILIES = families()
CASES = [
    pytest.param(check, case, id=f"{check.__name__}-{case}".replace(" ", "_"))
    for family in FAMILIES
    for case in cases_of(build_probe(family))
    for check in CHECKS
]


@pytest.mark.parametrize(("conforms", "case"), CASES)
def test_every_family_conforms(conforms: Callable[[Case], None], case: Case) -> None:
    conforms(case)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_declares_what_there_is(family: str) -> None:
    check_declaration(build_probe(family))
    assert any(case.network == "oracle" for case in cases_of(build_probe(family)))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_broken_oracle_is_caught(family: str) -> None:
    probe = build_probe(family)
    name = "modes" if "continuous" in probe.kinds else "table"
    other = (
        from_spec("modes:tokens=4,modes=2,gap=3")
        if name == "modes"
        else from_table(torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8]).double().reshape(2, 2, 2) / 36)
    )
    tokens = TARGETS[name].spec.tokens
    wrong = Procedure.of(probe, other).oracle
    found = check(family, TARGETS[name], network=wrong, lengths=[tokens], steps=[16], samples=1000)
    assert found.outcome is Outcome.NOT_REPRESENTABLE


@pytest.mark.parametrize("family", FAMILIES)
def test_extreme_budgets_give_numbers(family: str) -> None:
    name = "one token" if "continuous" in probe_class(family).kinds else "one id"
    found = check(family, TARGETS[name], lengths=[0, 1], steps=[1, 64], samples=200)
    for cell in found.cells:
        for estimate in cell.estimates.values():
            assert estimate.value is None or not math.isnan(estimate.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_card_states_what_a_reader_needs(family: str) -> None:
    card = sys.modules[probe_class(family).__module__].__doc__ or ""
    for word in ("Source:", "Signature:", "Assumption:", "Budgets:", "KL:", "Known:"):
        assert word in card


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class Plain(Groupwise):
    """One token after another; it keeps every promise."""

    family: ClassVar[str] = "plain"
    row: ClassVar[Row] = "length"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"continuous", "categorical"})
    reads: ClassVar[frozenset[Axis]] = frozenset({"length"})

    def groups(self, spec: SequenceSpec, length: int) -> list[Group]:
        return [Group(tokens=[i]) for i in spec.free[:length]]


def test_a_family_that_nobody_registered_conforms() -> None:
    check_family(Plain())


class Silent(Plain):
    """Moves a token that it does not report."""

    def run(self, *given: Any) -> Iterator[State]:
        for state in super().run(*given):
            yield State(
                tokens=state.tokens, placed=state.placed, written=torch.zeros_like(state.placed)
            )


class Overwriting(Plain):
    """Writes into the tensor of an earlier state."""

    def run(
        self,
        network: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        start: State,
        rng: Randomness,
    ) -> Iterator[State]:
        state = State(tokens=start.tokens.clone(), placed=start.placed, written=start.written)
        yield state
        for i in spec.free[: budget.length]:
            draws = network(state.tokens, state.placed).sample(rng)
            where = torch.zeros_like(state.placed)
            where[:, i] = True
            state.tokens[:, i] = draws[:, i]  # the same tensor as before
            state = State(tokens=state.tokens, placed=state.placed | where, written=where)
            yield state


class Undeclared(Plain):
    """Depends on the steps, and says that it does not."""

    def run(
        self,
        network: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        start: State,
        rng: Randomness,
    ) -> Iterator[State]:
        for _ in range(budget.steps):
            rng.uniform((start.n, 1))
        yield from super().run(network, spec, budget, start, rng)


class Boasting(Plain):
    """Says that it knows a density, which is another one's."""

    def log_density(self, *given: Any) -> Any:
        import dataclasses

        found = super().log_density(*given)
        return dataclasses.replace(found, values=found.values + 1)


class Lying(Plain):
    """Says that every sequence has log-density 0."""

    def log_density(self, *given: Any) -> Any:
        import dataclasses

        found = super().log_density(*given)
        return dataclasses.replace(found, values=0 * found.values)


class Buffered(Plain):
    """Writes in turn into two tensors, each of which an earlier state holds."""

    def run(
        self,
        network: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        start: State,
        rng: Randomness,
    ) -> Iterator[State]:
        buffers = [start.tokens.clone(), start.tokens.clone()]
        for k, state in enumerate(super().run(network, spec, budget, start, rng)):
            buffer = buffers[k % 2].copy_(state.tokens)
            yield State(tokens=buffer, placed=state.placed, written=state.written)


def test_snapshots_do_not_change_with_later_states() -> None:
    class Anytime(Buffered):
        anytime: ClassVar[frozenset[Axis]] = frozenset({"length"})

    target = TARGETS["modes"]
    shared = check(Anytime(), target, lengths=[1, 4], steps=[1], samples=200)
    alone = check(Buffered(), target, lengths=[1], steps=[1], samples=200)
    assert shared.cells[0].examples == alone.cells[0].examples


class Forgetting(Probe[TokenPredictor]):
    """Draws known tokens again from the network."""

    family = "forgetting"
    row: ClassVar[Row] = "length"
    kinds = frozenset({"categorical"})

    @property
    def signature(self) -> TokenPredictorSignature:
        return TokenPredictorSignature()

    def run(
        self,
        network: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        start: State,
        rng: Randomness,
    ) -> Iterator[State]:
        state = start
        yield state
        for i in spec.free[: budget.length]:
            draws = network(state.tokens, state.placed).sample(rng)
            where = state.placed & ~start.placed
            where[:, i] = True
            state = state.write(draws, where)
            yield state


@pytest.mark.parametrize(
    ("probe", "said"),
    [
        (Silent(), "does not report as written"),
        (Overwriting(), "in place"),
        (Undeclared(), "`reads` leaves steps out"),
        (Boasting(), "disagree|no density"),
        (Lying(), "disagree|no density"),
        (Forgetting(), "tokens that are known"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_family_that_breaks_a_promise_does_not(probe: Probe[Any], said: str) -> None:
    with pytest.raises(Exception, match=said) as caught:
        check_family(probe)
    assert isinstance(caught.value, (ProbeError, Exception))
