"""The picture of the reactions: damaged images with the FID of each step below, and every metric by step."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from ddpm.calibrating.damages import SHOWN
from ddpm.calibrating.reactions import Reactions
from ddpm.measuring.metric_catalogue import JUDGED, Metric

_ACROSS = 5
"""Images beside each other in a tile of ten."""
_CHARTS = 6
"""Charts beside each other."""
_COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b")
_DPI = 80
_CHART_INCHES = 1.5
_MANY = 20
"""Metrics with larger values have a logarithmic axis."""
_TEXT, _BETWEEN = 18, 14
"""Height of a line of text and distance between two tiles, in pixels."""
_HIT = (214, 39, 40)
_GAP = 3
"""Pixels between the images of a tile, in which the frame of a damaged one is drawn."""
_SHOWN_PIXELS = 32
"""Smaller images are enlarged by a whole factor, to about this height."""


def draw(path: Path, found: Reactions) -> None:
    """Write a PNG: a row for each damage, a column for each step, and a chart for each metric."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metrics = [metric for metric in JUDGED if any(each.metric == metric.name for each in found.reactions)]
    tiles, (left, top, row_height, column_width) = _tiles(found)
    charts = -(-len(metrics) // _CHARTS)
    width, height = tiles.shape[1] / _DPI, tiles.shape[0] / _DPI + _CHART_INCHES * charts + 0.4
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    figure.figimage(tiles, 0, round(height * _DPI) - tiles.shape[0], resize=False)

    def write(x: float, y: float, text: str, **options: Any) -> None:
        """Write at this pixel of the tiles, from the upper left corner."""
        figure.text(x / _DPI / width, 1 - y / _DPI / height, text, **options)

    write(
        tiles.shape[1] / 2,
        4,
        f"Real images, damaged on purpose (FID of {found.n:,} training images against {found.reference_n:,} held-out "
        "ones; red: the damaged ones)",
        fontsize=9,
        fontweight="bold",
        ha="center",
        va="top",
    )
    for row, damage in enumerate(found.damages):
        y = top + row * row_height
        write(
            4,
            y + row_height / 2 - 10,
            textwrap.fill(damage.title, 12),
            fontsize=9,
            fontweight="bold",
            color=_COLOURS[row % len(_COLOURS)],
            va="center",
        )
        name = "memorized_share" if damage.name == "copies" else "fid"
        values = found.of(name, damage.name)
        for column, caption in enumerate(damage.captions):
            x = left + column * column_width + (column_width - _BETWEEN) / 2
            write(x, y - 3, caption, fontsize=8, ha="center", va="bottom")
            if values:
                below = y + row_height - _TEXT * 2 + 3
                write(
                    x, below, _below(name, values[column].value), fontsize=9, fontweight="bold", ha="center", va="top"
                )
    _draw_charts(figure, found, metrics, height=height, lines=charts)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI)


def _below(name: str, value: float) -> str:
    return f"copies by pixels {value:.1%}" if name == "memorized_share" else f"FID {value:.3g}"


def _tiles(found: Reactions) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """Return the tiles of all damages and steps as one picture, uint8 [H,W,3], with room for texts.

    The numbers are the left and upper border, the height of a row and the width of a column, in pixels.
    """
    rows = [[tile(*step) for step in zip(damage.images, damage.hit, strict=True)] for damage in found.damages]
    height, width = rows[0][0].shape[:2]
    left, top, row_height, column_width = 84, 40, height + 2 * _TEXT, width + _BETWEEN
    columns = max(len(row) for row in rows)
    whole = np.full((top + len(rows) * row_height, left + columns * column_width, 3), 255, np.uint8)
    for k, row in enumerate(rows):
        for column, picture in enumerate(row):
            y, x = top + k * row_height, left + column * column_width
            whole[y : y + height, x : x + width] = picture
    return whole, (left, top, row_height, column_width)


def tile(images: np.ndarray, framed: np.ndarray) -> np.ndarray:
    """Return images, uint8 [n,C,H,W], as one picture, uint8 [H,W,3]; those of `framed`, bool [n], have a red frame."""
    factor = max(1, round(_SHOWN_PIXELS / images.shape[2]))
    images = images.repeat(factor, axis=2).repeat(factor, axis=3).transpose(0, 2, 3, 1)
    images = np.broadcast_to(images, (*images.shape[:3], 3))
    height, width = images.shape[1] + _GAP, images.shape[2] + _GAP
    lines = -(-SHOWN // _ACROSS)
    whole = np.full((lines * height + _GAP, _ACROSS * width + _GAP, 3), 255, np.uint8)
    for k, (image, red) in enumerate(zip(images, framed, strict=True)):
        top, left = (k // _ACROSS) * height, (k % _ACROSS) * width
        if red:
            whole[top : top + height + _GAP, left : left + width + _GAP] = _HIT
        whole[top + _GAP : top + height, left + _GAP : left + width] = image
    return whole


def _draw_charts(figure: Any, found: Reactions, metrics: list[Metric], *, height: float, lines: int) -> None:
    """Draw a chart for each metric below the tiles; `height` is that of the figure, in inches."""
    figure.text(
        0.5,
        (_CHART_INCHES * lines + 0.15) / height,
        "Every metric by step, from no damage to the heaviest (thick: the metric must react; band: interval of 95 %)",
        fontsize=9,
        fontweight="bold",
        ha="center",
    )
    for k, metric in enumerate(metrics):
        line, column = divmod(k, _CHARTS)
        bottom = (_CHART_INCHES * (lines - line - 1) + 0.15) / height
        chart = figure.add_axes(((column + 0.2) / _CHARTS, bottom, 0.76 / _CHARTS, (_CHART_INCHES - 0.45) / height))
        _draw_chart(chart, found, metric)


def _draw_chart(chart: Any, found: Reactions, metric: Metric) -> None:
    is_unfit = metric.name in found.unfit
    chart.set_title(
        f"{metric.label}: unfit" if is_unfit else metric.label, fontsize=8, color="red" if is_unfit else "black", pad=3
    )
    own = {each.damage: each for each in found.reactions if each.metric == metric.name}
    largest = max(abs(measured.value) for each in own.values() for measured in each.measured)
    if largest > _MANY:
        chart.set_yscale("symlog", linthresh=1)
    chart.tick_params(labelsize=6, length=2, pad=1)
    chart.set_xticks([])
    for row, damage in enumerate(found.damages):
        if damage.name not in own:
            continue
        measured, must = own[damage.name].measured, own[damage.name].expected
        colour = _COLOURS[row % len(_COLOURS)]
        chart.plot([each.value for each in measured], color=colour, linewidth=2 if must else 0.7)
        if must:
            low, high = [each.low for each in measured], [each.high for each in measured]
            chart.fill_between(range(len(measured)), low, high, color=colour, alpha=0.2, linewidth=0)
