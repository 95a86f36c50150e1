"""A fit is a function of its arguments: killed and resumed, cached, diverging, or out of time."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from capcheck.core.budget import Budget
from capcheck.core.errors import InputError
from capcheck.fitting import Fitted, build, fit
from capcheck.fitting.objectives import Objective
from capcheck.fitting.plan import CHECKS
from capcheck.fitting.polish import CALL, WIDE, affordable
from capcheck.probes.neither.vae import VAE
from capcheck.probes.steps.diffusion import Diffusion
from capcheck.targets import Target, from_spec

BUDGETS = [Budget(length=0, steps=2)]


class KilledError(Exception):
    pass


def kill_at(step: int) -> Any:
    def progress(at: int, of: int, validation: float) -> None:
        if at >= step:
            raise KilledError

    return progress


def two_modes() -> Target:
    return from_spec("modes:tokens=2,modes=2,gap=3")


def fitted(*, width: int = 8, folder: Path | None = None, **more: Any) -> Fitted:
    target = two_modes()
    module = build(Diffusion().signature, target.spec, f"mlp:width={width},depth=1")
    more = {"steps": 40, "batch": 64, "learning_rate": 1e-2, **more}
    return fit(Diffusion(), target, module, budgets=BUDGETS, folder=folder, **more)


def weights(fit: Fitted) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = fit.network.module.state_dict()
    return found


def same(a: Fitted, b: Fitted) -> bool:
    return all(torch.equal(x, weights(b)[name]) for name, x in weights(a).items())


@pytest.mark.parametrize("width", [8, 128])  # polished, and too large for it
def test_a_killed_fit_ends_in_the_weights_of_an_undisturbed_one(tmp_path: Path, width: int) -> None:
    whole = fitted(width=width)
    for step in (11, 30):
        with pytest.raises(KilledError):
            fitted(width=width, folder=tmp_path, progress=kill_at(step))
    heard: list[int] = []
    resumed = fitted(
        width=width, folder=tmp_path, progress=lambda at, of, validation: heard.append(at)
    )
    assert min(heard) > 28  # it went on from a checkpoint
    assert same(whole, resumed)
    assert (whole.validation, whole.steps) == (resumed.validation, resumed.steps)
    assert not same(whole, fitted(width=width, seed=1))


def test_a_module_that_draws_is_resumed_as_well(tmp_path: Path) -> None:
    def run(**more: Any) -> Fitted:
        target = two_modes()
        inner = build(Diffusion().signature, target.spec, "mlp:width=8,depth=1")
        inner.trunk.map.first.append(nn.Dropout(0.2))  # type: ignore[union-attr, operator]
        return fit(Diffusion(), target, inner, budgets=BUDGETS, steps=20, batch=64, **more)

    whole = run()
    with pytest.raises(KilledError):
        run(folder=tmp_path, progress=kill_at(7))
    torch.rand(3)  # the global state is another one
    assert same(whole, run(folder=tmp_path))


def test_the_global_seed_is_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    fitted(steps=2)
    assert torch.equal(torch.rand(2), expected)


def test_a_finished_fit_is_not_made_again(tmp_path: Path) -> None:
    first = fitted(folder=tmp_path)

    def never(at: int, of: int, validation: float) -> None:
        raise AssertionError("a step was made")

    again = fitted(folder=tmp_path, progress=never)
    assert same(first, again)
    assert again.reason == first.reason
    with pytest.raises(AssertionError, match="a step was made"):
        fitted(folder=tmp_path, progress=never, learning_rate=2e-2)


def test_a_diverging_fit_is_reported_as_such() -> None:
    wild = fitted(learning_rate=1e3)
    assert wild.diverged
    assert "rose" in wild.reason or "became" in wild.reason
    assert wild.validation <= wild.start  # the best weights met are returned
    assert not fitted().diverged


def test_a_loss_that_breaks_is_reported_with_its_step() -> None:
    class Breaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.ones(1))
            self.calls = 0

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            self.calls += self.training
            answer: torch.Tensor = x * self.a * (1.0 if self.calls <= 7 else float("nan"))
            return answer

    broken = fit(Diffusion(), two_modes(), Breaks(), budgets=BUDGETS, steps=50, batch=64)
    assert broken.diverged
    assert "nan at step 7" in broken.reason


def test_the_time_is_kept() -> None:
    target = two_modes()
    module = build(Diffusion().signature, target.spec, "mlp:width=16,depth=1")
    timed = fit(Diffusion(), target, module, budgets=BUDGETS, seconds=1.0, batch=64)
    assert timed.validation < timed.start
    assert timed.steps >= 20


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    fitted(folder=tmp_path, steps=2)
    (file,) = tmp_path.iterdir()
    file.write_bytes(pickle.dumps({"weights": 1}))
    with pytest.raises(InputError, match="delete that file"):
        fitted(folder=tmp_path, steps=2)


def test_an_empty_checkpoint_is_refused(tmp_path: Path) -> None:
    fitted(folder=tmp_path, steps=2)
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"")
    with pytest.raises(InputError, match="delete that file"):
        fitted(folder=tmp_path, steps=2)


@pytest.mark.parametrize("damage", ["facts", "weights", "moments", "missing", "number", "fact"])
def test_a_checkpoint_that_was_tampered_with_is_refused(tmp_path: Path, damage: str) -> None:
    fitted(folder=tmp_path, steps=2)
    (file,) = tmp_path.iterdir()
    with safe_open(file, framework="pt") as held:
        metadata = held.metadata()
        tensors = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118
    first = next(name for name in tensors if name.startswith("weights."))
    if damage == "facts":
        metadata["facts"] = json.dumps(json.loads(metadata["facts"]) | {"best": "low"})
    elif damage == "fact":  # a fact of the right type
        metadata["facts"] = json.dumps(json.loads(metadata["facts"]) | {"best": 0.0})
    elif damage == "number":
        tensors[first] = tensors[first] + 1
    elif damage == "weights":
        tensors[first] = torch.zeros(7)
    elif damage == "moments":
        tensors["adam.99.exp_avg"] = torch.zeros(1)
    else:
        del tensors[first]
    save_file(tensors, file, metadata=metadata)
    with pytest.raises(InputError, match="delete that file"):
        fitted(folder=tmp_path, steps=2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch": 1}, "batch must be a whole number of at least 2"),
        ({"steps": 0}, "steps must be a whole number"),
        ({"learning_rate": 0.0}, "learning_rate must be finite and above 0"),
        ({"steps": None, "seconds": float("nan")}, "seconds must be finite"),
        ({"seconds": 1.0}, "steps and seconds exclude each other"),
        ({"budgets": []}, "budgets must hold at least one"),
        ({"objective": "end_to_end", "budgets": BUDGETS * 2}, "budgets must be one"),
    ],
)
def test_wrong_arguments_are_named(wrong: dict[str, Any], message: str) -> None:
    target = two_modes()
    module = build(Diffusion().signature, target.spec, "mlp:width=4,depth=1")
    with pytest.raises(InputError, match=message):
        fit(Diffusion(), target, module, **{"budgets": BUDGETS, "steps": 2, **wrong})


def test_a_decoder_without_encoder_is_refused() -> None:
    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.ones(1))

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return self.a * z

    with pytest.raises(InputError, match="encode"):
        fit(VAE(), two_modes(), Alone(), budgets=BUDGETS, steps=2)


def test_a_fit_that_never_gets_better_proves_nothing() -> None:
    still = fitted(steps=2, learning_rate=1e-30)
    assert still.too_short
    assert not still.diverged
    assert still.reason == "no step made it better"


def test_a_fit_that_had_time_for_the_fewest_steps_proves_nothing() -> None:
    hurried = fitted(steps=None, seconds=1e-9)
    assert hurried.too_short
    assert hurried.steps <= CHECKS
    assert hurried.reason.startswith("only the fewest steps were made")


class Counted(nn.Module):
    """A denoiser that counts the rows that it is shown, by precision."""

    rows: ClassVar[dict[torch.dtype, int]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(2))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and self.a.requires_grad:
            self.rows[x.dtype] = self.rows.get(x.dtype, 0) + len(x)
        return self.a[0] * x * (1 - t)[..., None] + self.a[1] * x


@pytest.mark.parametrize(("steps", "batch"), [(40, 64), (300, 512), (800, 64)])
def test_the_polish_costs_no_more_than_the_steps(steps: int, batch: int) -> None:
    Counted.rows.clear()
    fit(Diffusion(), two_modes(), Counted(), budgets=BUDGETS, steps=steps, batch=batch)
    polish = affordable(Counting(), parameters=2, steps=steps, batch=batch)
    assert polish is not None
    spent = Counted.rows[torch.float64] * WIDE
    assert 0 < spent <= steps * (batch + CALL)
    assert Counted.rows[torch.float64] <= polish.rows * polish.evaluations
    assert polish.evaluations * (WIDE * polish.rows + CALL) <= steps * (batch + CALL)


def test_too_few_steps_leave_nothing_for_a_polish() -> None:
    Counted.rows.clear()
    fit(Diffusion(), two_modes(), Counted(), budgets=BUDGETS, steps=3, batch=64)
    assert torch.float64 not in Counted.rows


class Counting(Objective):
    """Of the facts that a polish is planned from."""

    exact, large = True, 1 << 12

    def draw(self, n: int, rng: Any, *, floor: bool = True) -> Any:
        raise NotImplementedError

    def loss(self, module: nn.Module, batch: Any, rng: Any) -> Any:
        raise NotImplementedError
