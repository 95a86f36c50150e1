"""One process of a distributed job works, and tells the others what it found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.distributed

from capcheck.core.errors import CapcheckError, InputError, reason_of

__all__ = ["from_first_rank"]


def from_first_rank(make: Callable[[], str]) -> str:
    """The text that a function makes on rank 0, on every rank.

    Without a process group the function is called where this is called. If it raises on rank 0,
    every rank raises, so that none waits for a job that has ended.

    Args:
        make: Function of no arguments that returns text.

    Raises:
        InputError: Rank 0 raised one, and this is another rank; rank 0 raises its own error.
        CapcheckError: Rank 0 raised any other error, and this is another rank.
    """
    group = torch.distributed
    if not (group.is_available() and group.is_initialized()) or group.get_world_size() == 1:
        return make()
    said: list[Any] = ["", ""]
    if group.get_rank() == 0:
        try:
            said = ["text", make()]
        except Exception as error:
            kind = "input" if isinstance(error, InputError) else "failure"
            group.broadcast_object_list([kind, reason_of(error)], src=0)
            raise
    group.broadcast_object_list(said, src=0)
    kind, text = said
    if kind == "text":
        return str(text)
    raise (InputError if kind == "input" else CapcheckError)(f"on rank 0: {text}")
