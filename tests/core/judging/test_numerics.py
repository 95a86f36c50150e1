"""Verdicts in fewer digits: Gumbel noise with a short tail, and procedures that do not mind."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass
from torch import Tensor

from capcheck import (
    CapacityError,
    InputError,
    Outcome,
    check,
    report,
    require,
    save,
    survey,
)
from capcheck.core.budget import Budget
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness, Randomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.core.unavailable import Unavailable
from capcheck.networks.signatures import TokenPredictor, TokenPredictorSignature
from capcheck.probes.steps.masked_diffusion import MaskedDiffusion
from capcheck.procedures import registry
from capcheck.procedures.probe import OPTIONS, Probe, State
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.rows import Row
from capcheck.runs import looks
from capcheck.runs.store import Store
from capcheck.targets import ProductMixture, from_spec, from_table
from capcheck.targets.target import Target

Array = NDArray[np.float64]
COMMON = 0.8  # chance of the common symbol; the others share the rest evenly


def rare_symbols(count: int) -> Target:
    p = torch.full((count + 1,), (1 - COMMON) / count, dtype=torch.float64)
    p[0] = COMMON
    return from_table(p)


GUMBEL = {"draw": "gumbel", "remask": False}


def share_of_the_common_symbol(count: int, steps: int) -> float:
    """What float16 Gumbel noise makes of it: by enumerating the 2^11 values of a uniform."""
    u = np.arange(2**11) / 2**11
    with np.errstate(divide="ignore"):
        gumbel = -np.log(-np.log(u.astype(np.float16).clip(np.finfo(np.float16).tiny)))
    up_to = (np.arange(2**11) + 1) / 2**11  # P(uniform <= u)
    largest = np.diff(up_to**count, prepend=0)  # of the rare ones

    def chance(of: Array, weights: Array, *others: tuple[Array, bool]) -> float:
        """That a value is above all others, of which those before it also win if equal."""
        for other, before in others:
            below = np.searchsorted(other, of, side="left" if before else "right") / 2**11
            weights = weights * below
        return float(weights.sum())

    masked, common = 1.0, 0.0
    for j in range(steps):
        c = 1 / (steps - j)
        with np.errstate(divide="ignore"):
            logits = np.log(np.array([c * COMMON, c * (1 - COMMON) / count, 1 - c]))
        value = [(gumbel + x).astype(np.float16) for x in logits.astype(np.float16)]
        even = np.full(2**11, 2.0**-11)
        no_rare_above = (np.searchsorted(value[1], value[0], side="right") / 2**11) ** count
        first = chance(value[0], even * no_rare_above, (value[2], False))
        rare = chance(value[1], largest, (value[0], True), (value[2], False))
        common += masked * first
        masked *= max(0.0, 1 - first - rare)
    return common


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_gumbel_noise_in_fewer_digits_is_blamed_on_numerics(precision: str) -> None:
    target = rare_symbols(128)
    how: dict[str, Any] = {"lengths": [1], "samples": 400, "options": GUMBEL}
    found = check("masked_diffusion", target, steps=[128], precision=["float32", precision], **how)
    fine, coarse = found.found.precisions
    assert found.outcome is Outcome.REPRESENTABLE
    assert [p.precision for p in (fine, coarse)] == ["float32", precision]
    assert fine.holding == "holds"
    assert coarse.holding == "numerics"
    assert f"length 1, steps 128 suffices in float64 and not in {precision}: " in coarse.reason
    assert found.blame == "numerics"
    assert found.exit_code == 1
    (gap,) = (gap for gap in coarse.cells[-1].gaps if gap.divergence == "wasserstein")
    part = gap.part("numerics")
    assert part is not None
    assert part.low > 0


def test_a_requirement_that_fewer_digits_break_is_refused() -> None:
    with pytest.raises(CapacityError, match="masked_diffusion breaks by its numerics"):
        require(
            "masked_diffusion", rare_symbols(128), lengths=[1], samples=400, options=GUMBEL,
            steps=[128], precision=["float16"],
        )  # fmt: skip


def test_float16_gumbel_noise_loses_what_its_grid_says() -> None:
    target = rare_symbols(128)
    procedure = Procedure.of(MaskedDiffusion(draw="gumbel", remask=False), target)
    budget, n = Budget(length=1, steps=128), 1000
    *_, last = procedure.rounded("float16").run(budget, n, CounterRandomness(0))
    expected = share_of_the_common_symbol(128, 128)
    error = math.sqrt(expected * (1 - expected) / n)
    assert float((last.tokens == 0).double().mean()) == pytest.approx(expected, abs=4 * error)
    assert expected > COMMON + 0.1


@dataclass(frozen=True, kw_only=True, config=OPTIONS)
class GumbelUnmasking(Probe[TokenPredictor]):
    """One token, masked at first, and in every step one Gumbel draw against all symbols.

    The law of `draw=gumbel` of masked diffusion: the largest of many equal Gumbels is drawn as
    one, by its own law on the same grid of uniforms, so that many steps are cheap.
    """

    family: ClassVar[str] = "gumbel_unmasking"
    row: ClassVar[Row] = "steps"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"categorical"})
    signature = TokenPredictorSignature()

    def run(
        self,
        network: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        start: State,
        rng: Randomness,
    ) -> Iterator[State]:
        """One state per step."""
        state, n = start, start.n
        yield state
        dtype = spec.mean.dtype
        grid = 2 / torch.finfo(dtype).eps
        p = network(state.tokens, state.placed).mean()[0, 0].double()
        equal = torch.tensor([1, spec.dim - 1, 1]).double()  # the common one, the others, the mask
        for j in range(budget.steps):
            chance = 1 / (budget.steps - j)
            logits = torch.stack([chance * p[0], chance * p[1], torch.tensor(1 - chance)]).log()
            u = (rng.uniform((n, 3)) ** (1 / equal) * grid).floor() / grid
            choice = (logits.to(dtype) - (-u.to(dtype).log()).log()).argmax(1)
            rare = rng.uniform((n, 1)).mul(spec.dim - 1).long().squeeze(1) + 1
            value = torch.where(choice == 1, rare, 0)[:, None]
            state = state.write(value, (choice < 2)[:, None] & ~state.placed)
            yield state

    def log_density(
        self,
        network: TokenPredictor,
        completion: TokenPredictor,
        spec: SequenceSpec,
        budget: Budget,
        x: Tensor,
        rng: Randomness,
    ) -> LogDensity | Unavailable:
        """That of the one answer that is drawn from."""
        known = torch.zeros_like(x, dtype=torch.bool)
        return LogDensity(values=network(x, known).log_prob(x).sum(1), method="one draw")


@pytest.fixture
def gumbel_unmasking(monkeypatch: pytest.MonkeyPatch) -> None:
    known = registry.probe_class
    monkeypatch.setattr(
        registry,
        "probe_class",
        lambda name: GumbelUnmasking if name == GumbelUnmasking.family else known(name),
    )


@pytest.mark.slow
@pytest.mark.usefixtures("gumbel_unmasking")
def test_float32_gumbel_noise_at_many_small_steps_is_blamed_on_numerics() -> None:
    target = rare_symbols(4096)
    steps = 4 * int((1 - COMMON) / 4096 * 2**24)  # in a quarter of them a rare one can be drawn
    found = check(
        "gumbel_unmasking",
        target,
        lengths=[1],
        steps=[steps],
        samples=300,
        divergences=["kl", "wasserstein"],
        precision=["float32"],
    )
    assert found.outcome is Outcome.REPRESENTABLE
    (single,) = found.found.precisions
    assert single.holding == "numerics"
    assert found.blame == "numerics"
    assert found.exit_code == 1
    (gap,) = (g for g in single.cells[0].gaps if g.divergence == "wasserstein")
    numerics = gap.part("numerics")
    assert numerics is not None
    assert numerics.low > 0


def test_a_procedure_that_does_not_mind_holds(three: ProductMixture) -> None:
    found = check(
        "gpt", three, samples=400, lengths=[3], steps=[1], precision=["float32", "bfloat16"]
    )
    single, coarse = found.found.precisions
    assert (single.holding, coarse.holding) == ("holds", "holds")
    moved = [one.cells[0].moved for one in (single, coarse)]
    assert all(m is not None and m.value is not None for m in moved)
    a, b = (m.value for m in moved if m is not None)
    assert a is not None
    assert b is not None
    assert 0 < a < 1e-10 < b < 1e-3  # of the squared units of tokens
    assert found.exit_code == 0
    assert found.cells[0].estimates["kl"].value == 0
    kl = single.cells[0].estimates["kl"]
    assert kl.value is None
    assert kl.method == "the law of rounded arithmetic is not known"


def test_answers_of_two_digits_spoil_a_gpt(three: ProductMixture) -> None:
    def two_digits(x: Tensor) -> Tensor:
        return (x / 2).round() * 2

    oracle = TokenPredictorSignature().oracle(three)

    def network(tokens: Tensor, known: Tensor) -> Any:
        return oracle(two_digits(tokens), known)

    coarse = check("gpt", three, network=network, samples=400, lengths=[3], steps=[1])
    assert coarse.outcome is Outcome.NOT_REPRESENTABLE
    assert coarse.blame == "network"


def test_precisions_are_added_to_a_run_and_read_again(three: ProductMixture, tmp_path: Any) -> None:
    how: dict[str, Any] = {"samples": 200, "lengths": [3], "steps": [1]}
    first = survey(three, ["gpt", "flow"], network="none", out=tmp_path, **how)
    before = (tmp_path / "cells.jsonl").read_bytes()
    added = survey(
        three, ["gpt", "flow"], network="none", out=tmp_path, precision=["bfloat16"], **how
    )
    assert (tmp_path / "cells.jsonl").read_bytes()[: len(before)] == before
    assert [f.cells for f in added.families] == [f.cells for f in first.families]
    assert all(len(f.precisions) == 1 for f in added.families)
    assert Store.open(tmp_path).result().to_dict() == added.to_dict()
    assert Store.open(save(added, tmp_path / "saved")).result().to_dict() == added.to_dict()
    assert "bfloat16" in report(added, tmp_path / "page.html").read_text()


def test_a_run_that_breaks_in_fewer_digits_loses_nothing_else(
    three: ProductMixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ValueError("no such kernel")

    monkeypatch.setattr(looks, "RoundedSweep", broken)
    found = check("gpt", three, samples=200, lengths=[3], steps=[1], precision=["float16"])
    assert found.outcome is Outcome.REPRESENTABLE
    (half,) = found.found.precisions
    assert half.holding == "undecided"
    assert half.reason == "ValueError: no such kernel"


def test_impossible_precisions_are_refused(three: ProductMixture) -> None:
    with pytest.raises(InputError, match="did you mean 'float16'"):
        check("gpt", three, precision=["float61"])
    with pytest.raises(InputError, match="fewer digits than the run, got float64"):
        check("gpt", three, precision="float64")


def test_largest_gumbel_of_many_is_what_the_probe_draws() -> None:
    u = CounterRandomness(0).uniform((20_000, 8))
    grid = 2.0**8
    of_many = (u * grid).floor().amax(1) / grid
    of_one = (CounterRandomness(1).uniform((20_000, 1))[:, 0] ** (1 / 8) * grid).floor() / grid
    assert float(of_many.mean()) == pytest.approx(float(of_one.mean()), abs=3e-3)
    assert float(of_many.std()) == pytest.approx(float(of_one.std()), abs=3e-3)
    assert -math.log(-math.log(1 - 2**-24)) == pytest.approx(24 * math.log(2), abs=1e-6)


def test_modes_survive_bfloat16() -> None:
    found = check(
        "diffusion", from_spec("modes:tokens=2,modes=2,gap=3"), samples=300, lengths=[2],
        steps=[64], precision=["bfloat16", "float8"],
    )  # fmt: skip
    half, eighth = found.found.precisions
    assert half.holding == "holds"
    moves = [p.cells[0].moved for p in (eighth, half)]
    (far, near) = (move.value for move in moves if move is not None)
    assert far is not None
    assert near is not None
    assert far > near
