"""Traps of the schedulers of token ids of diffusers, by its code and a closed form alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

ROWS = 40_000


def share_of(seen: Tensor) -> float:
    return float(seen.double().mean())


def test_amused_takes_all_tokens_at_once_where_they_tie() -> None:
    scheduler = diffusers.AmusedScheduler(mask_token_id=2)
    scheduler.set_timesteps(4, temperature=(0, 0))
    masks, even = torch.full((64, 4), 2), torch.zeros(64, 4, 2)  # such as the bits of a parity
    how = {"generator": torch.Generator().manual_seed(0)}
    out = scheduler.step(even, scheduler.timesteps[0], masks, **how).prev_sample
    planned = math.floor(4 * math.cos(math.pi / 8))  # 3 masks are left by its schedule
    assert planned == 3
    assert int((out == 2).sum()) == 0
    scheduler.set_timesteps(4, temperature=(1, 0))
    out = scheduler.step(even, scheduler.timesteps[0], masks, **how).prev_sample
    assert bool(((out == 2).sum(1) == 3).all())


@pytest.mark.parametrize(
    ("selection", "kept"), [("random", True), ("lowest_log_margin", False),
                            ("lowest_current_prob", False)]
)  # fmt: skip
def test_correctors_that_choose_by_value_change_the_law(selection: str, kept: bool) -> None:
    scheduler = diffusers.DiscreteDDIMScheduler(corrector_steps=1, corrector_selection=selection)
    scheduler.set_timesteps(2)
    generator = torch.Generator().manual_seed(0)
    p, V, alpha = torch.tensor([0.95, 0.05]), 2, 0.5  # two independent tokens at the level 1/2
    q = alpha * p + (1 - alpha) / V  # (0.725, 0.275)
    x = torch.multinomial(q, 2 * ROWS, True, generator=generator).reshape(ROWS, 2)
    posterior = p * (alpha * torch.eye(V) + (1 - alpha) / V)[x]
    out = scheduler.step_correct(posterior.log().double(), 0, x, generator=generator).prev_sample
    assert share_of(x == 0) == pytest.approx(0.725, abs=0.01)
    # By margin, a token of value v is chosen beside one of value w with a weight of 1 / odds(v);
    # by its probability, with 1 / q(v). The chosen one is drawn from q again.
    power = {"random": 0, "lowest_current_prob": 1, "lowest_log_margin": 2}[selection]
    rare = q[0] ** power / (q[0] ** power + q[1] ** power)  # the 1 of a pair (0, 1) is chosen
    share = q[0] ** 2 * (1 + q[0]) / 2 + q[1] ** 2 * q[0] / 2
    share += 2 * q[0] * q[1] * (rare * (1 + q[0]) / 2 + (1 - rare) * q[0] / 2)
    assert share_of(out == 0) == pytest.approx(float(share), abs=0.01)
    assert (abs(float(share) - 0.725) < 1e-6) == kept


def test_entropy_bound_returns_random_tokens_at_its_last_step() -> None:
    scheduler, generator = diffusers.EntropyBoundScheduler(), torch.Generator().manual_seed(0)
    scheduler.set_timesteps(1)
    logits = torch.tensor([0.9, 0.1, 0.0]).log().expand(ROWS, 2, 3)  # the third is impossible
    x = torch.zeros(ROWS, 2).long()
    out = scheduler.step(logits, 0, x, generator=generator).prev_sample
    # The second token is not accepted, and stays uniform.
    assert share_of((out == 2).any(1)) == pytest.approx(1 / 3, abs=0.01)


def test_block_refinement_is_greedy_where_draws_are_asked_for() -> None:
    scheduler = diffusers.BlockRefinementScheduler()
    scheduler.set_timesteps(1, block_length=1)
    logits = torch.tensor([0.6, 0.4, 0.0]).log().expand(1000, 1, 3)
    how: dict[str, Any] = {"mask_token_id": 2, "sampling_method": "multinomial"}
    out = scheduler.step(logits, 0, torch.full((1000, 1), 2), **how).prev_sample
    assert out.unique().tolist() == [0]  # the default temperature of 0 has the last word


def test_block_refinement_ignores_the_least_number_of_tokens() -> None:
    scheduler = diffusers.BlockRefinementScheduler(minimal_topk=4)
    scheduler.set_timesteps(8, block_length=8)
    masks, logits = torch.full((1, 8), 2), torch.zeros(1, 8, 3)
    out = scheduler.step(logits, 0, masks, mask_token_id=2, minimal_topk=4, threshold=2.0)
    assert int(out.transfer_index.sum()) == 1


def test_an_editing_threshold_of_0_edits_beside_uniform_noise() -> None:
    # "`None`, `0.0`, or negative disables editing" holds beside masks only.
    scheduler = diffusers.BlockRefinementScheduler(editing_threshold=0.0, threshold=0.0)
    scheduler.set_timesteps(2, block_length=4)
    x, edited = torch.zeros(1, 4).long(), []
    for step, best in enumerate((1, 2)):
        logits = torch.nn.functional.one_hot(torch.full((1, 4), best), 3).float()
        out = scheduler.step(logits, step, x)
        x = out.prev_sample
        edited.append(int(out.editing_transfer_index.sum()))
    assert edited == [0, 4]
    assert x.tolist() == [[2] * 4]


def test_few_steps_of_vq_diffusion_start_near_the_data() -> None:
    scheduler = diffusers.VQDiffusionScheduler(num_vec_classes=4)
    scheduler.set_timesteps(10)
    first = int(scheduler.timesteps[0])
    masked = float(scheduler.log_cumprod_ct[first].exp())
    assert first == 9  # of 99, and the first input is masked everywhere
    assert masked == pytest.approx(9 / 99, abs=1e-4)
    scheduler.set_timesteps(2)  # the first of two steps takes all masks but 0.09 percent
    left = scheduler.log_cumprod_ct[0].exp() / scheduler.log_cumprod_ct[1].exp()
    assert float(left) == pytest.approx(0.00089, abs=1e-5)
