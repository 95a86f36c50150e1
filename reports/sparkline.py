"""The sparkline of a family: its deciding divergence by rising model calls, as a small drawing."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from capcheck.judging.profile import ProfilePoint
from capcheck.reports.charts.scale import TOP, place, said
from capcheck.results.measurement import Outcome

__all__ = ["HEIGHT", "WIDTH", "sparkline"]

WIDTH, HEIGHT = 76.0, 19.0  # of the drawing, in pixels
EDGE = 3.0  # around it, so that no mark is cut off
MOST = 12  # most marks; of more points, some at equal distances are drawn
TOP_SHOWN = 1e4  # multiple of the tolerance at the upper end


def sparkline(points: Sequence[ProfilePoint]) -> Markup:
    """The drawing of a profile, as SVG; empty if there is nothing to draw.

    The dashed line is the tolerance. Marks are full where the budget is representable, hollow where
    it is not, and small where it is undecided.
    """
    if not points:
        return Markup("")
    if len(points) > MOST:
        points = [points[round(k * (len(points) - 1) / (MOST - 1))] for k in range(MOST)]
    step = (WIDTH - 2 * EDGE) / max(len(points) - 1, 1)
    xs = [EDGE + step * k for k in range(len(points))]
    ys = [_down(point.multiple) for point in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    marks = Markup("").join(
        Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{}"/>').format(
            point.outcome.word, x, y, 1.8 if point.outcome is Outcome.INCONCLUSIVE else 2.6
        )
        for point, x, y in zip(points, xs, ys, strict=True)
    )
    told = "; ".join(f"{said(point.multiple)} at {_calls(point.calls)}" for point in points)
    return Markup(
        '<svg class="spark" viewBox="0 0 {:g} {:g}" width="{:g}" height="{:g}" role="img" '
        'aria-label="multiples of the tolerance: {}"><title>{}</title>'
        '<line class="tolerance" x1="0" x2="{:g}" y1="{:.1f}" y2="{:.1f}"/>'
        '<polyline points="{}"/>{}</svg>'
    ).format(WIDTH, HEIGHT, WIDTH, HEIGHT, told, told, WIDTH, _down(1), _down(1), line, marks)


def _down(multiple: float) -> float:
    """Distance of a multiple from the upper edge, in pixels."""
    inside = min(max(multiple, 0.0), TOP)
    whole = place(inside, TOP_SHOWN, HEIGHT - 2 * EDGE, linear=False)
    zero = place(0.0, TOP_SHOWN, HEIGHT - 2 * EDGE, linear=False)
    return EDGE + whole * (HEIGHT - 2 * EDGE) / zero


def _calls(count: int) -> str:
    return f"{count:,} call{'s' if count != 1 else ''}"
