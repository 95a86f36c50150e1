"""The solver of flow_matching by its protocol, with a stand-in where the package is missing."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from capcheck import check_sampler
from capcheck.core.errors import InputError
from capcheck.samplers.from_flow_matching import FlowMatchingSolver

THERE = importlib.util.find_spec("flow_matching") is not None


class Solver:
    """Euler and midpoint steps by the protocol that the package documents."""

    def __init__(self, velocity_model: Callable[..., Tensor]) -> None:
        self.velocity_model = velocity_model

    def sample(
        self, x_init: Tensor, step_size: float, method: str = "euler", **model_extras: Any
    ) -> Tensor:
        x, count = x_init, round(1 / step_size)
        for j in range(count):
            t = torch.tensor(j * step_size, dtype=x.dtype)
            v = self.velocity_model(x=x, t=t)
            if method == "midpoint":
                half = t + step_size / 2
                v = self.velocity_model(x=x + v * step_size / 2, t=half)
            x = x + step_size * v
        return x


@pytest.fixture(autouse=True)
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    if not THERE:
        library, solver = ModuleType("flow_matching"), ModuleType("flow_matching.solver")
        solver.ODESolver = Solver  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "flow_matching", library)
        monkeypatch.setitem(sys.modules, "flow_matching.solver", solver)
        monkeypatch.setattr("importlib.metadata.version", lambda name: "0")


@pytest.mark.parametrize("method", ["euler", "midpoint"])
def test_the_solver_lands_at_a_single_point(method: str) -> None:
    found = check_sampler(
        "flow_matching:ODESolver", config={"method": method}, steps=[50], lint_only=True
    )
    assert not [one for one in found.findings if one.kind != "ignores_generator"]
    assert set(found.versions) == {"capcheck", "torch", "flow_matching"}


def test_one_euler_step_returns_the_mean_of_the_data() -> None:
    solver = FlowMatchingSolver("ODESolver", {})
    noise = torch.randn(5, 2, 1, dtype=torch.float64)
    found = solver.run(lambda x, t, s=0.0: 0.3 + 0 * x, noise, 1, torch.Generator())
    torch.testing.assert_close(found, torch.full_like(noise, 0.3))


def test_other_solvers_and_settings_are_refused() -> None:
    with pytest.raises(InputError, match="no solver 'Other'"):
        check_sampler("flow_matching:Other")
    with pytest.raises(InputError, match=r"no setting 'order'; use .*method"):
        check_sampler("flow_matching:ODESolver", config={"order": 2})


@pytest.mark.skipif(THERE, reason="flow_matching is installed")
def test_a_missing_package_gets_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("flow_matching", "flow_matching.solver"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match="pip install flow_matching"):
        check_sampler("flow_matching:ODESolver")
