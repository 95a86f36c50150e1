"""A model folder holds a causal language model of `transformers`, as `save_pretrained` writes it.

It is a config and weights in safetensors files. Nothing is downloaded and nothing is unpickled, and
code that the folder brings or asks for is never run: a folder that needs it is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from capcheck.core.errors import InputError
from capcheck.core.imports import transformers_library
from capcheck.core.randomness import torch_generators

__all__ = ["CONFIG", "FORBIDDEN", "INDEX", "PART", "WEIGHTS", "ModelFolder"]

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PART = 1 << 22  # bytes of a file that are read at once
FORBIDDEN = {
    "auto_map": "asks for code of its own, which is never run; take a model that transformers has",
    "quantization_config": "holds quantised weights; save the model in float32 or float64",
}
"""Entries of a config with which a folder is refused, and the rest of the sentence."""


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """A folder that has passed the checks.

    Attributes:
        path: The folder.
        digest: SHA-256 of the config and the weights; names and times do not count.
        config: The config.
    """

    path: Path
    digest: str
    config: Mapping[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> ModelFolder:
        """Check a folder, and read all of its files once.

        Raises:
            InputError: The folder lacks a config or weights in safetensors files, names files
                elsewhere, or needs code or weights of another kind.
        """
        folder = Path(path)
        if not os.path.isfile(folder / CONFIG):
            raise InputError(
                f"model folder {str(path)!r} must hold a {CONFIG}, got none; name a folder that "
                "save_pretrained wrote."
            )
        config = _object(folder, CONFIG)
        for name, reason in FORBIDDEN.items():
            if config.get(name) is not None:
                raise InputError(f"model folder {str(path)!r} {reason} ({name} in {CONFIG}).")
        if os.path.exists(folder / "adapter_config.json"):
            raise InputError(
                f"model folder {str(path)!r} holds an adapter of another model; merge the two and "
                "save the whole model."
            )
        digest = hashlib.sha256()
        for name in (CONFIG, *_weights(folder)):
            own = hashlib.sha256()
            with (folder / name).open("rb") as file:
                while part := file.read(PART):
                    own.update(part)
            digest.update(own.digest())
        return cls(path=folder, digest=digest.hexdigest(), config=config)

    def load(self, *, dtype: torch.dtype, device: torch.device) -> Any:
        """The model, in evaluation mode and without gradients.

        Args:
            dtype: Floating-point type of weights and computations. Parts of some architectures,
                such as the norms of Llama, compute in float32 in any case.
            device: Device of weights and computations.

        Raises:
            InputError: `transformers` is not installed, or cannot load the model whole.
        """
        try:
            with _quiet():
                library = transformers_library("causal language models")
                model, found = library.AutoModelForCausalLM.from_pretrained(
                    str(self.path),
                    local_files_only=True,
                    trust_remote_code=False,
                    use_safetensors=True,
                    dtype=dtype,
                    attn_implementation="sdpa",  # not what the config names, which may be code
                    output_loading_info=True,
                )
        except InputError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".split("\n")[0]
            raise InputError(
                f"model folder {str(self.path)!r} must hold a causal language model that "
                f"transformers can load, and loading it raised {reason}."
            ) from error
        lacking = sorted(str(name) for name in found["missing_keys"] | found["mismatched_keys"])
        if lacking:
            raise InputError(
                f"model folder {str(self.path)!r} must hold all weights of its model, and lacks "
                f"{len(lacking)} of them, such as {lacking[0]}; save the model again."
            )
        return model.to(device).eval().requires_grad_(False)


def _object(folder: Path, name: str) -> dict[str, Any]:
    """The content of a JSON file.

    Raises:
        InputError: It is no JSON object.
    """
    try:
        found = json.loads((folder / name).read_text(encoding="utf-8"))
    except (ValueError, OSError):
        found = None
    if not isinstance(found, dict):
        raise InputError(
            f"model folder {str(folder)!r} must hold a {name} with one JSON object, got another "
            "content; save the model again."
        )
    return found


def _weights(folder: Path) -> list[str]:
    """The names of the files that hold the weights.

    Raises:
        InputError: There are none in safetensors files, or the index names files elsewhere.
    """
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if (folder / INDEX).is_file():
        names = _object(folder, INDEX).get("weight_map")
        parts = sorted({str(name) for name in names.values()}) if isinstance(names, dict) else []
        if parts and all(_is_part(folder, name) for name in parts):
            return [INDEX, *parts]
        raise InputError(
            f"model folder {str(folder)!r} has an {INDEX} that names files which it does not "
            "hold; save the model again."
        )
    pickled = sorted(one.name for one in folder.glob("*.bin"))
    got = f"{pickled[0]} only, which is a pickle" if pickled else "none"
    raise InputError(
        f"model folder {str(folder)!r} must hold its weights as safetensors, got {got}; save the "
        "model with save_pretrained."
    )


def _is_part(folder: Path, name: str) -> bool:
    """Whether an index may name a file: a safetensors file of the folder itself."""
    return Path(name).name == name and name.endswith(".safetensors") and (folder / name).is_file()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The messages of the library are kept back, and its random numbers are its own."""
    with (
        torch_generators(),
        warnings.catch_warnings(),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
