"""Trainers of other libraries, imported also beside a torchvision that cannot be.

A build of torchvision for another torch raises when it is imported, and the metrics of Lightning
import it wherever it is installed. Nothing in these tests uses it.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib.machinery import ModuleSpec
from typing import Any
from unittest.mock import MagicMock

from capcheck.core.imports import transformers_library

__all__ = ["import_trainers"]


def import_trainers() -> None:
    """Import transformers and Lightning."""
    transformers_library("trainers")  # which hides such a torchvision
    hidden = sys.modules.get("torchvision", ...) is None
    if hidden:
        stand_in: Any = MagicMock(__path__=[], __spec__=ModuleSpec("torchvision", None))
        parts = {f"torchvision.{name}": MagicMock() for name in ("transforms", "models", "ops")}
        sys.modules.update({"torchvision": stand_in, **parts})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("lightning.pytorch.loggers")
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"] * hidden:
        sys.modules[name] = None  # type: ignore[assignment]
