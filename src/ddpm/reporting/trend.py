"""The metric of every version over time, with its interval and the champion's line: a picture, and Markdown."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ddpm.measuring.metric_catalogue import Metric
from ddpm.promotion.registry import RECORDS, Version
from ddpm.promotion.succession import Move
from ddpm.reporting.decisions import verdict
from ddpm.reporting.markdown import Table, escaped, table
from ddpm.reporting.measurements import Protocols, with_interval

SHOWN = 50
"""Number of versions that are shown, the newest ones."""
_GREEN, _GREY, _BLUE = "#2ca02c", "#8c8c8c", "#1f77b4"


@dataclass(frozen=True)
class Point:
    """A version, its record, and the version that was champion after it was judged."""

    version: Version
    record: dict[str, Any]
    compares: bool
    """Whether the record has the protocol of the newest version."""
    champion: str | None


def points(versions: Sequence[Version], moves: Sequence[Move]) -> list[Point]:
    """Return the newest SHOWN versions that have a record, oldest first. `versions` is newest first."""
    measured = [(version, version.record() or {}) for version in _measured(versions)[:SHOWN]]
    found: list[Point] = []
    until = None
    for version, record in measured:
        like = version.record_like(measured[0][1])
        found.append(Point(version, like or record, like is not None, _champion(moves, until)))
        until = version.created
    return found[::-1]


def page(versions: Sequence[Version], moves: Sequence[Move], metric: Metric) -> str | None:
    """Return Markdown with the picture and the table; None if no version has a record."""
    found = points(versions, moves)
    if not found:
        return None
    data = base64.b64encode(picture(found, metric)).decode()
    title = f"{metric.label} of every retraining, {metric.direction}"
    lines = [f"# {escaped(title)}", "", f"![{escaped(title)}](data:image/png;base64,{data})", ""]
    hidden = len(_measured(versions)) - len(found)
    if hidden:
        lines += [f"The {len(found)} newest versions are shown, and {hidden} older ones are not.", ""]
    protocols = Protocols()
    for point in reversed(found):  # the newest has the letter A
        protocols.letter(point.record)
    rows = [_row(point, metric, protocols) for point in reversed(found)]
    head = ("date (UTC)", "version", metric.label, "floor", "decision", "champion then", "protocol")
    lines += [table(Table(head, rows)), ""]
    lines += [f"- {escaped(sentence)}" for sentence in protocols.legend()]
    return "\n".join(lines) + "\n"


def picture(found: Sequence[Point], metric: Metric) -> bytes:
    """Return a PNG: a point with its interval for each version, and the champion's metric as a line of steps.

    Versions that were measured by another protocol are grey, because their metrics do not compare.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    for compares, colour, label in ((True, _BLUE, "version"), (False, _GREY, "by another protocol")):
        here = [(k, _value(p, metric), p.record) for k, p in enumerate(found) if p.compares == compares]
        shown = [(k, value, *_reach(record, metric, value)) for k, value, record in here if value is not None]
        if shown:
            x, y, below, above = zip(*shown, strict=True)
            axes.errorbar(x, y, yerr=(below, above), fmt="o", color=colour, capsize=4, label=label)
    values = {point.version.number: _value(point, metric) for point in found if point.compares}
    line = [values.get(point.champion or "") for point in found]
    if any(value is not None for value in line):
        steps = [float("nan") if value is None else value for value in line]
        axes.step(
            [*range(len(steps)), len(steps) - 0.5], [*steps, steps[-1]], where="post", color=_GREEN, label="champion"
        )
    floors = [point.record.get("floor", {}).get(metric.name) for point in found if point.compares]
    if floors and floors[-1] is not None:
        axes.axhline(floors[-1], color="black", linestyle=":", linewidth=1, label="floor")
    stride = max(1, len(found) // 12)
    ticks = list(range(0, len(found), stride))
    axes.set_xticks(ticks, [f"{found[k].version.number}\n{found[k].version.created:%m-%d %H:%M}" for k in ticks])
    axes.set_xlim(-0.5, len(found) - 0.5)
    axes.set_xlabel("version")
    axes.set_ylabel(f"{metric.label} ({metric.direction})")
    axes.grid(alpha=0.3)
    axes.legend(loc="best")
    written = io.BytesIO()
    figure.savefig(written, format="png")
    return written.getvalue()


def _measured(versions: Sequence[Version]) -> list[Version]:
    return [version for version in versions if version.tags.get(RECORDS)]


def _champion(moves: Sequence[Move], until: datetime | None) -> str | None:
    """Return the version that was champion just before this time, or is now."""
    before = [move for move in moves if until is None or datetime.fromisoformat(move.when) < until]
    return before[-1].version if before else None


def _value(point: Point, metric: Metric) -> float | None:
    value = point.record.get(metric.name)
    return float(value) if isinstance(value, int | float) else None


def _reach(record: Mapping[str, Any], metric: Metric, value: float) -> tuple[float, float]:
    """Return how far the interval reaches below and above the value; 0 without one."""
    interval = (record.get("interval") or {}).get(metric.name)
    return (max(0.0, value - interval["low"]), max(0.0, interval["high"] - value)) if interval else (0.0, 0.0)


def _row(point: Point, metric: Metric, protocols: Protocols) -> tuple[str, ...]:
    return (
        f"{point.version.created.astimezone(UTC):%Y-%m-%d %H:%M}",
        point.version.number,
        with_interval(point.record, metric),
        with_interval(point.record.get("floor") or {}, metric),
        verdict(point.version),
        point.champion or "none",
        protocols.letter(point.record),
    )
