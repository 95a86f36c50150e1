"""Writes what an installation would write about the package, where no build tool is at hand.

    python tests/gpu/metadata.py PYPROJECT SITE

The registry of families reads the entry points from there.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def write_metadata(pyproject: Path, site: Path) -> None:
    """Write the distribution's name, version and entry points to a folder of packages."""
    project = tomllib.loads(pyproject.read_text())["project"]
    folder = site / f"{project['name']}-{project['version']}.dist-info"
    folder.mkdir()
    header = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (folder / "METADATA").write_text(header)
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {where}" for name, where in points.items())]
    (folder / "entry_points.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    write_metadata(Path(sys.argv[1]), Path(sys.argv[2]))
