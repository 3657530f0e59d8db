"""The picture of a drift: the pictures most unlike the other set, and each distance beside those of equal data."""

from pathlib import Path
from typing import Any

import numpy as np

from ddpm.calibrating.reactions_picture import tile
from ddpm.drifting.drift import LABELS, Drift, Set
from ddpm.drifting.two_samples import Compared

_ACROSS = 4
"""Charts beside each other."""
_MOST_CLASSES = 20
"""Classes in the chart of their shares: the ones whose shares differ most."""
_OWN, _REFERENCE, _DRIFTED = "#d62728", "#1f77b4", "#d62728"


def draw(path: Path, found: Drift) -> None:
    """Write a PNG: pictures of both sets, distributions of both sets, and a chart for each distance."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    compared = found.answer.compared
    figure = Figure(figsize=(14, 8), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    verdict = "drifted" if found.answer.drifted else "no drift"
    figure.suptitle(
        f"{verdict}: {len(found.incoming.sample):,} incoming pictures (red) against "
        f"{len(found.reference.sample):,} held-out ones of the data (blue); p {found.answer.p:.2g}"
    )
    lines = -(-len(compared) // _ACROSS)
    rows: Any = figure.subfigures(2, 1, height_ratios=(1, lines))
    top = rows[0].subplots(1, _ACROSS)
    _show(top[0], found.incoming, "incoming, most unlike the data")
    _show(top[1], found.reference, "held out, most unlike the incoming")
    _distributions(top[2], found, "brightness", "mean grey level")
    if any(each.name == "shares" for each in compared):
        _shares(top[3], found)
    else:
        _distributions(top[3], found, "side", "shorter side in pixels")
    charts = np.ravel(rows[1].subplots(lines, _ACROSS))
    for chart, each in zip(charts, compared, strict=False):
        _distance(chart, each)
    for chart in charts[len(compared) :]:
        chart.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _show(chart: Any, shown: Set, title: str) -> None:
    chart.imshow(tile(shown.images, np.zeros(len(shown.images), bool)), interpolation="nearest")
    chart.set_title(title, fontsize=9)
    chart.axis("off")


def _distributions(chart: Any, found: Drift, name: str, label: str) -> None:
    values = [getattr(each.sample, name) for each in (found.reference, found.incoming)]
    edges = np.histogram_bin_edges(np.concatenate(values), 20)
    for value, colour in zip(values, (_REFERENCE, _OWN), strict=True):
        chart.hist(value, edges, density=True, color=colour, alpha=0.5)
    chart.set_title(name, fontsize=9)
    chart.set_xlabel(label, fontsize=8)
    chart.set_yticks([])


def _shares(chart: Any, found: Drift) -> None:
    """Draw the shares of the classes, beginning with the one that differs most."""
    sets = [np.array(each.sample.classes) for each in (found.reference, found.incoming)]
    names = np.unique(np.concatenate(sets))
    shares = np.array([[np.mean(each == name) for name in names] for each in sets])
    order = np.argsort(-np.abs(shares[1] - shares[0]), kind="stable")[:_MOST_CLASSES]
    place = np.arange(len(order))
    for share, shift, colour in zip(shares, (-0.2, 0.2), (_REFERENCE, _OWN), strict=True):
        chart.bar(place + shift, share[order], 0.4, color=colour)
    chart.set_xticks(place, [name[:12].replace("$", r"\$") for name in names[order]], rotation=60, fontsize=7)
    chart.set_title("class shares", fontsize=9)


def _distance(chart: Any, compared: Compared) -> None:
    """Draw the distances of random divisions, the threshold (dashed) and the observed distance."""
    chart.hist(compared.alike, 30, color="lightgrey")
    chart.axvline(compared.threshold, color="black", linestyle="--", linewidth=1)
    chart.axvline(compared.value, color=_DRIFTED if compared.drifted else "green", linewidth=2)
    chart.set_title(f"{LABELS[compared.name]}: {'drifted' if compared.drifted else 'no drift'}", fontsize=9)
    chart.set_yticks([])
    chart.tick_params(labelsize=7)
