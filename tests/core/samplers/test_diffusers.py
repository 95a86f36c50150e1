"""Schedulers of diffusers against our own solvers, and planted mistakes in the adapter."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from capcheck import check_sampler
from capcheck.core.budget import Budget
from capcheck.core.errors import CapcheckError, InputError, UnfitError
from capcheck.core.unavailable import Unavailable
from capcheck.laws.gaussian import GaussianLaw
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe
from capcheck.samplers import from_diffusers
from capcheck.samplers.findings import Finding
from capcheck.samplers.lint import look
from capcheck.samplers.sampler import level_of, probe_of
from capcheck.targets import GaussianMixture

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

ZERO = {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
ZERO["prediction_type"] = "v_prediction"
TRAILING = {"timestep_spacing": "trailing"}
KNOWN_GOOD: list[tuple[str, dict[str, Any]]] = [
    ("DDIMScheduler", TRAILING),
    ("DDIMScheduler", ZERO),
    ("DDPMScheduler", TRAILING),
    ("EulerDiscreteScheduler", TRAILING),
    ("EulerDiscreteScheduler", ZERO),
    ("EulerAncestralDiscreteScheduler", TRAILING),
    ("DPMSolverMultistepScheduler", TRAILING),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ("DPMSolverSinglestepScheduler", {}),
    ("UniPCMultistepScheduler", TRAILING),
    ("FlowMatchEulerDiscreteScheduler", {}),
    ("FlowMatchHeunDiscreteScheduler", {}),
    ("EDMEulerScheduler", {}),
    ("EDMDPMSolverMultistepScheduler", {}),
]


def target(tokens: int = 3) -> GaussianMixture:
    """A Gaussian of mean 0 and mean variance 1, whose standardised tokens are the tokens."""
    i = torch.arange(tokens, dtype=torch.float64)
    cov = 0.8 ** (i[:, None] - i).abs()
    return GaussianMixture(torch.zeros(1, tokens, 1).double(), cov[None])


def law(procedure: Procedure[Any], steps: int) -> GaussianLaw:
    found = procedure.exact_law(Budget(length=0, steps=steps))
    assert not isinstance(found, Unavailable), found.reason
    assert isinstance(found, GaussianLaw)
    return found


def kl(of: GaussianLaw, p: GaussianMixture) -> float:
    """KL from the target N(0, C) to the law N(m, S), in nats."""
    C = torch.linalg.inv(torch.linalg.inv(_covariance(p)))
    S, m = of.covariance, of.mean
    inverse = torch.linalg.inv(S)
    return float(0.5 * ((inverse @ C).trace() + m @ inverse @ m - len(m) + S.logdet() - C.logdet()))


def _covariance(p: GaussianMixture) -> torch.Tensor:
    i = torch.arange(p.spec.tokens, dtype=torch.float64)
    return 0.8 ** (i[:, None] - i).abs()


def levels(config: dict[str, Any], steps: int) -> list[float]:
    """The levels at which DDIM asks, by the scheduler's own numbers, and 0."""
    scheduler = diffusers.DDIMScheduler(**config)
    scheduler.set_timesteps(steps)
    squares = [float(scheduler.alphas_cumprod[t]) for t in scheduler.timesteps]
    return [*(level_of(math.sqrt(a), math.sqrt(1 - a)) for a in squares), 0.0]


