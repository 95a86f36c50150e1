"""The budget that a caller names, in full."""

from __future__ import annotations

from collections.abc import Mapping

from capcheck.core.arguments import whole_number
from capcheck.core.budget import AXES, Budget
from capcheck.core.errors import InputError, near
from capcheck.targets.target import Target

__all__ = ["Asked", "budget_on", "parts_of"]

Asked = Budget | Mapping[str, int] | int
"""A budget as callers write it: in full, some of its axes, or the number of steps."""


def parts_of(asked: Asked | None) -> dict[str, int] | None:
    """The axes that a caller names, or None for no budget.

    Raises:
        InputError: It is no budget. Whether the length suits a target is not checked.
    """
    if asked is None:
        return None
    if isinstance(asked, Budget):
        return {"length": asked.length, "steps": asked.steps}
    if not isinstance(asked, Mapping):
        return {"steps": whole_number("budget", asked, 1)}
    for name in asked:
        if name not in AXES:
            raise InputError(f"budget has no axis {name!r}; {near(str(name), AXES)}")
    return dict(asked)


def budget_on(target: Target, asked: Asked, given: int = 0) -> Budget:
    """The budget in full: all tokens that are not given, and one step, unless they are named.

    Args:
        target: Target whose tokens are placed.
        asked: The budget as the caller wrote it.
        given: Number of given tokens.

    Raises:
        InputError: It is no budget.
    """
    parts = parts_of(asked) or {}
    length = whole_number("budget.length", parts.get("length", target.spec.tokens - given), 0)
    return Budget(length=length, steps=whole_number("budget.steps", parts.get("steps", 1), 1))
