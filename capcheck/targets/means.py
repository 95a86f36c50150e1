"""The component means of a mixture, as they are stored and as they are read: in parts, rescaled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Means"]


@dataclass(frozen=True, eq=False)
class Means:
    """Component means (K, N, d), read in parts as (stored - origin) / unit.

    Attributes:
        stored: Stored means, (K, N, d) in any floating-point type; may be memory-mapped.
        origin: Origin, (N, d) float64, or None if the stored means are used unchanged.
        unit: Unit, above 0.
    """

    stored: Tensor
    origin: Tensor | None = None
    unit: float = 1.0

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def shape(self) -> torch.Size:
        """Shape (K, N, d) of the means."""
        return self.stored.shape

    @property
    def device(self) -> torch.device:
        """Device of the stored means."""
        return self.stored.device

    def __getitem__(self, part: slice | Tensor) -> Tensor:
        """The means of some components, (c, N, d)."""
        return self._moved(self.stored[part], self.origin)

    def of_tokens(self, tokens: Tensor, components: slice | Tensor) -> Tensor:
        """Means of some tokens: of a slice of components (K, S, d), or of components (n, S, d)."""
        origin = None if self.origin is None else self.origin[tokens]
        return self._moved(self.stored[components, tokens], origin)

    def at(self, component: Tensor, token: Tensor) -> Tensor:
        """Means of chosen components and tokens, both (n, k) after broadcasting: (n, k, d)."""
        stored = self.stored[component, token].to(torch.float64)
        return stored if self.origin is None else (stored - self.origin[token]) / self.unit

    def split(self, size: int) -> Iterator[Tensor]:
        """Parts of at most `size` components."""
        return (self[start : start + size] for start in range(0, len(self), size))

    def relative_to(self, origin: Tensor, unit: float) -> Means:
        """The means (mu - origin) / unit, without reading or copying the stored ones."""
        whole = origin if self.origin is None else self.origin + self.unit * origin
        return Means(self.stored, whole, self.unit * unit)

    def to(self, device: torch.device | str) -> Means:
        """The same means on a device."""
        origin = None if self.origin is None else self.origin.to(device)
        return Means(self.stored.to(device), origin, self.unit)

    def _moved(self, stored: Tensor, origin: Tensor | None) -> Tensor:
        return stored if origin is None else (stored.to(origin) - origin) / self.unit
