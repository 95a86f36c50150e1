"""The exact law that a cell carries, against linear algebra and enumeration by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from capcheck import check, save
from capcheck.core.budget import Budget
from capcheck.runs.store import Store
from capcheck.targets import from_spec, from_table

AR1 = 0.9 ** np.abs(np.subtract.outer(np.arange(3), np.arange(3)))


def test_a_cell_of_a_gaussian_target_has_mean_and_covariance() -> None:
    found = check("gpt", from_spec("gaussian:ar1,tokens=3,rho=0.9"), samples=200, lengths=[0, 3])
    nothing, everything = (found.cell(Budget(length=n, steps=1)).law for n in (0, 3))
    assert nothing is not None
    assert everything is not None
    assert nothing.weights == everything.weights == (1.0,)
    np.testing.assert_allclose(nothing.covariances[0], np.eye(3), atol=1e-12)  # marginals alone
    np.testing.assert_allclose(everything.covariances[0], AR1, atol=1e-12)
    np.testing.assert_allclose(everything.means[0], 0, atol=1e-12)
    assert not everything.probabilities


def test_a_random_order_has_one_component_for_each_law() -> None:
    target = from_spec("gaussian:ar1,tokens=3,rho=0.9")
    found = check("maskgit", target, options={"rounds": 2}, samples=200, lengths=[3], steps=[1])
    law = found.cells[0].law
    assert law is not None
    assert sum(law.weights) == pytest.approx(1)
    assert len(law.weights) == len(law.covariances) == len(law.means) > 1
    # Two rounds commit 0 -> 1 -> 3 tokens of three: the last two are independent given the first.
    for covariance in law.covariances:
        C = np.array(covariance)
        assert any(
            abs(C[a, b] - C[a, i] * C[i, b]) < 1e-12
            for i, a, b in ((0, 1, 2), (1, 0, 2), (2, 0, 1))
        )


def test_a_cell_of_a_small_table_has_every_probability(tmp_path: object) -> None:
    import torch

    joint = np.array([[0.1, 0.2], [0.3, 0.4]])
    found = check("gpt", from_table(torch.tensor(joint)), samples=200, lengths=[0, 2], steps=[1])
    nothing, everything = (cell.law for cell in found.cells)
    assert nothing is not None
    assert everything is not None
    np.testing.assert_allclose(everything.probabilities, joint.flatten(), atol=1e-12)
    product = np.outer(joint.sum(1), joint.sum(0)).flatten()
    np.testing.assert_allclose(nothing.probabilities, product, atol=1e-12)
    assert not everything.weights
    again = Store.open(save(found.survey, str(tmp_path))).result().families[0]
    assert again.cells[1].law == everything
    data = json.loads(json.dumps(found.to_dict()))
    assert data["cells"][1]["law"]["probabilities"] == pytest.approx(list(joint.flatten()))


def test_where_the_law_is_not_known_there_is_none() -> None:
    found = check("gpt", from_spec("modes:tokens=2"), samples=200, lengths=[2], steps=[1])
    assert found.cells[0].law is None
