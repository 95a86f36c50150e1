"""The five groups of the paper's table: the axes that a family scales in, and its outer loop.

The paper is Song & Zhou 2025, "Ideas in Inference-time Scaling can Benefit Generative Pre-training
Algorithms", https://arxiv.org/abs/2503.07154.
"""

from __future__ import annotations

from typing import Literal

__all__ = ["PAPER", "PAPER_LINK", "ROWS", "ROW_TITLES", "Row"]

PAPER = "Song & Zhou 2025"
PAPER_LINK = "https://arxiv.org/abs/2503.07154"

Row = Literal["neither", "length", "steps", "length_outer", "steps_outer"]
ROWS: tuple[Row, ...] = ("neither", "length", "steps", "length_outer", "steps_outer")
ROW_TITLES: dict[Row, str] = {
    "neither": "neither axis",
    "length": "length",
    "steps": "steps",
    "length_outer": "both, length outside",
    "steps_outer": "both, steps outside",
}
