"""The tokens and noise levels that a target takes: their shape, type and range."""

from __future__ import annotations

import torch
from torch import Tensor

from capcheck.core.errors import InputError
from capcheck.core.sequences import SequenceSpec

__all__ = ["IDS", "require_tokens"]

IDS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def require_tokens(spec: SequenceSpec, x: Tensor, levels: Tensor | None = None) -> None:
    """Raise InputError unless x and the levels have the shape, type and range of the target.

    The values of tokens at level 1 are ignored and not checked.
    """
    shape = (spec.tokens, *spec.token_shape)
    if tuple(x.shape[1:]) != shape or x.dim() != 1 + len(shape) or len(x) == 0:
        raise InputError(
            f"x must have shape (rows, {', '.join(map(str, shape))}) with at least one row, "
            f"got {tuple(x.shape)}."
        )
    if x.is_floating_point() != (spec.kind == "continuous") or x.is_complex():
        raise InputError(f"x must hold {spec.kind} tokens, got {x.dtype}; convert it.")
    if spec.kind == "categorical" and x.dtype not in IDS:
        raise InputError(f"x must hold token ids as int64, got {x.dtype}; convert it.")
    seen = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    if levels is not None:
        if levels.shape != x.shape[:2]:
            raise InputError(
                f"levels must have shape {tuple(x.shape[:2])}, one for each token, got "
                f"{tuple(levels.shape)}."
            )
        two = spec.kind == "categorical"
        allowed = (levels == 0) | (levels == 1) if two else (levels >= 0) & (levels <= 1)
        if not bool(allowed.all()):
            worst = float(levels[~allowed][0])
            rule = "0 (known) or 1 (unseen)" if two else "in [0, 1]"
            raise InputError(f"levels must be {rule}, got {worst:g}.")
        seen = levels < 1
    if spec.kind == "categorical":
        outside = ((x < 0) | (x >= spec.dim)) & seen
        if bool(outside.any()):
            raise InputError(
                f"x must hold integers from 0 to {spec.dim - 1}, got {int(x[outside][0])}."
            )
