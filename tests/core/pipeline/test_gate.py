"""`capcheck.gate` decides as closed forms do, says what it used, and measures once."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import capcheck
from capcheck import CapacityError, CapacityWarning, GateResult, InputError, Outcome
from capcheck.pipeline import gate as module
from capcheck.runs.options import Progress

RHO, N = 0.9, 4
AR1 = torch.tensor([[RHO ** abs(i - j) for j in range(N)] for i in range(N)], dtype=torch.float64)
TOTAL_CORRELATION = -0.5 * (N - 1) * math.log(1 - RHO**2)  # of an AR(1) process, in nats


def target() -> Any:
    return capcheck.targets.GaussianMixture(torch.zeros(1, N, 1, dtype=torch.float64), AR1[None])


def rows(n: int = 2000, seed: int = 0) -> Tensor:
    normal = torch.randn(n, N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    drawn: Tensor = normal @ torch.linalg.cholesky(AR1).T
    return drawn


def passes(data: Any, **keywords: Any) -> GateResult:
    usual: dict[str, Any] = {"keep": False, "law": "gaussian"}
    return capcheck.gate(data, **usual | keywords)


def fails(data: Any, **keywords: Any) -> CapacityError:
    with pytest.raises(CapacityError) as caught:
        passes(data, **keywords)
    return caught.value


def test_a_budget_that_suffices_passes() -> None:
    found = capcheck.gate(target(), family="gpt", budget=1, keep=False)
    assert found
    assert found.outcome is Outcome.REPRESENTABLE
    assert found.budget == capcheck.Budget(length=N, steps=1)
    assert str(found).startswith("gpt can produce")


def test_a_budget_that_does_not_fails_by_the_closed_form() -> None:
    one_round = {"rounds": 1, "order": "fixed"}  # all tokens at once: their dependence is lost
    with pytest.raises(CapacityError) as caught:
        capcheck.gate(target(), family="maskgit", options=one_round, budget=1, keep=False)
    assert caught.value.exit_code == 1
    assert caught.value.result is not None
    [cell] = caught.value.result.cells
    assert cell.estimates["kl"].value == pytest.approx(TOTAL_CORRELATION, rel=1e-9)
    assert f"kl is {TOTAL_CORRELATION:.3g} nats" in str(caught.value)
    assert "wrong factorisation" in str(caught.value)


def test_steps_that_suffice_are_named() -> None:
    error = fails(rows(), family="diffusion", budget=4)
    assert "steps 64" in str(error)
    assert passes(rows(), family="diffusion", budget=64)


def test_a_budget_has_defaults_for_what_it_does_not_name() -> None:
    assert passes(rows(), family="gpt", budget={"length": N}).budget == capcheck.Budget(
        length=N, steps=1
    )
    assert passes(rows(), family="gpt").budget is None


def test_a_gate_without_a_budget_asks_for_all_tokens() -> None:
    # Tokens that are independent, of two modes each: with no token placed, all are completed by
    # their exact laws, but few steps of diffusion do not draw a token with two modes.
    modes = [[[3.0 * i], [3.0 * j]] for i in (-1, 1) for j in (-1, 1)]
    scales = torch.full((4, 2, 1), 0.3, dtype=torch.float64)
    law = capcheck.targets.DiagonalMixture(torch.tensor(modes, dtype=torch.float64), scales)
    found = capcheck.check("mar", law, lengths=[0, 2], steps=[1, 4, 16])
    assert found.cells[0].outcome is Outcome.REPRESENTABLE
    assert found.cells[-1].outcome is Outcome.NOT_REPRESENTABLE
    with pytest.raises(CapacityError, match="cannot produce"):
        capcheck.gate(law, family="mar", keep=False)


def test_the_law_behind_rows_is_told() -> None:
    found = passes(TensorDataset(rows()), family="gpt", budget=1, rows=500)
    told = "; ".join(found.law)
    assert "500 of 2,000 rows" in told
    assert "Gaussian with full covariance" in told
    assert "held-out log-likelihood of your rows" in told


def test_a_warning_in_place_of_an_error() -> None:
    with pytest.warns(CapacityWarning, match="diffusion cannot produce"):
        found = passes(rows(), family="diffusion", budget=1, on_fail="warn")
    assert not found
    assert found.divergence is not None
    assert found.times is not None
    assert found.times > 1


def test_a_time_that_is_over_is_no_verdict() -> None:
    error = fails(rows(), family="diffusion", budget=16, seconds=1e-9)
    assert error.exit_code == 3
    assert error.result is None
    assert "seconds=" in str(error)


def test_an_open_verdict_passes_only_if_the_caller_says_so(tmp_path: Path) -> None:
    run: dict[str, Any] = {"family": "diffusion", "budget": 16, "seconds": 1e-9, "keep": tmp_path}
    found = passes(rows(), **run, inconclusive="pass")
    assert found
    assert found.outcome is Outcome.INCONCLUSIVE
    assert list(tmp_path.iterdir()) == []  # another start may have more time
    assert fails(rows(), **run).exit_code == 3


def test_the_next_start_measures_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Progress] = []
    keep: dict[str, Any] = {"family": "gpt", "budget": 1, "keep": tmp_path, "progress": told.append}
    loader = DataLoader(TensorDataset(rows()), batch_size=8)
    first = passes(loader, **keep)
    assert told
    assert not first.kept
    monkeypatch.setattr(module, "measure", None)
    second = passes(loader, **keep)
    assert second == first.model_copy(update={"kept": True})
    assert second.check is not None
    assert second.check.outcome is Outcome.REPRESENTABLE


@pytest.mark.parametrize("changed", ["rows", "budget", "level", "options", "total"])
def test_other_content_is_measured_anew(changed: str, tmp_path: Path) -> None:
    usual: dict[str, Any] = {"family": "gpt", "budget": 1, "keep": tmp_path}
    passes(TensorDataset(rows(400)), **usual)
    other: dict[str, dict[str, Any]] = {
        "budget": {"budget": 2},
        "level": {"level": 0.9},
        "options": {"options": {"window": N}},
    }
    data = {"rows": rows(400, seed=1), "total": rows(399)}.get(changed, rows(400))
    assert not passes(TensorDataset(data), **usual | other.get(changed, {})).kept


def test_a_cache_that_is_damaged_or_closed_is_none(tmp_path: Path) -> None:
    usual: dict[str, Any] = {"family": "gpt", "budget": 1, "keep": tmp_path / "kept"}
    passes(rows(400), **usual)
    [file] = (tmp_path / "kept").iterdir()
    file.write_text("{")
    assert not passes(rows(400), **usual).kept
    assert passes(rows(400), **usual).kept
    closed = tmp_path / "closed"
    closed.write_text("a file, where a folder should be")
    assert passes(rows(400), **usual | {"keep": closed / "kept"})


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"family": "difusion"}, "did you mean 'diffusion'"),
        ({"on_fail": "stop"}, "on_fail 'stop' is unknown; known are raise, warn"),
        ({"inconclusive": "skip"}, "inconclusive 'skip' is unknown"),
        ({"seconds": 0}, "seconds must be a number of seconds above 0"),
        ({"budget": {"step": 1}}, "did you mean 'steps'"),
        ({"budget": 0}, "budget must be a whole number of at least 1"),
        ({"budget": {"length": 9}}, "at most 4"),
        ({"rows": 1}, "rows must be a whole number of at least 3"),
        ({"options": {"windo": 1}}, "did you mean 'window'"),
        ({"tokens": 3}, "tokens"),
        ({"law": "gausian"}, "did you mean 'gaussian'"),
    ],
)
def test_a_wrong_argument_is_one_sentence(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        passes(rows(50), **{"family": "gpt", "budget": 1} | wrong)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_target_takes_no_layout() -> None:
    with pytest.raises(InputError, match="got a target"):
        capcheck.gate(target(), family="gpt", tokens=4, keep=False)


def test_no_warning_is_given_where_nothing_fails() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        passes(rows(), family="gpt", budget=1, on_fail="warn")
