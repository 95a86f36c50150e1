"""Functions of a caller's own modules, by the names that the caller gives, and `transformers`.

Only modules that the caller names are imported, and a name is never read from a data file.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from capcheck.core.errors import InputError

__all__ = [
    "current_folder_importable",
    "hide_unless_importable",
    "imported",
    "transformers_library",
]


@contextlib.contextmanager
def current_folder_importable() -> Iterator[None]:
    """Make modules in the current folder importable, which a console script does not."""
    here = os.getcwd()
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)


def imported(what: str, name: str) -> Callable[..., Any]:
    """The function `package.module:function`.

    Args:
        what: What the function is, in a word for messages.
        name: Its name.

    Raises:
        InputError: The module cannot be imported, or has no such function.
    """
    path, _, attributes = name.partition(":")
    name = " ".join(name.split())  # messages have one line
    try:
        found: Any = importlib.import_module(path)
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        raise InputError(
            f"{what} {name} names a module that cannot be imported ({reason}); install it, or run "
            "in the folder that holds it."
        ) from error
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            raise InputError(
                f"{what} {name} must name a function, and {path} has no {attributes!r}."
            )
        found = getattr(found, attribute)
    if not callable(found):
        raise InputError(f"{what} {name} must name a function, got {type(found).__name__}.")
    return found  # type: ignore[no-any-return]


def transformers_library(what: str) -> Any:
    """The package `transformers`, imported when it is first needed.

    Args:
        what: What needs it, in the plural, for messages.

    Raises:
        InputError: It is not installed, or cannot be imported.
    """
    hide_unless_importable("torchvision")
    try:
        package = importlib.import_module("transformers")
        package.AutoModelForCausalLM  # noqa: B018 (imported when it is first asked for)
    except Exception as error:  # its parts raise other errors than those of an import
        reason = str(error).split("\n")[0].rstrip(".")
        raise InputError(
            f"{what} need transformers, which cannot be imported ({reason}); run "
            "pip install 'capcheck[transformers]'."
        ) from error
    return package


def hide_unless_importable(name: str) -> None:
    """Let a package count as missing that is installed and cannot be imported.

    A build of torchvision for another torch raises when it is imported, and transformers imports
    it wherever it is installed, also for models of text, which do not need it.
    """
    if name in sys.modules or importlib.util.find_spec(name) is None:
        return
    try:
        importlib.import_module(name)
    except Exception:
        for part in [part for part in sys.modules if part.split(".")[0] == name]:
            del sys.modules[part]
        sys.modules[name] = None  # type: ignore[assignment]
