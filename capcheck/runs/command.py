r"""The command of a run: the text by which a reader of its report can make it again.

It is a line for a shell, or a call of `capcheck.check` or `capcheck.survey` in Python. It holds the
arguments and nothing of the environment.

>>> shell_command(["survey", "--data", "my rows.npy"])
"capcheck survey --data 'my rows.npy'"
>>> shell_command(["check", "--data", "a\u202eb"])
"capcheck check --data $'a\\xe2\\x80\\xaeb'"
"""

from __future__ import annotations

import dataclasses
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from capcheck.data import Layout
from capcheck.targets.target import Target

__all__ = ["UNSEEN", "python_call", "shell_command"]

UNSEEN = ("executor", "progress")  # keywords of Python calls on which nothing of a run depends


def shell_command(arguments: Sequence[str]) -> str:
    """The command `capcheck` with arguments, quoted for a shell.

    Arguments that hold control characters, or bytes that are no text, are written as $'...' of
    bash, zsh and ksh.
    """
    return " ".join(["capcheck", *map(_quoted, arguments)])


def _quoted(argument: str) -> str:
    if argument.isprintable():  # not so of line breaks, of marks of direction and of stray bytes
        return shlex.quote(argument)
    plain = {character: f"\\{character}" for character in "\\'"}
    escaped = (
        plain.get(one, one)
        if one.isprintable()
        else "".join(f"\\x{byte:02x}" for byte in one.encode("utf-8", "surrogateescape"))
        for one in argument
    )
    return "".join(["$'", *escaped, "'"])


def python_call(
    function: str, target: Target, first: tuple[str, Any], keywords: Mapping[str, Any]
) -> str | None:
    """A call of a function of capcheck, or None if it has arguments that are no plain values.

    Args:
        function: `check` or `survey`.
        target: The target, of which a recipe is needed.
        first: Name and value of the families, or of the family.
        keywords: The other arguments; those of None and `UNSEEN` ones are left out.
    """
    name, value = first
    of_target = _target(target)
    given = {k: v for k, v in keywords.items() if v is not None and k not in UNSEEN}
    texts = {k: _literal(v) for k, v in ({name: value} | given).items() if v is not None}
    if of_target is None or None in texts.values():
        return None
    parts = [f"{k}={text}" for k, text in texts.items()]
    return f"capcheck.{function}({', '.join([f'target={of_target}', *parts])})"


def _target(target: Target) -> str | None:
    """The call that builds a target by its recipe, or None if it has none."""
    recipe = target.recipe if isinstance(target, Target) else None
    if recipe is None:
        return None
    if "spec" in recipe:
        return f"capcheck.targets.from_spec({str(recipe['spec'])!r})"
    plain = dataclasses.asdict(Layout())
    layout = {
        k: tuple(v) if isinstance(v, (list, tuple)) else v
        for k, v in recipe["layout"].items()
        if v != plain[k]
    }
    arguments = [f"{k}={v!r}" for k, v in layout.items()]
    parts = [repr(_nearby(str(recipe["data"]))), f"capcheck.data.Layout({', '.join(arguments)})"]
    parts += [f"law={str(recipe['law'])!r}"] if recipe["law"] != "auto" else []
    parts += [f"bandwidth={recipe['bandwidth']!r}"] if recipe["bandwidth"] is not None else []
    return f"capcheck.data.load_target({', '.join(parts)})"


def _nearby(path: str) -> str:
    """A path as it is named from the current folder, if it lies within."""
    here = os.path.join(os.getcwd(), "")
    return path.removeprefix(here)


def _literal(value: Any) -> str | None:
    """A plain value as Python writes it, in printed characters only, or None if it is not plain."""
    if isinstance(value, Path):
        return repr(str(value))
    if type(value) is float and not math.isfinite(value):
        return f"float('{value}')"
    if value is None or type(value) in (bool, int, float, str, range):
        return repr(value)
    if type(value) in (list, tuple):
        texts = [_literal(one) for one in value]
        if None in texts:
            return None
        inner = ", ".join(text for text in texts if text is not None)
        comma = "," if len(texts) == 1 and type(value) is tuple else ""
        return f"[{inner}]" if type(value) is list else f"({inner}{comma})"
    if type(value) is dict:
        pairs = [(_literal(k), _literal(v)) for k, v in value.items()]
        if any(None in pair for pair in pairs):
            return None
        return "{" + ", ".join(f"{k}: {v}" for k, v in pairs) + "}"
    return None
