"""The caller's process is left as it was found, and its settings do not reach our numbers."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

__all__ = ["undisturbed"]


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Run a block of capcheck in the middle of a training script.

    The random states of Python, numpy and torch (all devices), the default type and device,
    autocast, gradient mode and deterministic flags are as before afterwards, also if the block
    raises. Within the block they have their usual values and fixed seeds, so that data with random
    augmentations are the same at every start.
    """
    python, legacy = random.getstate(), np.random.get_state()
    dtype, warn_only = (
        torch.get_default_dtype(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    deterministic = torch.are_deterministic_algorithms_enabled()
    on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    gpus = list(range(torch.cuda.device_count())) if on_gpu else []
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=gpus))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda") if on_gpu else ("cpu",):
            stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        try:
            torch.set_default_dtype(torch.float32)
            torch.use_deterministic_algorithms(False)
            random.seed(0)
            np.random.seed(0)
            torch.default_generator.manual_seed(0)  # `torch.manual_seed` would seed GPUs as well
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)
            torch.set_default_dtype(dtype)
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
