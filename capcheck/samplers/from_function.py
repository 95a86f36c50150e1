"""A user's own sampler: `sampler(network, noise, steps, generator) -> samples`.

The network is called as `network(x_t, t)`, with t a number or a tensor of any shape that holds one,
from 1 (noise) to 0 (data), and returns the mean of the clean tokens. x_t is alpha x_0 + sigma e
with alpha = cos(pi t / 2) and sigma = sin(pi t / 2), or with `path=linear` 1 - t and t.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.imports import current_folder_importable, imported
from capcheck.samplers.sampler import Denoise, Sampler, level_of

__all__ = ["FunctionSampler", "function_named"]


class FunctionSampler(Sampler):
    """A Python function as a sampler.

    Args:
        function: The function, see the module's docstring; further settings are keywords of it.
        name: Its name.
        config: `path`, `cosine` (default) or `linear`, and keywords of the function.
    """

    def __init__(self, function: Callable[..., Tensor], name: str, config: dict[str, Any]) -> None:
        self._function, self.name = function, name
        self._path = config.get("path", "cosine")
        self.config = {"path": self._path, **config}  # results say which one it is
        if self._path not in ("cosine", "linear"):
            raise InputError(f"path must be cosine or linear, got {self._path!r}.")
        self.versions = {"torch": torch.__version__}

    def run(
        self, denoise: Denoise, noise: Tensor, steps: int, generator: torch.Generator
    ) -> Tensor:
        """The samples that the function returns; see `Sampler`."""

        def network(x_t: Tensor, t: float | Tensor) -> Tensor:
            levels = torch.as_tensor(t).flatten()
            if bool((levels != levels[0]).any()):
                raise InputError(f"{self.name} must ask at one level at a time, got several.")
            level = float(levels[0])
            if self._path == "cosine":
                return denoise(x_t, level)
            return denoise(x_t / math.hypot(1 - level, level), level_of(1 - level, level))

        further = {key: value for key, value in self.config.items() if key != "path"}
        found = self._function(network, noise, steps, generator, **further)
        if not isinstance(found, Tensor) or found.shape != noise.shape:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InputError(
                f"{self.name} must return samples of shape {tuple(noise.shape)}, got {shape}."
            )
        return found


def function_named(name: str) -> Callable[..., Tensor]:
    """The function `package.module:function`, of the working directory too.

    Raises:
        InputError: There is no such module or function.
    """
    with current_folder_importable():
        return imported("sampler", name)
