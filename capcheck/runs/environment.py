"""The environment of a run: what its numbers may depend on beside its settings.

`environment` records it, and `full_precision` sets the part of it that a process can choose.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from importlib.metadata import version

import torch

__all__ = ["environment", "full_precision"]


def environment() -> dict[str, str]:
    """Versions of Python and packages, and the machine, that numbers may depend on."""
    packages = ("torch", "numpy", "scipy", "scikit-learn", "POT")
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{package: version(package) for package in packages},
    }


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Switch TF32 arithmetic off, and restore the caller's setting afterwards."""
    matmul, convolution = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolution
