"""Schedulers of token ids of diffusers against closed forms, and planted mistakes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from capcheck import check_sampler
from capcheck.core.budget import Budget
from capcheck.core.errors import InputError, UnfitError
from capcheck.core.unavailable import Unavailable
from capcheck.procedures.procedure import Procedure
from capcheck.samplers import from_diffusers_tokens
from capcheck.samplers.from_diffusers import DiffusersSampler
from capcheck.samplers.from_diffusers_tokens import TOKEN_SCHEDULERS, Run, TokenScheduler
from capcheck.targets import Target, from_spec, from_table
from capcheck.targets.categorical.sequence_law import SequenceLaw

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

Model = Callable[..., SimpleNamespace]
ROWS = 40_000
JOINT = ((0.4, 0.1), (0.2, 0.3))
CAREFUL = {"temperature": 1.0, "threshold": 2.0, "editing_threshold": None}


def law(scheduler: str, target: Target, steps: int, **config: Any) -> Tensor:
    """The exact law of the sequences, (V^N,)."""
    procedure = Procedure.of(TokenScheduler(scheduler, config).probe(), target)
    found = procedure.exact_law(Budget(length=0, steps=steps))
    assert not isinstance(found, Unavailable), found.reason
    assert isinstance(found, SequenceLaw)
    return found.probabilities


def table(*p: Any) -> tuple[Target, Tensor]:
    joint = torch.tensor(p, dtype=torch.float64)
    return from_table(joint), joint.flatten()


def unequal(*of: tuple[float, ...]) -> Model:
    """The exact model of independent tokens that are known or masked."""
    log_p = torch.tensor(of, dtype=torch.float64).log()  # (N, V)

    def model(x: Tensor, *_: Any) -> SimpleNamespace:
        known = torch.nn.functional.one_hot(x, log_p.shape[1] + 1)[..., :-1].double().log()
        unknown = (x == log_p.shape[1])[..., None]
        logits = torch.where(unknown, log_p, known)
        return SimpleNamespace(logits=torch.cat([logits, logits[..., :1] - torch.inf], -1))

    return model


def noisy(p: tuple[float, ...]) -> Model:
    """The exact posterior of independent tokens of one law that are kept, and else uniform."""
    prior, V = torch.tensor(p, dtype=torch.float64), len(p)

    def model(x: Tensor, keep: Tensor) -> SimpleNamespace:
        seen = torch.nn.functional.one_hot(x, V).double()
        likelihood = keep[..., None] * seen + (1 - keep[..., None]) / V
        posterior = prior * likelihood
        return SimpleNamespace(logits=(posterior / posterior.sum(-1, keepdim=True)).log())

    return model


def drawn(
    scheduler: str,
    model: Model,
    V: int,
    tokens: int,
    steps: int,
    *,
    rows: int = ROWS,
    **config: Any,
) -> Tensor:
    """Sequences (rows, N) that start from masks."""
    masks = torch.full((rows, tokens), V)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TokenScheduler(scheduler, config)(model, masks, steps)


def near(x: Tensor, p: float) -> bool:
    """Whether a share of draws agrees with p, within five deviations."""
    return abs(float(x.double().mean()) - p) < 5 * math.sqrt(p * (1 - p) / x.numel()) + 1e-9


@pytest.mark.parametrize(
    ("scheduler", "config"),
    [
        ("AmusedScheduler", {}),
        ("BlockRefinementScheduler", {"temperature": 1.0}),
        ("DiscreteDDIMScheduler", {"temperature": 1.0}),
    ],
)
def test_one_step_draws_from_the_marginals(scheduler: str, config: dict[str, Any]) -> None:
    target, _ = table(*JOINT)
    # Marginals (0.5, 0.5) and (0.6, 0.4).
    expected = torch.tensor([0.3, 0.2, 0.3, 0.2], dtype=torch.float64)
    torch.testing.assert_close(law(scheduler, target, 1, **config), expected)


def test_one_token_at_a_time_draws_parity_exactly() -> None:
    found = law("BlockRefinementScheduler", from_spec("parity:4"), 4, **CAREFUL)
    even = [sum(bits) % 2 == 0 for bits in itertools.product((0, 1), repeat=4)]
    expected = torch.tensor(even).double() / 8
    torch.testing.assert_close(found, expected)


def test_blocks_are_drawn_one_after_the_other() -> None:
    # One token a block is left to right, which is exact; both at once is not.
    target, joint = table(*JOINT)
    name = "BlockRefinementScheduler"
    found = law(name, target, 1, **CAREFUL, block_length=1)
    torch.testing.assert_close(found, joint)
    assert float((law(name, target, 1, **CAREFUL) - joint).abs().max()) > 0.09
    three, _ = table(*[[[1 / 8] * 2] * 2] * 2)
    with pytest.raises(Exception, match="block_length must divide the number 3"):
        law(name, three, 1, **CAREFUL, block_length=2)


def test_the_order_by_the_probability_of_drawn_values_has_a_closed_form_bias() -> None:
    # Tokens (0.9, 0.1) and (0.6, 0.4): a drawn 0 of the first is likelier than any value of the
    # second and is kept; a drawn 1 is the least likely and is drawn again: 0.9 + 0.1 * 0.9.
    model = unequal((0.9, 0.1), (0.6, 0.4))
    for name, config in (
        ("AmusedScheduler", {"temperature": (0, 0)}),
        ("BlockRefinementScheduler", CAREFUL),
    ):
        x = drawn(name, model, 2, 2, 2, rows=4000, **config)
        assert near(x[:, 0] == 0, 0.99), name
        assert near(x[:, 1] == 0, 0.9 * 0.6 + 0.1 * 0.6), name
    # With much noise in its order, each token is drawn once, from its own law.
    x = drawn("AmusedScheduler", model, 2, 2, 2, temperature=(1e6, 1e6))
    assert near(x[:, 0] == 0, 0.9)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_discrete_ddim_is_exact_on_one_token(steps: int) -> None:
    target, p = table(0.6, 0.3, 0.1)
    found = law("DiscreteDDIMScheduler", target, steps, temperature=1.0)
    torch.testing.assert_close(found, p, atol=1e-6, rtol=0)  # it rounds to single precision


def test_a_level_that_is_off_by_one_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Run.noisy_log_p
    target, p = table(0.6, 0.3, 0.1)
    monkeypatch.setattr(Run, "noisy_log_p", lambda run, x, keep: told(run, x, keep + 0.5))
    found = law("DiscreteDDIMScheduler", target, 2, temperature=1.0)
    assert float((found - p).abs().max()) > 0.02


def test_the_default_temperature_of_discrete_ddim_draws_one_sequence() -> None:
    target, _ = table(0.6, 0.3, 0.1)
    found = law("DiscreteDDIMScheduler", target, 1)
    torch.testing.assert_close(found, torch.tensor([1.0, 0, 0]).double())


def test_without_a_bound_and_temperatures_entropy_order_is_exact() -> None:
    target, joint = table(*JOINT)
    config = {"t_min": 1.0, "t_max": 1.0, "entropy_bound": 0.0}
    found = law("EntropyBoundScheduler", target, 2, **config)
    torch.testing.assert_close(found, joint, atol=1e-6, rtol=0)


def test_the_last_temperature_of_entropy_bound_is_above_t_min() -> None:
    # Its annealing ends at t_min + (t_max - t_min) / n, here 0.4 + 0.4 / 2 = 0.6 after 0.8; the
    # only token is accepted in the first step, with p^(1 / 0.8), and kept.
    target, p = table(0.6, 0.3, 0.1)
    for steps, temperature in ((1, 0.8), (2, 0.8)):
        sharp = p ** (1 / temperature)
        found = law("EntropyBoundScheduler", target, steps)
        torch.testing.assert_close(found, sharp / sharp.sum(), atol=1e-6, rtol=0)
    scheduler = diffusers.EntropyBoundScheduler()
    scheduler.set_timesteps(2)
    logits = torch.zeros(1, 1, 2) + torch.tensor([1.0, 0.0])
    out = scheduler.step(logits, scheduler.timesteps[-1], torch.zeros(1, 1).long())
    assert float(out.pred_logits.max()) == pytest.approx(1 / 0.6)


def test_vq_diffusion_is_exact_on_one_token_with_much_uniform_noise() -> None:
    p = (0.6, 0.3, 0.1)
    # Half of all unmasked tokens are uniform in the middle of 10 levels.
    config: dict[str, Any] = {"num_train_timesteps": 10, "gamma_cum_end": 0.5}
    x = drawn("VQDiffusionScheduler", noisy(p), 3, 1, 10, **config)
    assert all(near(x == value, share) for value, share in enumerate(p))


def test_vq_diffusion_tells_the_share_of_kept_tokens() -> None:
    shown: list[tuple[Tensor, Tensor]] = []
    exact = noisy((0.6, 0.3, 0.1))

    def model(x: Tensor, keep: Tensor) -> SimpleNamespace:
        shown.append((x, keep))
        return exact(x, keep)

    config: dict[str, Any] = {"num_train_timesteps": 10, "gamma_cum_end": 0.5}
    drawn("VQDiffusionScheduler", model, 3, 1, 10, **config)
    assert bool((shown[0][1] == 0).all())
    for t, (_, keep) in zip(range(9, -1, -1), shown, strict=True):
        alpha = 0.99999 + t / 9 * (0.000009 - 0.99999)
        gamma = 0.000009 + t / 9 * (0.5 - 0.000009)
        kept = keep[keep > 0]
        torch.testing.assert_close(
            kept, torch.full_like(kept, alpha / (1 - gamma)), atol=1e-6, rtol=0
        )


def test_a_share_of_kept_tokens_without_the_masks_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    p = (0.6, 0.3, 0.1)
    told = Run.noisy_log_p
    monkeypatch.setattr(Run, "noisy_log_p", lambda run, x, keep: told(run, x, keep / 2))
    config: dict[str, Any] = {"num_train_timesteps": 10, "gamma_cum_end": 0.5}
    x = drawn("VQDiffusionScheduler", noisy(p), 3, 1, 10, **config)
    assert not near(x == 0, 0.6)


def test_known_tokens_keep_their_values() -> None:
    start = torch.tensor([[2, 3, 0, 3]]).repeat(50, 1)
    models = {name: unequal(*[(0.5, 0.3, 0.2)] * 4) for name in TOKEN_SCHEDULERS}
    models |= dict.fromkeys(from_diffusers_tokens.NOISY, noisy((0.5, 0.3, 0.2)))
    for name, model in models.items():
        found = TokenScheduler(name, {})(model, start.clone(), 3)
        assert bool((found[:, [0, 2]] == torch.tensor([2, 0])).all()), name
        assert bool((found < 3).all()), name


def test_every_scheduler_is_checked_by_its_name() -> None:
    for name in TOKEN_SCHEDULERS:
        found = check_sampler(f"diffusers:{name}", lint_only=True)
        assert found.silent, found.findings
        assert set(found.versions) == {"capcheck", "torch", "diffusers"}
        with pytest.raises(UnfitError, match="a predictor of token ids"):
            DiffusersSampler(name, {})
    found = check_sampler(
        "diffusers:BlockRefinementScheduler", config=CAREFUL, steps=[4], samples=200
    )
    outcomes = {cell.target: cell.outcome for cell in found.cells if cell.exact}
    assert (outcomes["parity"], outcomes["independent"]) == ("representable", "not_representable")


def test_wrong_settings_are_refused() -> None:
    for setting in ("mask_token_id", "temperatur"):
        with pytest.raises(InputError, match=f"AmusedScheduler has no setting '{setting}'"):
            check_sampler("diffusers:AmusedScheduler", config={setting: 1})
