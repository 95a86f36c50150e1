"""Schedulers of distilled networks against closed forms, planted mistakes, and their traps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import optimize, stats
from torch import Tensor

from capcheck import check_sampler
from capcheck.core.budget import Budget
from capcheck.core.errors import UnfitError
from capcheck.core.unavailable import Unavailable
from capcheck.laws.gaussian import GaussianLaw
from capcheck.networks.signatures import FlowMapSignature
from capcheck.procedures.procedure import Procedure
from capcheck.samplers import diffusers_networks
from capcheck.samplers.findings import Finding
from capcheck.samplers.from_diffusers import DiffusersSampler
from capcheck.samplers.sampler import probe_of
from capcheck.targets import GaussianMixture

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

ZERO: dict[str, Any] = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
NO_CLIP: dict[str, Any] = {"clip_denoised": False}
EXACT: list[tuple[str, dict[str, Any]]] = [
    ("LCMScheduler", ZERO),
    ("FlowMatchLCMScheduler", {"shift": 3.0}),
    ("FlowMapEulerDiscreteScheduler", {"shift": 5.0}),
    ("SCMScheduler", {"sigma_data": 0.5}),
    ("SCMScheduler", {"sigma_data": 2.0}),
]


def gaussian() -> tuple[Tensor, Tensor]:
    """Mean (3,) and covariance (3, 3) of unequal dependent tokens."""
    mean = torch.tensor([0.5, -0.2, 0.1], dtype=torch.float64)
    factor = torch.tensor([[0.2, 0, 0], [0.1, 0.1, 0], [0.0, -0.3, 0.2]], dtype=torch.float64)
    return mean, factor @ factor.T


def law(
    scheduler: str, steps: int, moments: tuple[Tensor, Tensor] | None = None, **config: Any
) -> GaussianLaw:
    mean, cov = moments or gaussian()
    target = GaussianMixture(mean[None, :, None], cov[None])
    procedure = Procedure.of(probe_of(DiffusersSampler(scheduler, config)), target)
    found = procedure.exact_law(Budget(length=0, steps=steps))
    assert not isinstance(found, Unavailable), found.reason
    assert isinstance(found, GaussianLaw)
    return found


def one_token(mean: float, variance: float) -> tuple[Tensor, Tensor]:
    return torch.tensor([mean]).double(), torch.tensor([[variance]]).double()


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize(("scheduler", "config"), EXACT)
def test_the_exact_map_has_the_law_of_the_data_at_every_number_of_steps(
    scheduler: str, config: dict[str, Any], steps: int
) -> None:
    found = law(scheduler, steps, **config)
    mean, cov = gaussian()
    torch.testing.assert_close(found.mean, mean, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.covariance, cov, atol=1e-6, rtol=0)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_tcd_has_the_law_of_the_data_with_the_noise_of_its_timestep_0(steps: int) -> None:
    scheduler = diffusers.TCDScheduler(**ZERO)
    a = float(scheduler.alphas_cumprod[0].double())
    found, (mean, cov) = law("TCDScheduler", steps, **ZERO), gaussian()
    torch.testing.assert_close(found.mean, math.sqrt(a) * mean, atol=1e-6, rtol=0)
    expected = a * cov + (1 - a) * torch.eye(3).double()
    torch.testing.assert_close(found.covariance, expected, atol=1e-6, rtol=0)


def test_a_first_level_with_signal_shifts_the_mean_by_a_closed_form() -> None:
    # From x = e at a level where training saw a x_0 + s e, the map of N(m, v) is
    # m + r (x - a m), r = sqrt(v / (a^2 v + s^2)); a and s are those of timestep 999.
    m, v = 0.5, 0.01
    a = float(diffusers.LCMScheduler().alphas_cumprod[999].double())
    r = math.sqrt(v / (a * v + 1 - a))
    found = law("LCMScheduler", 1, one_token(m, v))
    assert float(found.mean) == pytest.approx(m * (1 - math.sqrt(a) * r), abs=1e-6)
    assert float(found.covariance) == pytest.approx(r * r, abs=1e-6)


def test_consistency_models_land_at_the_smallest_noise() -> None:
    # From x = 80 e the map of N(m, v) to noise of 0.002 is m + r (x - m),
    # r = sqrt((v + 0.002^2) / (v + 80^2)).
    m, v = 0.5, 0.01
    r = math.sqrt((v + 0.002**2) / (v + 80**2))
    found = law("CMStochasticIterativeScheduler", 1, one_token(m, v), **NO_CLIP)
    assert float(found.mean) == pytest.approx(m * (1 - r), abs=1e-8)
    assert float(found.covariance) == pytest.approx((80 * r) ** 2, abs=1e-8)
    many = law("CMStochasticIterativeScheduler", 40, one_token(m, v), **NO_CLIP)
    assert float(many.covariance) == pytest.approx(v + 0.002**2, abs=1e-8)


@pytest.mark.parametrize("scheduler", ["LCMScheduler", "TCDScheduler"])
def test_the_law_does_not_depend_on_the_prediction_type(scheduler: str) -> None:
    laws = [
        law(scheduler, 3, prediction_type=kind) for kind in ("epsilon", "sample", "v_prediction")
    ]
    for other in laws[1:]:
        torch.testing.assert_close(other.mean, laws[0].mean, atol=1e-5, rtol=0)
        torch.testing.assert_close(other.covariance, laws[0].covariance, atol=1e-5, rtol=0)


def test_one_call_on_one_token_of_two_modes_is_the_quantile_transform() -> None:
    # The flow in one dimension keeps the order: z is carried to the quantile of the same level.
    weights, means, deviation = (0.3, 0.7), (-0.5, 0.4), 0.2
    target = GaussianMixture(
        torch.tensor(means)[:, None, None].double(),
        torch.full((2, 1, 1), deviation**2).double(),
        torch.tensor(weights).double(),
    )
    oracle = FlowMapSignature("cosine").oracle(target)

    def carry(x_t: Tensor, t: float, s: float = 0.0) -> Tensor:
        return oracle(x_t, torch.full_like(x_t[..., 0], t), torch.full_like(x_t[..., 0], s))

    def excess(x: float, z: float) -> float:
        parts = zip(weights, means, strict=True)
        share = sum(w * float(stats.norm.cdf((x - m) / deviation)) for w, m in parts)
        return share - float(stats.norm.cdf(z))

    z = torch.linspace(-2, 2, 9, dtype=torch.float64)
    sampler = DiffusersSampler("SCMScheduler", {})
    found = sampler.run(carry, z[:, None, None], 1, torch.Generator())[:, 0, 0]
    expected = [float(optimize.brentq(excess, -5, 5, (one,), 1e-12)) for one in z.tolist()]
    torch.testing.assert_close(found, torch.tensor(expected).double(), atol=1e-4, rtol=0)


def test_an_answer_without_the_scalings_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lcm = {**ZERO, "timestep_scaling": 1e-3}  # c_skip is 0.2 at timestep 999
    right = law("LCMScheduler", 2, **lcm)
    monkeypatch.setattr(diffusers_networks, "_unscaled", lambda x_s, x_t, c_skip, c_out: x_s)
    wrong = law("LCMScheduler", 2, **lcm)
    mean, cov = gaussian()
    torch.testing.assert_close(right.mean, mean, atol=1e-5, rtol=0)
    assert float((wrong.covariance - cov).abs().max()) > 0.01
    told = kinds("CMStochasticIterativeScheduler", [2])
    assert set(told) & {"biased_rule", "leftover_noise"}


def test_a_level_that_is_off_by_one_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = law("TCDScheduler", 4, **ZERO)
    amplitudes = diffusers_networks._amplitudes
    monkeypatch.setattr(
        diffusers_networks,
        "_amplitudes",
        lambda scheduler, t: amplitudes(scheduler, max(t - 1, 0)),
    )
    wrong = law("TCDScheduler", 4, **ZERO)
    a = float(diffusers.TCDScheduler(**ZERO).alphas_cumprod[0].double())
    expected = a * gaussian()[1] + (1 - a) * torch.eye(3).double()
    errors = [float((of.covariance - expected).abs().max()) for of in (right, wrong)]
    assert errors[0] < 1e-6
    assert errors[1] > 30 * errors[0]


def test_a_jump_to_the_data_where_a_level_is_asked_for_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    carry: Callable[..., Tensor] = diffusers_networks._flow_map
    cov = gaussian()[1]

    def to_data(scheduler: Any, i: int, x: Tensor, jump: Any) -> Tensor:
        return carry(scheduler, i, x, lambda x_t, t, s: jump(x_t, t, (1.0, 0.0)))

    name = "FlowMapEulerDiscreteScheduler"
    monkeypatch.setitem(diffusers_networks.FLOW_MAPS, name, to_data)
    assert float((law(name, 3).covariance - cov).abs().max()) > 0.01


def kinds(scheduler: str, steps: list[int], **config: Any) -> dict[str, Finding]:
    found = check_sampler(f"diffusers:{scheduler}", config=config, steps=steps, lint_only=True)
    return {finding.kind: finding for finding in found.findings}


def test_traps_have_their_names_and_the_others_stay_silent() -> None:
    for scheduler, config in EXACT:
        assert kinds(scheduler, [1, 2, 8], **config) == {}
    lcm = kinds("LCMScheduler", [1, 50, 51])
    assert set(lcm) == {"prior_mismatch", "raises"}
    assert lcm["raises"].steps == (51,)
    # Lin et al. 2023, table 1: Stable Diffusion's last level has an SNR of 0.004682.
    ratio = lcm["prior_mismatch"].evidence["signal_to_noise"][0]
    assert ratio == pytest.approx(0.004682, abs=1e-5)
    tcd = kinds("TCDScheduler", [1, 4], **ZERO)
    assert set(tcd) == {"leftover_noise"}
    assert tcd["leftover_noise"].evidence["deviation"] == [pytest.approx(0.029, abs=0.002)] * 2
    assert kinds("CMStochasticIterativeScheduler", [1, 40, 41])["raises"].steps == (41,)


def test_distilled_networks_are_measured_at_few_steps() -> None:
    found = check_sampler("diffusers:FlowMatchLCMScheduler", lint_only=True)
    assert found.silent
    found = check_sampler("diffusers:FlowMapEulerDiscreteScheduler", steps=[1], samples=200)
    exact = {cell.target: cell.outcome for cell in found.cells if cell.exact}
    assert set(exact.values()) == {"representable"}
    assert len(exact) == 4


@pytest.mark.parametrize(
    ("scheduler", "reason"),
    [
        ("PiflowScheduler", "a policy"),
        ("HeliosDMDScheduler", "noise from its own pipeline"),
        ("HeliosScheduler", "stages of its own pipeline"),
        ("UnCLIPScheduler", "learned variance"),
        ("RePaintScheduler", "known pixels"),
        ("DDIMInverseScheduler", "from data to noise"),
    ],
)
def test_other_networks_are_refused_with_the_reason(scheduler: str, reason: str) -> None:
    with pytest.raises(UnfitError, match=reason):
        check_sampler(f"diffusers:{scheduler}")


# Every trap, by the third party's code and a closed form alone.


def test_tcd_leaves_noise_that_lcm_does_not_without_capcheck() -> None:
    def deviation(scheduler: Any) -> float:
        scheduler.set_timesteps(4)
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(4096, 1, 1, 1, generator=generator).double()
        for t in scheduler.timesteps:
            a = scheduler.alphas_cumprod[t].double()
            noise = (x - a.sqrt() * 0.5) / (1 - a).sqrt()  # exact where all data are 1/2
            x = scheduler.step(noise, t, x, generator=generator).prev_sample
        return float(x.std())

    tcd = diffusers.TCDScheduler(set_alpha_to_one=True)
    left = math.sqrt(1 - float(tcd.alphas_cumprod[0]))  # 0.0292
    assert deviation(tcd) == pytest.approx(left, rel=0.05)
    assert deviation(diffusers.LCMScheduler()) < 1e-3


def test_schedules_of_released_schedulers_have_traps_without_capcheck() -> None:
    scm = diffusers.SCMScheduler()
    with pytest.raises(ValueError, match="num_inference_steps != 2"):
        scm.set_timesteps(4)  # with every argument at its default
    # 20 steps end with a call at noise 0.0037, and 21 steps at noise 2.24 = Karras(20 / 39).
    cm, lowest = diffusers.CMStochasticIterativeScheduler(), []
    for steps in (20, 21):
        cm.set_timesteps(steps)
        lowest.append(float(cm.sigmas[-2]))
    of_7th = [0.002 ** (1 / 7), 80 ** (1 / 7)]
    assert lowest[0] == pytest.approx(0.00368, abs=1e-5)
    assert lowest[1] == pytest.approx((of_7th[1] + 20 / 39 * (of_7th[0] - of_7th[1])) ** 7)
    # Two steps of the flow are one: the second call is at 1 / 1000 of the noise.
    flow = diffusers.FlowMatchLCMScheduler()
    flow.set_timesteps(2)
    assert flow.sigmas.tolist() == pytest.approx([1, 0.001, 0])
    # The last level is shifted twice, 0.001 -> 0.003 / 1.002 -> 0.0089.
    shifted = diffusers.FlowMatchLCMScheduler(shift=3.0)
    shifted.set_timesteps(4)
    once = 3 * 0.001 / (1 + 2 * 0.001)
    assert float(shifted.sigmas[-2]) == pytest.approx(3 * once / (1 + 2 * once), rel=1e-4)
