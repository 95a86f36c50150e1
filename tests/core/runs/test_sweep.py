"""The evidence that a cell gathers, and the work that no question needs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from capcheck import InputError, check, survey
from capcheck.core import memory
from capcheck.core.randomness import Randomness
from capcheck.probes.steps.diffusion import Diffusion
from capcheck.procedures.procedure import Procedure
from capcheck.runs import room
from capcheck.runs.densities import DENSITY_BATCH
from capcheck.targets import ProductMixture


@pytest.fixture(scope="module")
def eight(digits: ProductMixture) -> ProductMixture:
    """Every twentieth digit: eight numbers, and quick to denoise."""
    return ProductMixture(digits.means[::20], digits.scales)


def test_the_limit_is_made_only_where_kl_leaves_a_question(
    eight: ProductMixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Eight tokens are transported as well; the flow to the limit costs more than a run.
    limits = []
    made = Procedure.limit

    def counted(self: Procedure[Any], n: int, rng: Randomness) -> torch.Tensor | None:
        limits.append(n)
        return made(self, n, rng)

    monkeypatch.setattr(Procedure, "limit", counted)
    how: dict[str, Any] = {"lengths": [8], "samples": 400}
    (refused,) = check("diffusion", eight, steps=[2], **how).cells
    assert refused.reason.startswith("kl is ")
    assert limits == []
    one = check("diffusion", eight, steps=[2, 64], **how).cells
    assert limits == [400]
    assert "share their random numbers" not in one[0].estimates["wasserstein"].method
    assert "share their random numbers" in one[1].estimates["wasserstein"].method
    assert one[0].estimates == refused.estimates
    check("diffusion", eight, steps=[2], divergences=["wasserstein"], **how)
    assert len(limits) > 1


def test_cells_that_kl_refuses_take_fewer_draws_and_keep_their_kl_and_transport(
    eight: ProductMixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []
    run = Procedure.run

    def counted(self: Procedure[Any], budget: Any, n: int, *rest: Any, **named: Any) -> Any:
        ran.append(n)
        return run(self, budget, n, *rest, **named)

    monkeypatch.setattr(Procedure, "run", counted)
    how: dict[str, Any] = {"lengths": [8], "samples": 2400}
    refused, open_ = check("diffusion", eight, steps=[1, 64], **how).cells
    whole = [1024, 1024, 352]
    # W2 of 8 numbers cannot be resolved by 2,400 draws: two sets of 500 rows are transported.
    assert ran[:4] == [*whole, 1000]  # the largest budget is measured first
    assert refused.samples == open_.samples == 2400
    for cell in (refused, open_):
        assert cell.estimates["wasserstein"].samples == 500
    assert refused.estimates["mmd"].samples == 1000
    assert open_.estimates["mmd"].samples == 2400
    ran.clear()
    (alone,) = check("diffusion", eight, steps=[1], divergences=["mmd"], **how).cells
    assert ran[:3] == whole  # without KL nothing is known before the draws
    assert alone.estimates["mmd"].samples == 2400
    few, many = (one.estimates["mmd"] for one in (refused, alone))
    assert few.low is not None
    assert few.high is not None
    assert many.value is not None
    assert few.low < many.value < few.high


def test_a_run_that_does_not_fit_is_made_in_parts_with_the_same_numbers(
    eight: ProductMixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    how: dict[str, Any] = {"lengths": [0, 8], "steps": [4], "samples": 400}
    whole = check("diffusion", eight, **how).cells
    ran: list[int] = []
    run = Diffusion.run

    def crowded(self: Diffusion, network: Any, spec: Any, budget: Any, start: Any, rng: Any) -> Any:
        ran.append(len(start.tokens))
        if len(start.tokens) > 150:
            torch.empty(2**56, dtype=torch.uint8)
        yield from run(self, network, spec, budget, start, rng)

    monkeypatch.setattr(Diffusion, "run", crowded)
    parts = check("diffusion", eight, **how).cells
    assert ran[:6] == [400, 200, 100, 100, 100, 100]
    for one, other in zip(whole, parts, strict=True):
        for name, estimate in one.estimates.items():
            ends = (estimate.value, estimate.low, estimate.high)
            again = other.estimates[name]
            # A product of matrices rounds by its number of rows, on some processors.
            assert (again.value, again.low, again.high) == pytest.approx(ends, rel=1e-9, abs=1e-12)
            assert (again.kind, again.samples) == (estimate.kind, estimate.samples)
        assert (one.model_calls, one.traces) == (other.model_calls, other.traces)


def test_a_row_that_does_not_fit_is_one_sentence(
    eight: ProductMixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crowded(*_: Any, **__: Any) -> Any:
        np.empty(2**56)

    monkeypatch.setattr(Diffusion, "run", crowded)
    how: dict[str, Any] = {"lengths": [8], "steps": [4], "samples": 200}
    said = r"^diffusion takes more memory than there is \(\S+ GiB at once\).*; choose fewer tokens"
    with pytest.raises(InputError, match=said):
        check("diffusion", eight, **how)
    other, full = survey(eight, ["gpt", "diffusion"], network="none", **how).families
    assert other.outcome.value == "representable"
    assert not full.supported
    assert full.reason.startswith("diffusion takes more memory")


def test_draws_that_do_not_fit_are_refused_before_they_are_made(
    eight: ProductMixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 1e6)
    monkeypatch.setattr(room, "available_memory", lambda: 1e6)
    with pytest.raises(InputError, match=r"a run of 2,000 samples takes .* at most --samples 1302"):
        check("diffusion", eight)


def test_rows_that_share_their_chains_have_them_made_once(
    eight: ProductMixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []
    density = Procedure.log_density

    def counted(self: Procedure[Any], budget: Any, x: torch.Tensor, rng: Randomness) -> Any:
        rows.append(len(x))
        return density(self, budget, x, rng)

    monkeypatch.setattr(Procedure, "log_density", counted)
    how: dict[str, Any] = {"lengths": [0], "steps": [1], "samples": 1500, "divergences": ["kl"]}
    check("ebm", eight, **how)
    assert rows[0] == 1500  # a suspect follows
    rows.clear()
    check("diffusion", eight, **how)
    assert max(rows) == DENSITY_BATCH < 1500


def test_budgets_at_which_a_procedure_does_the_same_are_measured_once(
    eight: ProductMixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []
    run = Procedure.run

    def counted(self: Procedure[Any], budget: Any, n: int, *rest: Any, **named: Any) -> Any:
        ran.append(budget.steps)
        return run(self, budget, n, *rest, **named)

    monkeypatch.setattr(Procedure, "run", counted)
    how: dict[str, Any] = {"lengths": [8], "steps": [1, 2, 16], "samples": 200}
    result = check("blockwise", eight, **how)  # blocks of four tokens take two rounds at most
    assert len(set(ran)) == 2
    one, two, many = result.cells
    assert two.estimates == many.estimates
    assert two.model_calls == many.model_calls
    assert one.model_calls < two.model_calls
