"""Functions of a caller's own modules, by the names that the caller gives.

Only modules that the caller names are imported, and a name is never read from a data file.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from capcheck.core.errors import InputError

__all__ = ["current_folder_importable", "imported"]


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
