"""The five groups of the paper's table: the axes that a family scales in, and its outer loop."""

from __future__ import annotations

from typing import Literal

__all__ = ["ROWS", "ROW_TITLES", "Row"]

Row = Literal["neither", "length", "steps", "length_outer", "steps_outer"]
ROWS: tuple[Row, ...] = ("neither", "length", "steps", "length_outer", "steps_outer")
ROW_TITLES: dict[Row, str] = {
    "neither": "neither axis",
    "length": "length",
    "steps": "steps",
    "length_outer": "both, length outside",
    "steps_outer": "both, steps outside",
}
