"""Runs the blocks of the handbook again, and writes their outputs and pictures into its pages.

python -m tests.handbook.refresh [PAGE ...]

An empty output becomes whole; lines are left out by hand, with "..." in their place, and stay so.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from .blocks import FOLDER, Block, Output, pages
from .comparison import renewed
from .execution import run_page
from .pictures import save_picture

__all__ = ["refresh", "written"]


def refresh(page: Path) -> bool:
    """Renews a page; returns whether it changed."""
    before, outputs = page.read_text(encoding="utf-8"), []
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name).resolve()
            for found in run_page(page, folder):
                if isinstance(found, Block):
                    save_picture(found, folder)
                else:
                    outputs.append(found)
    finally:  # a block that fails is easier to mend beside the outputs of those before it
        after = written(before, outputs)
        page.write_text(after, encoding="utf-8")
    return after != before


def written(text: str, outputs: list[tuple[Output, str]]) -> str:
    """The text of a page with its outputs renewed."""
    lines = text.split("\n")
    for place, printed in sorted(outputs, key=lambda one: -one[0].first):
        shown = renewed(place.text, printed)
        new = [(place.indent + line).rstrip() for line in shown.split("\n")] if shown else []
        lines[place.first : place.last] = new
    return "\n".join(lines)


def main() -> None:
    """Renews the pages that are named, or all."""
    torch.set_num_threads(1)
    for page in [Path(name).resolve() for name in sys.argv[1:]] or pages():
        state = "renewed" if refresh(page) else "as it was"
        print(f"{page.relative_to(FOLDER)}: {state}", flush=True)


if __name__ == "__main__":
    main()
