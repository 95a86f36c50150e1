"""A checkpoint holds everything that a fit needs to resume as if it had not been stopped.

It is one safetensors file with the weights, the best weights so far, Adam's moments, and, as text,
the plan and the step. The file is written under a temporary name and then renamed, so that a killed
process leaves either the old file or the new one. There is no other state, because batches depend
on the seed and the step only. A SHA-256 of the content tells a file that was altered or half
written, which is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from capcheck.core.errors import StoreError, unwritable

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

FORMAT = "capcheck fit 2"


class Facts(BaseModel):
    """The state of a fit, apart from its tensors.

    Attributes:
        step: Number of steps made.
        steps: Number of steps planned.
        stale: Number of validations since the last progress.
        pool: Number of precomputed batches that are reused, or None if every step draws its own.
        start: Validation before the first step.
        best: Lowest validation so far.
        latest: Latest validation.
        mark: Validation at the last progress, from which further progress is measured.
        floor: Loss of the oracle.
        seconds: Wall-clock time of all sessions.
        diverged: Whether the loss rose or became non-finite.
        too_short: Whether the fit ended too early to show how well the module could do.
        reason: How the fit ended; empty while the fit is unfinished.
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
    """The saved state of a fit.

    Attributes:
        tensors: Tensors with names `weights.*`, `best.*` and `adam.*`.
        facts: All other state.
    """

    tensors: dict[str, Tensor]
    facts: Facts

    def write(self, path: Path) -> None:
        """Write the checkpoint to a file, and replace the file if it exists.

        Raises:
            StoreError: The file cannot be written.
        """
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        own = {name: x.detach().cpu().contiguous().clone() for name, x in self.tensors.items()}
        facts = self.facts.model_dump_json()
        metadata = {"format": FORMAT, "facts": facts, "sha256": _checksum(own, facts)}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(save(own, metadata=metadata))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            raise unwritable(path.parent, error) from error
        finally:
            with contextlib.suppress(OSError):
                partial.unlink()

    @classmethod
    def read(cls, path: Path, module: nn.Module) -> Checkpoint | None:
        """Read the checkpoint at a path; None if there is no such file.

        Args:
            path: Path of a safetensors file, which holds numbers and text, but no code.
            module: Module whose weights and moments the file must hold.

        Raises:
            StoreError: The file is no checkpoint of this format, it was altered, or its weights
                have other names or shapes than the module's.
        """
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if metadata.get("format") != FORMAT:
                raise ValueError("another format")
            facts = metadata["facts"]
            if metadata.get("sha256") != _checksum(tensors, facts):
                raise ValueError("its content is not what was written")
            _require_weights_of(module, tensors)
            return cls(tensors=tensors, facts=Facts.model_validate_json(facts))
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise StoreError(
                f"folder must hold checkpoints of this version only, got {path} ({error}); delete "
                "that file."
            ) from None


def _checksum(tensors: dict[str, Tensor], facts: str) -> str:
    """SHA-256 of all tensors and of the text that states the other facts."""
    digest = hashlib.sha256(facts.encode())
    for name, x in sorted(tensors.items()):
        digest.update(repr((name, tuple(x.shape), str(x.dtype))).encode())
        digest.update(x.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _require_weights_of(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Raise ValueError unless the tensors match the module's weights in names and shapes."""
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
    """The tensors whose names start with `prefix.`, keyed by the rest of their names."""
    start = f"{prefix}."
    return {name[len(start) :]: x for name, x in tensors.items() if name.startswith(start)}


def named(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, with `prefix.` put before their names."""
    return {f"{prefix}.{name}": x for name, x in tensors.items()}


def adam_state(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's moments and step counts, with names `parameter.quantity`."""
    state = optimiser.state_dict()["state"]
    return {f"{i}.{key}": x for i, of_one in state.items() for key, x in of_one.items()}


def restore_adam(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Load the tensors that `adam_state` returned into an optimiser."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, x in tensors.items():
        i, _, key = name.partition(".")
        state.setdefault(int(i), {})[key] = x
    whole = optimiser.state_dict()
    optimiser.load_state_dict({**whole, "state": state})


def content_key(module: nn.Module, facts: Sequence[object]) -> str:
    """SHA-256 of a module's class, structure and weights, and of the fit's other inputs."""
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
