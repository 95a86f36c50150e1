"""A context in which torch's normal and uniform draws come from a `Randomness`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from capcheck.core.randomness import Randomness

__all__ = ["Drawing"]


class Drawing(TorchFunctionMode):
    """A context in which `randn`, `rand` and their like draw from a source, row by row.

    Code that is run inside needs no change, and its draws can be replayed.

    Args:
        rng: The source; the first dimension of every draw counts sample rows.

    Attributes:
        draws: Number of draws.
        unguided: Number of those that were made without a generator.
    """

    def __init__(self, rng: Randomness) -> None:
        super().__init__()
        self._rng = rng
        self.draws, self.unguided = 0, 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, or draw in its place."""
        given = dict(kwargs or {})
        if func in (torch.randn, torch.rand):
            shape = given.get("size", args)
            if len(shape) == 1 and not isinstance(shape[0], int):
                shape = shape[0]
            return self._drawn(func is torch.randn, tuple(shape), torch.get_default_dtype(), given)
        if func in (torch.randn_like, torch.rand_like):
            return self._drawn(func is torch.randn_like, tuple(args[0].shape), args[0].dtype, given)
        return func(*args, **given)

    def _drawn(
        self, normal: bool, shape: tuple[int, ...], dtype: torch.dtype, given: dict[str, Any]
    ) -> Tensor:
        self.draws += 1
        self.unguided += given.get("generator") is None
        draws = self._rng.normal(shape) if normal else self._rng.uniform(shape)
        return draws.to(device=given.get("device"), dtype=given.get("dtype") or dtype)
