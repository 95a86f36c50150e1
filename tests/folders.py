"""What tests read from the folders of runs."""

from __future__ import annotations

from pathlib import Path

__all__ = ["sorted_cells"]


def sorted_cells(folder: Path) -> list[str]:
    """The lines of all cells of a run, each once, without the reasons and networks beside them."""
    lines = [line for path in folder.glob("cells*.jsonl") for line in path.read_text().splitlines()]
    return sorted({line for line in lines if line.endswith("}}") and '"key"' in line})
