"""The environment of a run: what its numbers may depend on beside its settings.

`environment` records it, and the others set the parts of it that a process can choose.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from importlib.metadata import version

import threadpoolctl
import torch

__all__ = ["environment", "full_precision", "one_thread"]


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


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread, and restore the caller's number of threads afterwards.

    Workers are as many as the cores. Sums in another number of threads have other last digits.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpoolctl.threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)
