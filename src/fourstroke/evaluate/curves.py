"""Curves of a run's log as inline SVG, for pages that need no server."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

POINTS = 400
"""So many points at most does a curve have; of more, neighbours are averaged."""

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 360, 190, 46, 22, 10

Series = list[tuple[float, float]]

STYLE = """
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1.2rem }
.curves figcaption { display: flex; justify-content: space-between; font-weight: 600 }
.curves figcaption span { color: var(--quiet); font-weight: 400; font-variant-numeric: tabular-nums }
svg { width: 100%; height: auto; display: block } svg text { font-size: 11px; fill: var(--quiet) }
.grid { stroke: var(--line); stroke-width: 1 } .curve { stroke: var(--accent); stroke-width: 1.6; fill: none }
.dot { fill: var(--accent) }
"""
"""Of a page that gives the colours --quiet, --line and --accent."""


def curves(rows: Sequence[dict[str, Any]]) -> dict[str, Series]:
    """By name, the (step, value) of all numbers in rows of a log; where a step was done twice, the later one's."""
    found: dict[str, dict[float, float]] = {}
    for row in rows:
        for name, value in row.items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if number and name not in ("step", "seconds"):
                found.setdefault(name, {})[row["step"]] = value
    return {name: sorted(points.items()) for name, points in found.items()}


def figure(name: str, points: Series) -> str:
    """A curve with its axes: steps to the right, values upwards; the last value stands beside the name."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    ticks = _ticks(min(ys), max(ys))
    low, high, first, last = min(*ys, ticks[0]), max(*ys, ticks[-1]), min(xs), max(xs)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - first) / (last - first) if last > first else 0.5
        up = (y - low) / (high - low) if high > low else 0.5
        return LEFT + across * (WIDTH - LEFT - 8), HEIGHT - BOTTOM - up * (HEIGHT - BOTTOM - TOP)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(name)}">']
    for tick in ticks:
        y = place(first, tick)[1]
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - 8}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_tick(tick, ticks)}</text>')
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
    parts.append(f'<polyline class="curve" points="{path}"/>')
    if len(points) < 40:
        dots = (place(*point) for point in points)
        parts += [f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="2.4"/>' for x, y in dots]
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 6}">{_short(first)}</text>')
    parts.append(f'<text x="{WIDTH - 8}" y="{HEIGHT - 6}" text-anchor="end">step {_short(last)}</text></svg>')
    caption = f"<figcaption>{html.escape(name)} <span>{_short(ys[-1])}</span></figcaption>"
    return f"<figure>{caption}{''.join(parts)}</figure>\n"


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers that span the values."""
    if high <= low:
        return [low]
    step = 10 ** math.floor(math.log10((high - low) / 3))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 4)
    return [round(k * step, 12) for k in range(math.floor(low / step), math.ceil(high / step) + 1)]


def _tick(value: float, ticks: Sequence[float]) -> str:
    """A tick with as many digits as tell it from its neighbours."""
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 0.0
    if not 1e-3 <= step < 1e6:
        return _short(value)
    return f"{value:.{max(0, -math.floor(math.log10(step)))}f}"


def _short(value: float) -> str:
    return f"{value:.0f}" if value == int(value) and abs(value) < 1e6 else f"{value:.3g}"


def thin(points: Series) -> Series:
    """Means of neighbours where there are more points than a screen shows."""
    size = math.ceil(len(points) / POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)] if size > 1 else None
    if groups is None:
        return points
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]
