"""The picture of lost dependence: pairs of tokens whose dependence differs from the target's."""

from __future__ import annotations

from capcheck.diagnostics.witness import Witness
from capcheck.reports.charts.chart import Chart, Spec

__all__ = ["pairs_chart"]


def pairs_chart(witness: Witness, tokens: int, kind: str) -> Chart:
    """The pairs of tokens of a witness, each at its place in a square of tokens by tokens.

    Args:
        witness: A witness with at least one pair.
        tokens: N, the number of tokens of a sequence.
        kind: Kind of the tokens; the dependence of numbers has a sign.
    """
    rows = [
        {
            "first": min(pair.tokens),
            "second": max(pair.tokens),
            "target": f"{pair.target:.3g}",
            "model": f"{pair.model:.3g}",
            "size": abs(pair.target - pair.model),
            "change": "lost" if abs(pair.model) < abs(pair.target) else "added",
        }
        for pair in witness.pairs
    ]
    measure = "mutual information, nats" if kind == "categorical" else "correlation"
    return Chart(
        spec=_spec(tokens, measure),
        data={"pairs": rows},
        description="Pairs of tokens whose dependence differs from the target's.",
    )


def _spec(tokens: int, measure: str) -> Spec:
    def axis(field: str, title: str) -> Spec:
        return {
            "field": field,
            "type": "quantitative",
            "scale": {"domain": [-0.5, tokens - 0.5], "nice": False},
            "axis": {"tickMinStep": 1, "format": "d", "tickCount": min(tokens, 8)},
            "title": title,
        }

    return {
        "height": 240,
        "data": {"name": "pairs"},
        "mark": {"type": "point", "filled": True, "opacity": 0.85},
        "encoding": {
            "x": axis("first", "token"),
            "y": axis("second", "other token"),
            "size": {
                "field": "size",
                "type": "quantitative",
                "scale": {"range": [40, 400]},
                "legend": None,
            },
            "color": {
                "field": "change",
                "type": "nominal",
                "scale": {
                    "domain": ["lost", "added"],
                    "range": ["var(--orange)", "var(--blue)"],
                },
            },
            "shape": {
                "field": "change",
                "type": "nominal",
                "scale": {"domain": ["lost", "added"], "range": ["circle", "diamond"]},
            },
            "tooltip": [
                {"field": "first", "title": "token"},
                {"field": "second", "title": "other token"},
                {"field": "target", "title": f"target ({measure})"},
                {"field": "model", "title": "model"},
            ],
        },
    }
