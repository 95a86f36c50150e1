"""Noise schedules: Lin, Liu, Li & Yang 2023, https://arxiv.org/abs/2305.08891.

Table 1 prints SNR(T) and sqrt(alpha_bar_T) of three schedules of 1,000 timesteps at the last one,
which is where sampling starts from pure noise. Table 2 prints the timesteps of 10 steps by leading,
linspace and trailing spacing, counted from 1.

capcheck runs the DDIM scheduler of `diffusers` as `capcheck sampler` does, with a network that
knows a single data point (`capcheck.samplers.lint.look`). The level of noise at which the scheduler
asks first has the signal-to-noise ratio, and the timesteps that the network is told, which count
from 0, are those of table 2 less 1. The rescaling of section 3.1 leaves no signal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from capcheck.published.claim import Claim
from capcheck.samplers.from_diffusers import DiffusersSampler
from capcheck.samplers.lint import Seen, look

__all__ = ["claims"]

SOURCE, STEPS = "noise-schedules", 10
STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SCHEDULES: tuple[tuple[str, dict[str, Any], str, str], ...] = (
    ("linear", {"beta_schedule": "linear"}, "4.035993e-05", "0.006353"),
    ("cosine", {"beta_schedule": "squaredcos_cap_v2"}, "2.428735e-09", "4.928220e-05"),
    ("Stable Diffusion", STABLE_DIFFUSION, "0.004682", "0.068265"),
)
"""Schedule, settings of the scheduler, SNR(T) and sqrt(alpha_bar_T) as printed."""
SPACINGS = {
    "leading": "1 101 201 301 401 501 601 701 801 901",
    "linspace": "1 112 223 334 445 556 667 778 889 1000",
    "trailing": "100 200 300 400 500 600 700 800 900 1000",
}
"""Timesteps of table 2."""


def claims() -> Iterator[Claim]:
    """Tables 1 and 2, and the schedule of algorithm 1."""
    for name, config, snr, root in SCHEDULES:
        signal = seen({**config, "timestep_spacing": "trailing"}).signal
        quantities = {
            "SNR(T)": (snr, signal),
            "sqrt(alpha_bar_T)": (root, math.sqrt(signal / (1 + signal))),
        }
        for quantity, (printed, value) in quantities.items():
            yield _claim("table 1", f"{quantity}, {name}", printed, value)
    rescaled = {**STABLE_DIFFUSION, "rescale_betas_zero_snr": True}
    spaced = {**rescaled, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
    signal = seen(spaced).signal
    yield _claim("algorithm 1", "SNR(T), Stable Diffusion, rescaled", "0", signal)
    for spacing, timesteps in SPACINGS.items():
        told = sorted(seen({"timestep_spacing": spacing}).told)
        yield _claim("table 2", f"timesteps, {spacing}", timesteps, [t + 1 for t in told])


def seen(config: dict[str, Any]) -> Seen:
    """A run of the DDIM scheduler with these settings on a single data point."""
    found = look(DiffusersSampler("DDIMScheduler", config), STEPS)
    assert found.error is None, found.error
    return found


def _claim(place: str, quantity: str, printed: str, value: float | Sequence[float]) -> Claim:
    return Claim(
        source=SOURCE,
        place=place,
        quantity=quantity,
        printed=printed,
        by="samplers.lint.look",
        value=value,
    )
