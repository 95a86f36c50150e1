"""Samplers of `azula` (extra `azula`), by its protocol: a denoiser with a schedule and a mean."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import torch
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.samplers.sampler import Denoise, Sampler, level_of

__all__ = ["AzulaSampler"]


class AzulaSampler(Sampler):
    """A sampler of `azula` on its variance-preserving schedule.

    Args:
        sampler: Name of the sampler's class.
        config: Settings of its constructor, such as `eta`.

    Raises:
        InputError: The package or the sampler is not there.
    """

    def __init__(self, sampler: str, config: dict[str, Any]) -> None:
        try:
            from azula import denoise, noise, sample
        except ImportError as error:
            raise InputError(
                "samplers of azula need the package; run pip install 'capcheck[azula]'."
            ) from error
        if sampler not in sample.__all__ or sampler == "Sampler":
            names = ", ".join(name for name in sample.__all__ if name != "Sampler")
            raise InputError(f"azula has no sampler {sampler!r}; choose one of {names}.")
        self._class, self._schedule = getattr(sample, sampler), noise.VPSchedule()
        self._base, self._answer = denoise.Denoiser, denoise.DiracPosterior
        self.name, self.config = f"azula:{sampler}", config
        self.versions = {"azula": importlib.metadata.version("azula")}

    def run(
        self, denoise: Denoise, noise: Tensor, steps: int, generator: torch.Generator
    ) -> Tensor:
        """The samples that the sampler makes from its own starting noise; see `Sampler`."""
        schedule, answer = self._schedule, self._answer

        class Oracle(self._base):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.schedule = schedule

            def forward(self, x_t: Tensor, t: Tensor, **_: Any) -> Any:
                a, s = (float(amplitude.double()) for amplitude in schedule(t))
                total = (a * a + s * s) ** 0.5
                return answer(mean=denoise(x_t / total, level_of(a, s)))

        sampler = self._class(Oracle(), steps=steps, silent=True, **self.config)
        made: Tensor = sampler(noise * self._scale(sampler))
        return made

    def _scale(self, sampler: Any) -> float:
        """Standard deviation of the noise that `Sampler.init` draws, for data of variance 0."""
        _, sigma = self._schedule(sampler.timesteps[0])
        return float(sigma)
