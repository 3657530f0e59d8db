"""Charts as inline SVG, whose colours follow the page (light, dark, print)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddpm.rendering.page import fragment

if TYPE_CHECKING:
    from markupsafe import Markup

WIDTH, HEIGHT = 480, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 40
_POINTS = 400
"""Longest line; more points are thinned out evenly."""


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


def histogram(
    counts: Sequence[int],
    edges: Sequence[float],
    *,
    title: str,
    x_label: str,
    limits: Sequence[float] = (),
    tick_labels: Sequence[str] | None = None,
) -> "Markup":
    """Return bars of `counts` [B] between `edges` [B+1], with dashed lines at `limits`.

    `tick_labels` [B] name the bars themselves, for bars that stand for one value each.
    """
    low, high = edges[0], edges[-1]
    top = max(*counts, 1)
    bars = []
    for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
        x, end = _scaled(left, low, high), _scaled(right, low, high)
        height = (HEIGHT - _TOP - _BOTTOM) * count / top
        bars.append((x, HEIGHT - _BOTTOM - height, max(end - x - 1, 1), height, f"{left:g} to {right:g}: {count:,}"))
    if tick_labels is None:
        x_ticks = [Tick(_scaled(value, low, high), f"{value:g}") for value in _round_values(low, high)]
    else:
        every = -(-len(tick_labels) // 8)
        x_ticks = [
            Tick((_scaled(edges[k], low, high) + _scaled(edges[k + 1], low, high)) / 2, label)
            for k, label in enumerate(tick_labels)
            if k % every == 0
        ]
    y_ticks = [
        Tick(HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * value / top, f"{value:,.0f}")
        for value in _round_values(0, top)
        if value == int(value)
    ]
    marks = [_scaled(limit, low, high) for limit in limits if low <= limit <= high]
    return fragment(
        "histogram.svg", bars=bars, x_ticks=x_ticks, y_ticks=y_ticks, marks=marks, **_frame(title, x_label, "images")
    )


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]], *, title: str, x_label: str, y_label: str, log_y: bool = False
) -> "Markup":
    """Return a line for each series of (x, y), at most four; with `log_y`, y must be positive."""
    points = [point for line in series.values() for point in line]
    if not points:
        return fragment("no_chart.html", title=title)
    xs, ys = [x for x, _ in points], [math.log10(y) if log_y else y for _, y in points]
    low_x, high_x = min(xs), max(xs)
    low_y, high_y = min(ys), max(ys)
    margin = 0.05 * (high_y - low_y) or 0.5
    low_y, high_y = low_y - margin, high_y + margin

    def y_at(value: float) -> float:
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * (value - low_y) / (high_y - low_y)

    single = all(len(line) <= 1 for line in series.values())  # drawn as points
    drawn = []
    for name, line in series.items():
        stride = -(-len(line) // _POINTS) if line else 1
        kept = [*line[::stride], *line[-1:]]
        path = " ".join(f"{_scaled(x, low_x, high_x):.1f},{y_at(math.log10(y) if log_y else y):.1f}" for x, y in kept)
        drawn.append((name, path))
    values = _log_values(low_y, high_y) if log_y else [(v, f"{v:g}") for v in _round_values(low_y, high_y)]
    y_ticks = [Tick(y_at(value), label) for value, label in values]
    x_ticks = [Tick(_scaled(value, low_x, high_x), _short(value)) for value in _round_values(low_x, high_x)]
    return fragment(
        "lines.svg", drawn=drawn, single=single, x_ticks=x_ticks, y_ticks=y_ticks, **_frame(title, x_label, y_label)
    )


def _frame(title: str, x_label: str, y_label: str) -> dict[str, object]:
    box = {"left": _LEFT, "right": WIDTH - _RIGHT, "top": _TOP, "bottom": HEIGHT - _BOTTOM}
    return {"title": title, "x_label": x_label, "y_label": y_label, "width": WIDTH, "height": HEIGHT, "box": box}


def _scaled(value: float, low: float, high: float) -> float:
    return _LEFT + (WIDTH - _LEFT - _RIGHT) * (value - low) / ((high - low) or 1)


def _round_values(low: float, high: float) -> list[float]:
    """Return about five round numbers in [low, high]."""
    span = (high - low) or 1.0
    step = 10.0 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 5)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 10) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_values(low: float, high: float) -> list[tuple[float, str]]:
    """Return (log10 of the value, label) for 1, 2 and 5 times powers of ten in the range."""
    exponents = range(math.floor(low), math.ceil(high) + 1)
    factors = (1, 2, 5) if high - low < 2.5 else (1,)
    values = [factor * 10.0**exponent for exponent in exponents for factor in factors]
    return [(math.log10(value), f"{value:g}") for value in values if low <= math.log10(value) <= high]


def _short(value: float) -> str:
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"
