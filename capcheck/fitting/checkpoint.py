"""Checkpoint: everything that a fit needs to go on as if it had not been stopped, in safetensors.

One file holds the weights, the best weights so far, Adam's moments, and as text the plan and the
step. It is written beside its place and moved there, so that a killed process leaves an old file or
a new one. Batches are functions of the seed and the step, so that there is no other state.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from capcheck.core.errors import InputError

__all__ = [
    "FORMAT",
    "Checkpoint",
    "Facts",
    "adam_state",
    "content_key",
    "named",
    "restore_adam",
    "under",
]

FORMAT = "capcheck fit 1"


class Facts(BaseModel):
    """How far a fit is.

    Attributes:
        step: Steps made.
        steps: Steps planned.
        stale: Checks without progress.
        pool: Draws that are used again, or None if every step has its own.
        start: Validation before the first step.
        best: Lowest validation so far.
        latest: Validation at the last check.
        mark: Validation that progress is measured from.
        floor: The oracle's own loss.
        seconds: Wall-clock time of all sessions.
        diverged: Whether the fit was given up.
        too_short: Whether it ended before it could show anything.
        reason: How it ended; empty while it goes on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    step: int
    steps: int
    stale: int
    pool: int | None
    start: float
    best: float
    latest: float
    mark: float
    floor: float
    seconds: float
    diverged: bool
    too_short: bool
    reason: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """A fit, stopped at a step.

    Attributes:
        tensors: Named `weights.*`, `best.*` and `adam.*`.
        facts: How far it is.
    """

    tensors: dict[str, Tensor]
    facts: Facts

    def write(self, path: Path) -> None:
        """Replace the file at that path.

        Raises:
            InputError: It cannot be written.
        """
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        own = {name: x.detach().cpu().contiguous().clone() for name, x in self.tensors.items()}
        metadata = {"format": FORMAT, "facts": self.facts.model_dump_json()}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(own, partial, metadata=metadata)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            raise InputError(
                f"folder must be writable for checkpoints, got {path.parent} ({error}); choose "
                "another one."
            ) from None

    @classmethod
    def read(cls, path: Path, module: nn.Module) -> Checkpoint | None:
        """The checkpoint at that path, or None if there is none.

        Args:
            path: A safetensors file; it holds numbers and text, and nothing of it is run.
            module: What its weights must fit.

        Raises:
            InputError: The file is none of ours, or its weights are not this module's.
        """
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if metadata.get("format") != FORMAT:
                raise ValueError("another format")
            _require_weights_of(module, tensors)
            return cls(tensors=tensors, facts=Facts.model_validate_json(metadata["facts"]))
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise InputError(
                f"folder must hold checkpoints of this version only, got {path} ({error}); delete "
                "that file."
            ) from None


def _require_weights_of(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Raise ValueError unless the tensors are weights, and moments, of this module."""
    shapes = {name: x.shape for name, x in module.state_dict().items()}
    for prefix in ("weights", "best"):
        if {name: x.shape for name, x in under(prefix, tensors).items()} != shapes:
            raise ValueError(f"its {prefix} are not the module's")
    trained = [p.shape for p in module.parameters() if p.requires_grad]
    for name, x in under("adam", tensors).items():
        i, _, key = name.partition(".")
        if not (i.isdigit() and int(i) < len(trained)) or (
            key != "step" and x.shape != trained[int(i)]
        ):
            raise ValueError(f"its moments {name!r} are not the module's")


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix.`, by the rest of their names."""
    start = f"{prefix}."
    return {name[len(start) :]: x for name, x in tensors.items() if name.startswith(start)}


def named(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with `prefix.` before their names."""
    return {f"{prefix}.{name}": x for name, x in tensors.items()}


def adam_state(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Its moments and steps, `parameter.quantity` -> tensor."""
    state = optimiser.state_dict()["state"]
    return {f"{i}.{key}": x for i, of_one in state.items() for key, x in of_one.items()}


def restore_adam(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `adam_state` took."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, x in tensors.items():
        i, _, key = name.partition(".")
        state.setdefault(int(i), {})[key] = x
    whole = optimiser.state_dict()
    optimiser.load_state_dict({**whole, "state": state})


def content_key(module: nn.Module, facts: Sequence[object]) -> str:
    """SHA-256 of a module's kind, structure and weights, and of what else a fit depends on."""
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    digest = hashlib.sha256(repr((FORMAT, kind, str(module), *facts)).encode())
    for part in _parts(module):
        digest.update(part)
    return digest.hexdigest()


def _parts(module: nn.Module) -> Iterator[bytes]:
    for name, x in module.state_dict().items():
        yield repr((name, tuple(x.shape), x.dtype)).encode()
        wide = x.detach().double() if x.is_floating_point() else x
        yield wide.cpu().numpy().tobytes()
