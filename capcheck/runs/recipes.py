"""The recipe of a run's target, by which another process can build the target again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from capcheck.core.errors import InputError
from capcheck.data import Layout, load_target
from capcheck.runs.atomic import write_atomically
from capcheck.targets.specs import from_spec
from capcheck.targets.target import Target

__all__ = ["RECIPE", "target_again", "write_recipe"]

RECIPE = "target.json"  # name of the recipe's file in a run's folder


def write_recipe(folder: Path, target: Target) -> None:
    """Write the recipe of a target to the folder of its run, if it has one."""
    if target.recipe is not None:
        write_atomically(folder / RECIPE, json.dumps(dict(target.recipe), indent=2) + "\n")


def target_again(folder: Path) -> Target:
    """Build the target of a run from its recipe.

    Raises:
        InputError: The run has no recipe or a damaged one, or its data are not there.
    """
    path = folder / RECIPE
    if not path.is_file():
        raise InputError(
            f"run {str(folder)!r} has no {RECIPE}, as its target was made by a program; give the "
            "target, as in capcheck.work(folder, target=...)."
        )
    try:
        recipe: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if "spec" in recipe:
            return from_spec(str(recipe["spec"]))
        of_layout = dict(recipe["layout"])
        grid = of_layout.pop("grid", None)
        layout = Layout(**of_layout, grid=None if grid is None else tuple(grid))
        data, law = str(recipe["data"]), str(recipe["law"])
        return load_target(data, layout, law=law, bandwidth=recipe["bandwidth"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"run {str(folder)!r} has a {RECIPE} that is damaged; start the run anew."
        ) from None
