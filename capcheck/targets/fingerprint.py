"""The fingerprint of a law: a hash of its parameters that is equal on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Parts", "fingerprint"]


class Parts(Protocol):
    """A tensor, or an object that is read in parts along its first axis like a tensor."""

    @property
    def shape(self) -> torch.Size:
        """Shape of the whole tensor."""

    def split(self, split_size: int) -> Iterable[Tensor]:
        """Consecutive parts of at most `split_size` rows."""


def fingerprint(name: str, facts: object, tensors: Iterable[Parts]) -> str:
    """SHA-256 over the name of a class of laws, plain facts, and parameters in float64."""
    digest = hashlib.sha256(repr((name, facts)).encode())
    for tensor in tensors:
        digest.update(repr(tuple(tensor.shape)).encode())
        for part in tensor.split(4096):  # a tensor may be larger than memory
            wide = part.double() if part.is_floating_point() else part
            digest.update(wide.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
