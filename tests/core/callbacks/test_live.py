"""A live network is measured beside its oracle, and nothing of the training changes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from capcheck import InputError
from capcheck.callbacks import LiveCheck

N = 3
CHOL = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [0.4, 0.3, 0.8]])
COVARIANCE = CHOL @ CHOL.T


def rows(n: int = 600) -> Tensor:
    return torch.randn(n, N, generator=torch.Generator().manual_seed(0)) @ CHOL.T


class Denoiser(nn.Module):
    """The oracle of N(0, C) times a factor, and layers that would show any trace of a call."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))
        self.dropout, self.norm = nn.Dropout(0.5), nn.BatchNorm1d(N)
        self.shown: list[torch.dtype] = []

    def forward(self, x: Tensor, t: Tensor, *others: Any) -> Tensor:
        self.shown.append(x.dtype)
        assert not any(w.requires_grad for w in self.parameters())
        assert torch.equal(self.dropout(x), x)
        self.norm(x[..., 0])
        return self.factor * x


def live(**keywords: Any) -> LiveCheck:
    usual: dict[str, Any] = {
        "family": "diffusion",
        "budget": 2,
        "law": "gaussian",
        "samples": 200,
        "divergences": ["wasserstein"],
    }
    return LiveCheck(rows(), **usual | keywords)


def test_parts_sum_to_the_total_and_the_network_is_to_blame() -> None:
    found = live().measure(Denoiser(0.2))
    [gap] = found.gaps
    structural, network, total = (gap.part(name) for name in ("structural", "network", "total"))
    assert structural is not None
    assert network is not None
    assert total is not None
    assert network.low > 0  # the wrong factor is seen
    assert structural.value + network.value == pytest.approx(total.value, rel=1e-9)
    assert found.metrics["capcheck/wasserstein/network"] == network.value


def test_the_model_is_called_as_it_is() -> None:
    model = Denoiser(0.5)
    before = copy.deepcopy(model.state_dict())
    model.train()
    model.dropout.eval()  # a part of its own mode
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    live().measure(model)
    assert torch.equal(torch.rand(1), expected)
    assert [model.training, model.dropout.training, model.norm.training] == [True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert set(model.shown) == {torch.float32}
    assert all(w.grad is None and w.requires_grad for w in model.parameters())


def test_measurements_follow_the_weights_and_share_their_draws() -> None:
    check, model = live(), Denoiser(0.3)
    first = check.measure(model)
    assert check.measure(model).gaps == first.gaps
    with torch.no_grad():
        model.factor.add_(0.3)
    second = check.measure(model)
    assert (
        second.metrics["capcheck/wasserstein/structural"]
        == first.metrics["capcheck/wasserstein/structural"]
    )
    assert (
        second.metrics["capcheck/wasserstein/total"] != first.metrics["capcheck/wasserstein/total"]
    )


def test_a_network_by_a_function_of_the_model() -> None:
    outer = nn.ModuleDict({"inner": Denoiser(0.3)})
    found = live(network=lambda model: model["inner"]).measure(outer)
    assert found.gaps == live().measure(Denoiser(0.3)).gaps


def test_a_measurement_that_fails_is_a_warning() -> None:
    def broken(x: Tensor, t: Tensor) -> Tensor:
        raise RuntimeError("out of order")

    logged: list[Any] = []
    with pytest.warns(UserWarning, match="out of order"):
        assert live().report(broken, logged.append) is None
    assert logged == []


def test_numerics_have_a_part() -> None:
    found = live(precision="bfloat16").measure(Denoiser(0.3))
    assert "capcheck/wasserstein/numerics" in found.metrics


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"family": "difusion"}, "did you mean"), ({"rows": 1}, "rows"), ({"samples": 3}, "samples")],
)
def test_a_wrong_argument_is_one_sentence(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        live(**wrong).measure(Denoiser(0.3))
