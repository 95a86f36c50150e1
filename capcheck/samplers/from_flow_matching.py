"""The solver of `flow_matching`, by its protocol: a velocity from noise (t = 0) to data (t = 1).

The package is under a non-commercial licence, so that no extra installs it.
"""

from __future__ import annotations

import importlib.metadata
import inspect
from typing import Any

import torch
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.samplers.sampler import Denoise, Sampler, level_of

__all__ = ["FlowMatchingSolver"]

OURS = ("self", "x_init", "step_size", "time_grid", "return_intermediates", "model_extras")
"""Arguments of `sample` that the check itself gives."""


class FlowMatchingSolver(Sampler):
    """The solver of ordinary differential equations on the path x_t = t x_0 + (1 - t) e.

    Args:
        solver: Name of the solver's class, `ODESolver`.
        config: Arguments of its `sample`, such as `method`.

    Raises:
        InputError: The package, the solver or the argument is not there.
    """

    def __init__(self, solver: str, config: dict[str, Any]) -> None:
        try:
            from flow_matching.solver import ODESolver
        except ImportError as error:
            raise InputError(
                f"solvers of flow_matching need the package ({error}); its licence is "
                "non-commercial, so that you install it yourself: pip install flow_matching."
            ) from error
        if solver != "ODESolver":
            raise InputError(f"flow_matching has no solver {solver!r} of numbers; use ODESolver.")
        known = sorted(set(inspect.signature(ODESolver.sample).parameters) - {*OURS})
        for name in config:
            if name not in known:
                raise InputError(f"{solver} has no setting {name!r}; use {', '.join(known)}.")
        self._class = ODESolver
        self.name, self.config = f"flow_matching:{solver}", config
        self.versions = {"flow_matching": importlib.metadata.version("flow_matching")}

    def run(
        self, denoise: Denoise, noise: Tensor, steps: int, generator: torch.Generator
    ) -> Tensor:
        """The samples that the solver makes in steps of equal length; see `Sampler`."""

        def velocity(x: Tensor, t: Tensor, **_: Any) -> Tensor:
            a = float(t)
            s = 1 - a
            if s <= 0:  # clean tokens do not tell their noise, whose mean is 0
                return x
            total = (a * a + s * s) ** 0.5
            return (denoise(x / total, level_of(a, s)) - x) / s

        made: Tensor = self._class(velocity).sample(noise, 1 / steps, **self.config)
        return made
