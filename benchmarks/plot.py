"""A plot as SVG, written by hand: a few panels side by side, lines over one logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

WIDTH, HEIGHT = 420, 320
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 40, 48
COLOURS = ("#1b6ca8", "#d1495b", "#6a994e", "#8d6a9f", "#7a6c5d")


@dataclass(frozen=True, slots=True)
class Panel:
    """``lines`` by name, each of (x, y) points with x above 0. ``log`` is for the y axis; ``limit`` is a line across, and its name."""

    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    log: bool = False
    limit: tuple[float, str] | None = None


def draw(path: Path, title: str, panels: Sequence[Panel]) -> None:
    """Write the panels to a file, side by side."""
    width = WIDTH * len(panels)
    size = f'width="{width}" height="{HEIGHT + 24}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        f'<rect {size} fill="white"/>',
        f'<text x="{LEFT}" y="18" font-size="14" font-weight="bold">{escape(title)}</text>',
    ]
    for at, panel in enumerate(panels):
        parts.append(f'<g transform="translate({at * WIDTH} 24)">{"".join(_panel(panel))}</g>')
    path.write_text("\n".join([*parts, "</svg>"]) + "\n", encoding="utf-8")


def _panel(panel: Panel) -> list[str]:
    xs = sorted({x for points in panel.lines.values() for x, _ in points})
    ys = [y for points in panel.lines.values() for _, y in points] + ([panel.limit[0]] if panel.limit else [])
    low, high = (min(y for y in ys if y > 0) / 1.5, max(ys) * 1.5) if panel.log else (0.0, max(ys) * 1.1 or 1.0)
    span = math.log(xs[-1] / xs[0]) or 1.0

    def across(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(x / xs[0]) / span

    def up(y: float) -> float:
        share = math.log(max(y, low) / low) / math.log(high / low) if panel.log else y / high
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    out = [f'<text x="{LEFT}" y="{TOP - 14}">{escape(panel.title)}</text>']
    for tick in _ticks(low, high, log=panel.log):
        y = up(tick)
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    out += [f'<text x="{across(x):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{x:g}</text>' for x in xs]
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 10}" text-anchor="middle">{escape(panel.x)}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    out.append(f'<text transform="translate(14 {middle:.0f}) rotate(-90)" text-anchor="middle">{escape(panel.y)}</text>')
    if panel.limit:
        y = up(panel.limit[0])
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#333" stroke-dasharray="4 3"/>')
        out.append(f'<text x="{WIDTH - RIGHT}" y="{y - 4:.1f}" text-anchor="end" fill="#333">{escape(panel.limit[1])}</text>')
    # The names stand where the lines are low, and below the limit.
    names = TOP + (26 if panel.limit else 14)
    falls = sum(points[0][1] - points[-1][1] for points in panel.lines.values()) > 0
    where = f'x="{WIDTH - RIGHT - 8}" text-anchor="end"' if falls else f'x="{LEFT + 8}"'
    for number, (name, points) in enumerate(panel.lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        traced = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points)
        out.append(f'<polyline points="{traced}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="3" fill="{colour}"/>' for x, y in points]
        out.append(f'<text {where} y="{names + 15 * number}" fill="{colour}">{escape(name)}</text>')
    return out


def _ticks(low: float, high: float, *, log: bool) -> list[float]:
    if log:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        return [step * 10**decade for decade in decades for step in (1, 2, 5) if low <= step * 10**decade <= high]
    step = 10 ** math.floor(math.log10(high / 2))
    step *= next((factor for factor in (1, 2, 5) if high / (step * factor) <= 6), 10)
    return [step * count for count in range(math.floor(high / step) + 1)]
