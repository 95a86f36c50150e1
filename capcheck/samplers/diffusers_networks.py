"""Distilled networks of `diffusers`: what they are shown, and what they answer.

A distilled network jumps along the probability flow from x_t to x_s in one call. Its scheduler
turns the answer into x_s, by its `prediction_type` and by scalings that keep x_t where s = t. The
answer here is the one from which the scheduler computes the exact x_s.

| scheduler | x_t | lands at | the scheduler's x_s |
|---|---|---|---|
| LCM | a x_0 + s e | data | c_skip x_t + c_out p, where p is its prediction of x_0 |
| TCD | a x_0 + s e | the level that it adds noise at | a_s p + s_s (x_t - a p) / s |
| CMStochasticIterative | x_0 + u e | u = sigma_min | c_skip x_t + c_out answer |
| FlowMatchLCM | (1 - u) x_0 + u e | data | x_t - u answer |
| FlowMapEulerDiscrete | (1 - u) x_0 + u e | the next u, r | x_t - (u - r) answer |
| SCM | sigma_data (cos(t) x_0 + sin(t) e) | data | cos(t) x_t - sin(t) answer |

TCD shows its network no level to land at. The one here is told it, and a network that is not knows
at most as much.

Sources: Song et al. 2023, "Consistency Models", equation 5, https://arxiv.org/abs/2303.01469; Luo
et al. 2023, "Latent Consistency Models", https://arxiv.org/abs/2310.04378; Zheng et al. 2024,
"Trajectory Consistency Distillation", https://arxiv.org/abs/2402.19159; Lu & Song 2024,
"Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models",
https://arxiv.org/abs/2410.11081.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from capcheck.samplers.sampler import Denoise, level_of

__all__ = ["FLOW_MAPS", "Amplitudes", "answer_of", "timesteps_of", "unit_of"]

Amplitudes = tuple[float, float]
"""Amplitudes of signal and noise."""

CLEAN: Amplitudes = (1.0, 0.0)
Jump = Callable[[Tensor, Amplitudes, Amplitudes], Tensor]
"""The flow map (x_t, amplitudes of x_t, amplitudes of x_s) -> x_s."""


def answer_of(scheduler: Any, i: int, x: Tensor, network: Denoise) -> Tensor:
    """The answer of a distilled network to the tokens x (n, N, d) of step i.

    Args:
        scheduler: The scheduler, with its timesteps.
        i: Index of the step.
        x: Tokens as the scheduler holds them, without the scaling of the network's input.
        network: The flow map.
    """

    def jump(x_t: Tensor, t: Amplitudes, s: Amplitudes) -> Tensor:
        x_s = network(x_t / math.hypot(*t), level_of(*t), level_of(*s))
        return x_s * math.hypot(*s)

    return FLOW_MAPS[type(scheduler).__name__](scheduler, i, x, jump)


def timesteps_of(scheduler: Any, steps: int) -> Any:
    """The timesteps of the network's calls, after the scheduler is told the number of steps."""
    if "intermediate_timesteps" not in inspect.signature(scheduler.set_timesteps).parameters:
        scheduler.set_timesteps(steps)
        return scheduler.timesteps
    # The default of 1.3 is for two steps, and refused for others; the last timestep is the data's.
    scheduler.set_timesteps(steps, **({} if steps == 2 else {"intermediate_timesteps": None}))
    return scheduler.timesteps[:-1]


def unit_of(scheduler: Any) -> float:
    """The scheduler's unit of the tokens: sigma_data with trigonometric levels, as in SCM."""
    trigonometric = scheduler.config.get("prediction_type") == "trigflow"
    return float(scheduler.config.sigma_data) if trigonometric else 1.0


def _lcm(scheduler: Any, i: int, x: Tensor, jump: Jump) -> Tensor:
    t = int(scheduler.timesteps[i])
    at = _amplitudes(scheduler, t)
    c_skip, c_out = scheduler.get_scalings_for_boundary_condition_discrete(t)
    return _predicted(scheduler, x, _unscaled(jump(x, at, CLEAN), x, c_skip, c_out), at)


def _tcd(scheduler: Any, i: int, x: Tensor, jump: Jump) -> Tensor:
    """The answer whose x_s is exact at the level to which `step` adds noise."""
    eta = inspect.signature(scheduler.step).parameters["eta"].default
    following = int(scheduler.timesteps[i + 1]) if i + 1 < len(scheduler.timesteps) else 0
    t, s = int(scheduler.timesteps[i]), math.floor((1 - eta) * following)
    (a, b), (c, r) = at, to = _amplitudes(scheduler, t), _amplitudes(scheduler, s)
    x_0 = (r * x - b * jump(x, at, to)) / (r * a - b * c)
    return _predicted(scheduler, x, x_0, at)


def _karras(scheduler: Any, i: int, x: Tensor, jump: Jump) -> Tensor:
    u = math.exp(float(scheduler.timesteps[i]) / 250)  # the network is told 250 log u
    low = float(scheduler.config.sigma_min)
    c_skip, c_out = map(float, scheduler.get_scalings_for_boundary_condition(scheduler.sigmas[i]))
    return _unscaled(jump(x, (1.0, max(u, low)), (1.0, low)), x, c_skip, c_out)


def _flow(scheduler: Any, i: int, x: Tensor, jump: Jump) -> Tensor:
    u = _share(scheduler, scheduler.timesteps[i])
    return (x - jump(x, (1 - u, u), CLEAN)) / u


def _flow_map(scheduler: Any, i: int, x: Tensor, jump: Jump) -> Tensor:
    ends = [*scheduler.timesteps, 0.0]
    u, r = (_share(scheduler, t) for t in ends[i : i + 2])
    return (x - jump(x, (1 - u, u), (1 - r, r))) / (u - r)


def _trigonometric(scheduler: Any, i: int, x: Tensor, jump: Jump) -> Tensor:
    t, unit = float(scheduler.timesteps[i]), unit_of(scheduler)
    a, b = max(math.cos(t), 0.0), math.sin(t)  # the default of 1.57080 lies beyond pi / 2
    return (math.cos(t) * x - unit * jump(x / unit, (a, b), CLEAN)) / b


FLOW_MAPS: dict[str, Callable[[Any, int, Tensor, Jump], Tensor]] = {
    "LCMScheduler": _lcm,
    "TCDScheduler": _tcd,
    "CMStochasticIterativeScheduler": _karras,
    "FlowMatchLCMScheduler": _flow,
    "FlowMapEulerDiscreteScheduler": _flow_map,
    "SCMScheduler": _trigonometric,
}
"""The answers (scheduler, step, x, flow map) -> answer, by the scheduler's class."""


def _unscaled(x_s: Tensor, x_t: Tensor, c_skip: float, c_out: float) -> Tensor:
    """The p of c_skip x_t + c_out p = x_s; at c_out = 0 no p matters."""
    return (x_s - c_skip * x_t) / c_out if c_out else x_s


def _predicted(scheduler: Any, x: Tensor, x_0: Tensor, at: Amplitudes) -> Tensor:
    """The answer that stands for x_0 by the scheduler's `prediction_type`."""
    (a, s), kind = at, scheduler.config.prediction_type
    if kind == "sample":
        return x_0
    return (a * x - x_0) / s if kind == "v_prediction" else (x - a * x_0) / s


def _amplitudes(scheduler: Any, t: int) -> Amplitudes:
    square = float(scheduler.alphas_cumprod[t])
    return math.sqrt(square), math.sqrt(1 - square)


def _share(scheduler: Any, t: Any) -> float:
    return float(t) / float(scheduler.config.num_train_timesteps)
