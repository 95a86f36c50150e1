"""The evidence that a cell gathers, and the work that no question needs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from capcheck import check
from capcheck.core.randomness import Randomness
from capcheck.procedures.procedure import Procedure
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
