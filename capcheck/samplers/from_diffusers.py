"""Schedulers of `diffusers` (extra `diffusers`), told the noise that a model is trained at.

A scheduler shows its model an input m at a timestep t, and the training says what m is:

| convention | m | level |
|---|---|---|
| `alphas_cumprod` | a x_0 + s e | a^2 = alphas_cumprod[t]; s / a is linear between timesteps |
| flow matching | (1 - u) x_0 + u e | u = t / num_train_timesteps |
| EDM | (x_0 + u e) / sqrt(u^2 + sigma_data^2) | u = exp(4 t) |

The answer follows `prediction_type`: e, x_0, v = a e - s x_0, the flow e - x_0, or EDM's F. What
distilled networks answer is in `diffusers_networks`, and token ids are in `from_diffusers_tokens`.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from capcheck.core.errors import InputError, UnfitError
from capcheck.samplers.diffusers_networks import FLOW_MAPS, answer_of, timesteps_of, unit_of
from capcheck.samplers.sampler import Denoise, Sampler, level_of

__all__ = ["OTHER_NETWORKS", "STEP", "DiffusersSampler", "library", "schedulers"]

OTHER_NETWORKS = {
    "PiFlow": "a policy: the x_0 at several levels ahead of one call",
    "Inverse": "a denoiser, from data to noise",
    "RePaint": "a denoiser beside known pixels",
    "UnCLIP": "a prior with a learned variance",
    "HeliosDMD": "a distilled flow over several resolutions, with noise from its own pipeline",
    "Helios": "a flow over several resolutions, in stages of its own pipeline",
    "Amused": "a predictor of token ids",
    "BlockRefinement": "a predictor of token ids",
    "DiscreteDDIM": "a predictor of token ids",
    "EntropyBound": "a predictor of token ids",
    "VQDiffusion": "a predictor of token ids",
}
"""What a scheduler runs, by a part of its name, where that maps no noisy numbers to data."""


STEP = ("model_output", "timestep", "sample")
"""What a pipeline gives to the step of a scheduler."""


class DiffusersSampler(Sampler):
    """A scheduler of `diffusers`.

    Args:
        scheduler: Name of the scheduler's class.
        config: Settings of its own config.

    Raises:
        InputError: The package or the scheduler is not there.
        UnfitError: Its network is neither a denoiser nor a flow map of continuous tokens.
    """

    def __init__(self, scheduler: str, config: dict[str, Any]) -> None:
        self._class: Any = getattr(library(), scheduler, None)
        try:
            steps = hasattr(self._class, "set_timesteps")
        except ImportError as error:  # what stands in for a class whose package is missing
            raise UnfitError(" ".join(str(error).split())) from error
        if not steps:
            raise InputError(
                f"diffusers has no scheduler {scheduler!r}; see `capcheck sampler diffusers:all`."
            )
        for part, network in OTHER_NETWORKS.items():
            if part.lower() in scheduler.lower():
                raise UnfitError(f"{scheduler} runs {network}, not a denoiser from noise to data.")
        if scheduler in FLOW_MAPS:
            self.network = "flow_map"
        self.name, self.config = f"diffusers:{scheduler}", config
        self.versions = {"diffusers": importlib.metadata.version("diffusers")}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made = self._made()
        except InputError:
            raise
        except Exception as error:  # its constructor may raise anything
            reason = f"{type(error).__name__}: {error}".split("\n")[0]
            raise InputError(
                f"{scheduler} cannot be made with these settings ({reason}); change --config."
            ) from error
        if not hasattr(made, "config"):  # it stands in for one whose packages are missing
            raise UnfitError(f"{scheduler} is not there in this installation of diffusers.")
        levels = hasattr(made, "alphas_cumprod") or _is_flow(made) or _is_edm(made)
        if not (levels or self.network == "flow_map"):
            raise UnfitError(f"{scheduler} has no alphas_cumprod, flow or EDM levels to train at.")
        needed = [
            name
            for name, parameter in inspect.signature(made.step).parameters.items()
            if parameter.default is parameter.empty and name not in STEP
        ]
        if needed:
            raise UnfitError(f"{scheduler}.step needs {needed[0]}, which its own pipeline has.")

    def run(
        self, denoise: Denoise, noise: Tensor, steps: int, generator: torch.Generator
    ) -> Tensor:
        """The samples that the scheduler makes, as a pipeline runs it; see `Sampler`."""
        scheduler = self._made()
        timesteps, unit = timesteps_of(scheduler, steps), unit_of(scheduler)
        x = noise * float(getattr(scheduler, "init_noise_sigma", 1.0)) * unit
        taken = inspect.signature(scheduler.step).parameters
        how: dict[str, Any] = {"return_dict": False} if "return_dict" in taken else {}
        if "generator" in taken:
            how["generator"] = generator
        self.mismatch, self.told = 0.0, tuple(float(t) for t in timesteps)
        for i, t in enumerate(timesteps):
            m = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            if self.network == "flow_map":
                answer = answer_of(scheduler, i, x, denoise)
            else:
                self.mismatch = max(self.mismatch, _mismatch(scheduler, i, float(t)))
                answer = _answer(scheduler, m, float(t), denoise)
            made = scheduler.step(answer, t, x, **how)
            x = made[0] if isinstance(made, tuple) else made.prev_sample
        samples: Tensor = x / unit
        return samples

    def _made(self) -> Any:
        unknown = set(self.config) - set(inspect.signature(self._class).parameters)
        if unknown:
            raise InputError(
                f"{self._class.__name__} has no setting {min(unknown)!r}; see its documentation."
            )
        return self._class(**self.config)


def schedulers() -> list[str]:
    """The names of all schedulers of the installed `diffusers` that pipelines step through."""
    package, found = library(), []
    for name in dir(package):
        if name.endswith("Scheduler") and "Flax" not in name:
            try:
                steps = hasattr(getattr(package, name), "set_timesteps")
            except ImportError:
                steps = True  # it is refused with the package that it needs
            found += [name] if steps else []
    return found


def _answer(scheduler: Any, m: Tensor, t: float, denoise: Denoise) -> Tensor:
    """The answer of the network that the training converges to, for the input m at timestep t."""
    kind = scheduler.config.get("prediction_type", "epsilon")
    if _is_edm(scheduler):
        u, deviation = math.exp(4 * t), scheduler.config.sigma_data
        total = math.hypot(u, deviation)
        x = m * total
        x_0 = denoise(x / math.hypot(1, u), level_of(1, u))
        signed = -1 if kind == "v_prediction" else 1
        answer: Tensor = (x_0 - (deviation / total) ** 2 * x) * total / (signed * u * deviation)
        return answer
    if _is_flow(scheduler):
        s = t / scheduler.config.num_train_timesteps
        a = 1 - s
    else:
        a, s = _amplitudes(scheduler.alphas_cumprod, t)
    x_0 = denoise(m / math.hypot(a, s), level_of(a, s))
    if kind == "sample":
        return x_0
    noise: Tensor = (m - a * x_0) / s
    if _is_flow(scheduler):
        noise = noise - x_0
    return a * noise - s * x_0 if kind == "v_prediction" else noise


def _amplitudes(alphas_cumprod: Tensor, t: float) -> tuple[float, float]:
    """The amplitudes of signal and noise at a timestep, which may lie between two."""
    squares = alphas_cumprod.double().cpu().numpy()
    if t == int(t):
        square = float(squares[int(t)])
    else:
        at = float(np.interp(t, np.arange(len(squares)), np.sqrt((1 - squares) / squares)))
        square = 1 / (1 + at * at)
    return math.sqrt(square), math.sqrt(1 - square)


def _mismatch(scheduler: Any, i: int, t: float) -> float:
    """The logarithm of the scheduler's own noise at step i over that of its timestep."""
    own = getattr(scheduler, "sigmas", None)
    if own is None or i >= len(own) or hasattr(scheduler, "sigmas_interpol"):
        return 0.0  # the latter has two noises a step
    if _is_edm(scheduler):
        told = math.exp(4 * t)
    elif _is_flow(scheduler):
        told = t / scheduler.config.num_train_timesteps
    else:
        a, s = _amplitudes(scheduler.alphas_cumprod, t)
        told = s / max(a, math.ulp(1))
    seen = float(own[i])
    return abs(math.log(seen / told)) if seen > 0 and told > 0 else 0.0


def _is_flow(scheduler: Any) -> bool:
    kind = scheduler.config.get("prediction_type")
    return kind == "flow_prediction" or "FlowMatch" in type(scheduler).__name__


def _is_edm(scheduler: Any) -> bool:
    return hasattr(scheduler, "precondition_outputs") and "sigma_data" in scheduler.config


def library() -> Any:
    """The package.

    Raises:
        InputError: It is not installed.
    """
    try:
        import diffusers
    except ImportError as error:
        raise InputError(
            "schedulers of diffusers need the package; run pip install 'capcheck[diffusers]'."
        ) from error
    return diffusers
