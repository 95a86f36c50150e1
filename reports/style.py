"""The style of the charts: the layout that all of them share, and the colours of divergences."""

from __future__ import annotations

__all__ = ["COLOURS", "LAYOUT"]

COLOURS = {
    "kl": "#2455a4",
    "wasserstein": "#b4531f",
    "mmd": "#3b7d4f",
    "reverse_kl": "#7a3f91",
    "total_variation": "#8c6d1f",
}
LAYOUT = {
    "template": "plotly_white",
    "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#222"},
    "margin": {"l": 60, "r": 16, "t": 40, "b": 50},
    "legend": {"orientation": "h", "y": -0.28},
    "height": 340,
}
