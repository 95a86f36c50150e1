"""The evidence that a cell gathers, and the work that no question needs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from capcheck import check
from capcheck.core.randomness import Randomness
from capcheck.procedures.procedure import Procedure
from capcheck.targets import ProductMixture


def test_the_limit_is_made_only_where_kl_leaves_a_question(
    digits: ProductMixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Eight tokens are transported as well; the flow to the limit costs more than a run.
    limits = []
    made = Procedure.limit

    def counted(self: Procedure[Any], n: int, rng: Randomness) -> torch.Tensor | None:
        limits.append(n)
        return made(self, n, rng)

    monkeypatch.setattr(Procedure, "limit", counted)
    how: dict[str, Any] = {"lengths": [8], "samples": 400}
    (refused,) = check("diffusion", digits, steps=[2], **how).cells
    assert refused.reason.startswith("kl is ")
    assert limits == []
    one = check("diffusion", digits, steps=[2, 64], **how).cells
    assert limits == [400]
    assert "share their random numbers" not in one[0].estimates["wasserstein"].method
    assert "share their random numbers" in one[1].estimates["wasserstein"].method
    assert one[0].estimates == refused.estimates
    check("diffusion", digits, steps=[2], divergences=["wasserstein"], **how)
    assert len(limits) > 1