@pytest.mark.parametrize("steps", [2, 5, 20])
def test_ddim_has_the_law_of_our_own_on_its_levels(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {**ZERO, "clip_sample": False}
    sampler = from_diffusers.DiffusersSampler("DDIMScheduler", config)
    made = sampler._made

    def precise() -> Any:  # a released scheduler rounds the roots of its levels to float32
        scheduler = made()
        scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
        scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
        return scheduler

    rounded = law(Procedure.of(probe_of(sampler), target()), steps)
    monkeypatch.setattr(sampler, "_made", precise)
    found = law(Procedure.of(probe_of(sampler), target()), steps)
    torch.testing.assert_close(rounded.covariance, found.covariance, atol=1e-6, rtol=0)
    grid = levels(config, steps)
    assert grid[0] == 1
    own = build_probe("diffusion", {"solver": "ddim", "levels": tuple(grid)})
    expected = law(Procedure.of(own, target()), steps)
    torch.testing.assert_close(found.covariance, expected.covariance, atol=1e-8, rtol=0)
    assert kl(found, target()) == pytest.approx(kl(expected, target()), abs=1e-8)
    assert kl(found, target()) > 1e-3


def test_a_level_that_is_off_by_one_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {**ZERO, "clip_sample": False}
    sampler = from_diffusers.DiffusersSampler("DDIMScheduler", config)
    right = law(Procedure.of(probe_of(sampler), target()), 20)
    amplitudes = from_diffusers._amplitudes
    monkeypatch.setattr(
        from_diffusers, "_amplitudes", lambda squares, t: amplitudes(squares, max(t - 1, 0))
    )
    wrong = law(Procedure.of(probe_of(sampler), target()), 20)
    assert abs(kl(wrong, target()) - kl(right, target())) > 1e-6


def test_a_scheduler_in_single_precision_has_an_exact_law_within_its_rounding() -> None:
    # Euler on sigma / alpha is DDIM; the scheduler rounds every sample to float32.
    config = {**ZERO, "clip_sample": False}
    euler = from_diffusers.DiffusersSampler("EulerDiscreteScheduler", ZERO)
    ddim = from_diffusers.DiffusersSampler("DDIMScheduler", config)
    laws = [law(Procedure.of(probe_of(one), target()), 10) for one in (euler, ddim)]
    torch.testing.assert_close(laws[0].covariance, laws[1].covariance, atol=2e-3, rtol=0)


@pytest.mark.parametrize(("scheduler", "config"), KNOWN_GOOD)
def test_known_good_schedulers_raise_no_alarm(scheduler: str, config: dict[str, Any]) -> None:
    found = check_sampler(f"diffusers:{scheduler}", config=config, steps=[50, 100], samples=500)
    assert found.findings == ()
    assert {cell.outcome for cell in found.cells} <= {
        "representable", "inconclusive", "not_representable",
    }  # fmt: skip


def kinds(scheduler: str, steps: list[int], **config: Any) -> dict[str, Finding]:
    found = check_sampler(f"diffusers:{scheduler}", config=config, steps=steps, lint_only=True)
    return {finding.kind: finding for finding in found.findings}


def test_defects_and_traps_of_released_schedulers_are_found() -> None:
    assert "not finite" in kinds("DDIMScheduler", [10], rescale_betas_zero_snr=True,
                                 timestep_spacing="trailing")["raises"].sentence  # fmt: skip
    assert kinds("PNDMScheduler", [2, 10])["raises"].steps == (2,)
    assert kinds("DPMSolverMultistepScheduler", [20, 100], use_karras_sigmas=True)[
        "repeated_level"
    ].steps == (100,)
    # Timesteps are rounded to whole numbers, and Karras sigmas are not.
    told = kinds("DPMSolverMultistepScheduler", [20, 100], use_karras_sigmas=True)["biased_rule"]
    assert told.steps == (100,)
    assert told.evidence["mismatch"] == [pytest.approx(0.187, abs=0.005)]
    # With `leading` spacing the first level is far from pure noise at few steps.
    assert kinds("DDIMScheduler", [2, 5, 100])["prior_mismatch"].steps == (2, 5)
    assert "leftover_noise" in kinds("DEISMultistepScheduler", [20])
    stable = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    mismatch = kinds("DDIMScheduler", [50], **stable, timestep_spacing="trailing")
    ratio = mismatch["prior_mismatch"].evidence["signal_to_noise"][0]
    assert ratio == pytest.approx(0.0047, abs=1e-4)  # Lin et al. 2023, table 1: SNR of 0.004682


# Every alarm, by the third party's code and a closed form alone.


def of_a_point(scheduler: Any, steps: int) -> torch.Tensor:
    """Samples with the exact network of a single data point at 1/2."""
    scheduler.set_timesteps(steps)
    x = torch.randn(2048, 1, 1, 1, generator=torch.Generator().manual_seed(0)).double()
    for t in scheduler.timesteps:
        a = scheduler.alphas_cumprod[int(t)].double()
        x = scheduler.step((x - a.sqrt() * 0.5) / (1 - a).sqrt(), t, x, return_dict=False)[0]
    return x


@pytest.mark.filterwarnings("ignore")
def test_alarms_are_seen_without_capcheck() -> None:
    zero = diffusers.DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    assert not bool(of_a_point(zero, 10).isfinite().all())
    with pytest.raises(ValueError, match="broadcast"):
        diffusers.PNDMScheduler().set_timesteps(2)
    karras = diffusers.DPMSolverMultistepScheduler(use_karras_sigmas=True)
    karras.set_timesteps(100)
    assert len(set(karras.timesteps.tolist())) == 99
    ratio = (1 / karras.alphas_cumprod - 1).sqrt()[karras.timesteps]
    assert float((karras.sigmas[:-1] / ratio).log().abs().max()) == pytest.approx(0.187, abs=0.005)
    leading = diffusers.DDIMScheduler()
    leading.set_timesteps(5)
    a = float(leading.alphas_cumprod[leading.timesteps[0]])
    assert a / (1 - a) > 1e-3
    for name, more in (("DEISMultistep", {}), ("SASolver", {}), ("PNDM", {"skip_prk_steps": True})):
        scattered = of_a_point(getattr(diffusers, f"{name}Scheduler")(**more), 20)
        assert float(scattered.std()) > 0.005
    assert float(of_a_point(diffusers.DDIMScheduler(), 20).std()) < 1e-4


def test_every_scheduler_runs_or_is_refused_with_the_reason() -> None:
    ran, refused = [], {}
    for name in from_diffusers.schedulers():
        try:
            sampler = from_diffusers.DiffusersSampler(name, {})
        except CapcheckError as error:
            refused[name] = str(error)
        else:
            ran.append(look(sampler, 10).error)
    assert len(ran) >= 20
    assert ran.count(None) >= 20
    assert len(ran) + len(refused) >= 25
    assert all(len(reason) > 20 for reason in refused.values())


def test_what_is_no_scheduler_or_setting_is_refused() -> None:
    with pytest.raises(InputError, match="no scheduler 'Nothing'"):
        check_sampler("diffusers:Nothing")
    with pytest.raises(InputError, match="no setting 'spacing'"):
        check_sampler("diffusers:DDIMScheduler", config={"spacing": "trailing"})
    with pytest.raises(InputError, match="cannot be made with these settings"):
        check_sampler("diffusers:DDIMScheduler", config={"beta_schedule": "none"})
    with pytest.raises(UnfitError, match="step needs old_pred_original_sample"):
        check_sampler("diffusers:CogVideoXDPMScheduler")
