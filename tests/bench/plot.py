"""Plots of measured points as small SVG files that read well on light and on dark ground.

Each panel has the points of its series, and a line through the medians of what was measured at the same place. The
same input gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from statistics import median

WIDTH, HEIGHT = 800, 320
PANEL_WIDTH, PANEL_HEIGHT = 320, 215
LEFT, TOP, GAP = 60, 50, 80
TICKS = 5

STYLE = (
    "svg{color:#222;font:12px sans-serif}text{fill:currentColor}.a{stroke:currentColor;fill:none}"
    ".g{stroke:currentColor;opacity:.15}.l{fill:none;stroke-width:1.5}.p{fill:none;stroke-width:5;stroke-linecap:round;"
    "opacity:.6}.s0{stroke:#1b7fbd}.s1{stroke:#d9730d}@media(prefers-color-scheme:dark){svg{color:#ddd}}"
)


@dataclass(frozen=True)
class Series:
    """Measured points (x, y); a place x comes as often as it was measured."""

    name: str
    points: Sequence[tuple[float, float]]

    def medians(self) -> list[tuple[float, float]]:
        places = sorted({x for x, _ in self.points})
        return [(place, median(y for x, y in self.points if x == place)) for place in places]


@dataclass(frozen=True)
class Panel:
    """At most two series in one unit, which is the label of the upright axis."""

    label: str
    series: Sequence[Series]


def svg(title: str, x_label: str, panels: Sequence[Panel]) -> str:
    """Two panels beside each other; all values are 0 or more, and the axes begin at 0."""
    body = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<text x="{LEFT}" y="18" font-weight="bold">{escape(title)}</text>',
    ]
    for number, panel in enumerate(panels):
        body += drawn(panel, x_label, LEFT + number * (PANEL_WIDTH + GAP))
    return "\n".join([*body, "</svg>"]) + "\n"


def drawn(panel: Panel, x_label: str, left: int) -> list[str]:
    bottom, right = TOP + PANEL_HEIGHT, left + PANEL_WIDTH
    x_ticks = ticks(max(x for series in panel.series for x, _ in series.points))
    y_ticks = ticks(max(y for series in panel.series for _, y in series.points))

    def across(x: float) -> str:
        return number_text(left + PANEL_WIDTH * x / x_ticks[-1])

    def up(y: float) -> str:
        return number_text(bottom - PANEL_HEIGHT * y / y_ticks[-1])

    lines = []
    for y in y_ticks:
        lines.append(f'<path class="g" d="M{left} {up(y)}H{right}"/>')
        lines.append(f'<text x="{left - 6}" y="{up(y)}" dy="4" text-anchor="end">{y:g}</text>')
    for x in x_ticks:
        lines.append(f'<path class="g" d="M{across(x)} {TOP}V{bottom}"/>')
        lines.append(f'<text x="{across(x)}" y="{bottom + 17}" text-anchor="middle">{x:g}</text>')
    lines.append(f'<path class="a" d="M{left} {TOP}V{bottom}H{right}"/>')
    middle = left + PANEL_WIDTH // 2
    lines.append(f'<text x="{middle}" y="{bottom + 38}" text-anchor="middle">{escape(x_label)}</text>')
    lines.append(f'<text x="{left}" y="{TOP - 10}">{escape(panel.label)}</text>')
    for number, series in enumerate(panel.series):
        # Of two series the second has a dashed line, for those who do not see the colours.
        dashes = ' stroke-dasharray="6 4"' if number else ""
        line = "L".join(f"{across(x)} {up(y)}" for x, y in series.medians())
        points = "".join(f"M{across(x)} {up(y)}h0" for x, y in sorted(series.points))
        lines.append(f'<path class="l s{number}"{dashes} d="M{line}"/><path class="p s{number}" d="{points}"/>')
        key, text = right - 200 + number * 100, TOP - 14
        lines.append(f'<path class="l s{number}"{dashes} d="M{key} {text}h24"/>')
        lines.append(f'<text x="{key + 30}" y="{text + 4}">{escape(series.name)}</text>')
    return lines


def ticks(highest: float) -> list[float]:
    """From 0 to at least `highest`, in steps of 1, 2 or 5 times a power of ten."""
    if highest <= 0:
        return [0, 1]
    power = 10.0 ** math.floor(math.log10(highest / TICKS))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power * TICKS >= highest * (1 - 1e-9))
    return [number * step for number in range(math.ceil(highest / step - 1e-9) + 1)]


def number_text(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
