"""The facts about families that a list of them shows, read from their source.

To load the code of all families takes seconds, as it loads torch. The facts are literals and
docstrings, which the source tells; a class that computes one of them is loaded.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib.util
import re
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, cast

from capcheck.core.plugins import declared
from capcheck.procedures.rows import ROWS, Row

__all__ = ["FamilyFacts", "docstring_entries", "listed_families"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FamilyFacts:
    """The facts about a family that a list shows.

    Attributes:
        family: Name of the family.
        row: Its row in the paper's table, or the one that its procedure belongs to.
        in_paper: Whether the paper's table lists it.
        kinds: Kinds of tokens that it is defined for.
        summary: What it does, in a sentence.
        kl: How its KL is known, in a sentence.
    """

    family: str
    row: Row
    in_paper: bool
    kinds: frozenset[str]
    summary: str
    kl: str


def listed_families() -> list[FamilyFacts]:
    """The facts about all registered families, in the order of the paper's table.

    Raises:
        CapcheckError: An entry point whose class must be loaded does not hold a probe.
    """
    entries = declared("capcheck.families")
    facts = [_facts(name, entries[name]) for name in sorted(entries)]
    return sorted(facts, key=lambda one: ROWS.index(one.row))


def docstring_entries(text: str) -> tuple[str, list[tuple[str, str]]]:
    """The first line and the `Label: text` entries of a module docstring, with lines joined."""
    first, _, rest = text.strip().partition("\n")
    entries: list[tuple[str, str]] = []
    for line in filter(None, map(str.strip, rest.splitlines())):
        label, colon, tail = line.partition(": ")
        if colon and re.fullmatch(r"[A-Z][A-Za-z]+( [a-z]+)?", label):
            entries.append((label, tail))
        elif entries:
            entries[-1] = entries[-1][0], f"{entries[-1][1]} {line}"
        else:
            entries.append(("", line))
    return first, entries


def _facts(name: str, entry: EntryPoint) -> FamilyFacts:
    told = {"in_paper": True} | _attributes(entry.module, entry.attr)
    tree = _source(entry.module)
    told |= {"module": ast.get_docstring(tree) if tree else None}
    if any(told.get(fact) is None for fact in ("row", "in_paper", "kinds", "summary", "module")):
        from capcheck.procedures.registry import probe_class  # which loads torch

        probe = probe_class(name)
        told = {fact: getattr(probe, fact) for fact in ("row", "in_paper", "kinds")}
        told |= {"summary": probe.__doc__, "module": importlib.import_module(entry.module).__doc__}
    return FamilyFacts(
        family=name,
        row=cast(Row, told["row"]),
        in_paper=bool(told["in_paper"]),
        kinds=frozenset(told["kinds"]),
        summary=str(told["summary"] or "").strip().partition("\n")[0],
        kl=dict(docstring_entries(told["module"] or "")[1]).get("KL", ""),
    )


def _attributes(module: str, name: str) -> dict[str, Any]:
    """The literal attributes of a class and of those that it derives from, and its docstring."""
    tree = _source(module)
    if tree is None:
        return {}
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    if name not in classes:
        origins = {
            alias.asname or alias.name: (node.module, alias.name)
            for node in tree.body
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        }
        home = origins.get(name)
        return {} if home is None or not home[0].startswith("capcheck.") else _attributes(*home)
    node, found = classes[name], dict[str, Any]()
    for base in reversed(node.bases):
        plain = base.value if isinstance(base, ast.Subscript) else base
        if isinstance(plain, ast.Name):
            found |= _attributes(module, plain.id)
    for line in node.body:
        if isinstance(line, ast.Assign | ast.AnnAssign) and line.value is not None:
            targets = line.targets if isinstance(line, ast.Assign) else [line.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            found |= dict.fromkeys(names, _literal(line.value))
    return found | {"summary": ast.get_docstring(node)}


def _literal(value: ast.expr) -> Any:
    """The value of a literal, or of a frozenset of one; None for anything else."""
    inner = value
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        if value.func.id != "frozenset" or len(value.args) != 1:
            return None
        inner = value.args[0]
    try:
        return ast.literal_eval(inner)
    except ValueError:
        return None


@functools.cache
def _source(module: str) -> ast.Module | None:
    """The syntax tree of a module that is not loaded for it, or None if it has no source."""
    try:
        spec = importlib.util.find_spec(module)
        return ast.parse(Path(cast(str, spec.origin if spec else "")).read_text(encoding="utf-8"))
    except (ImportError, OSError, SyntaxError, ValueError, TypeError):
        return None
