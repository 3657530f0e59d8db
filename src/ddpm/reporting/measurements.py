"""The metrics of a model beside the floor and the champion, and the protocols by which they were measured."""

import math
from collections.abc import Iterable, Mapping
from string import ascii_uppercase
from typing import Any

from ddpm.measuring.metric_catalogue import JUDGED, Metric
from ddpm.promotion import gate
from ddpm.reporting.markdown import Table

_HASH_CHARACTERS = 8
LEGEND = "floor: real images, measured the same way; in brackets: interval of 95 %, without what training again changes"
"""The line below the printed metrics."""
RECONSTRUCTED = (
    "reconstructed: real images after the autoencoder, measured the same way; no model of its latents is expected to "
    "be better"
)
"""The line below the metrics of a model of latents."""


def metrics_table(
    measured: Mapping[str, Any],
    champion: Mapping[str, Any] | None = None,
    *,
    title: str = "this model",
    champion_title: str = "champion",
    metrics: Iterable[Metric] = JUDGED,
) -> Table:
    """Return a table of the metrics that the record `measured` has, each with its interval, and of the floor.

    The champion's column is there if its record is given. Raises ValueError if that has another protocol, because its
    metrics do not compare.
    """
    if champion is not None and (differing := gate.differences(measured, champion)):
        raise ValueError(f"the champion was measured differently: {'; '.join(differing)}")
    columns = {title: measured} | ({} if champion is None else {champion_title: champion})
    columns |= floors(measured)
    rows = [
        (metric.heading, *(with_interval(record, metric) for record in columns.values()))
        for metric in metrics
        if measured.get(metric.name) is not None
    ]
    return Table(("metric", *columns), rows)


def floors(record: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the metrics of real images by title: those as they are, and of a model of latents also reconstructed."""
    found: dict[str, Mapping[str, Any]] = {"floor": record.get("floor") or {}}
    return found | ({"reconstructed": record["reconstructed"]} if "reconstructed" in record else {})


def metrics_lines(record: Mapping[str, Any]) -> list[str]:
    """Return the metrics that the record or its floor has as aligned lines for a terminal, with a line of titles."""
    columns = {"model": record} | floors(record)
    rows = [
        (metric.label, *(with_interval(each, metric) or "-" for each in columns.values()), metric.direction)
        for metric in JUDGED
        if any(each.get(metric.name) is not None for each in columns.values())
    ]
    rows = [("", *columns, ""), *rows]
    widths = [max(len(row[k]) for row in rows) + 2 for k in range(len(columns) + 1)]
    lines = ["".join(f"{cell:{width}}" for cell, width in zip(row, [*widths, 0], strict=True)).rstrip() for row in rows]
    decoded = RECONSTRUCTED if "reconstructed" in columns else ""
    return [*lines, "", LEGEND, *filter(None, [decoded, left_out_sentence(record)])]


def left_out_sentence(record: Mapping[str, Any]) -> str:
    """Return a sentence on the classes that classes_covered leaves out; empty if there are none."""
    number = record.get("classes_left_out")
    if not number:
        return ""
    which = "1 class, which" if number == 1 else f"{number:,} classes, which"
    return f"Classes covered leaves out {which} the extractor names on no held-out image."


def with_interval(record: Mapping[str, Any], metric: Metric) -> str:
    """Return the metric of a record as text, such as "0.472 (0.44 to 0.50)"; empty if the record lacks the metric.

    The ends of the interval of 95 % have as many decimals as its width is worth.
    """
    value, interval = record.get(metric.name), (record.get("interval") or {}).get(metric.name)
    if value is None:
        return ""
    as_share = metric.group == "copies"
    shown = f"{value:.2%}" if as_share else f"{value:.4g}"
    if not interval:
        return shown
    low, high = (interval[end] * (100 if as_share else 1) for end in ("low", "high"))
    unit = "%" if as_share else ""
    form = f".{_decimals(high - low)}f" if high > low else ".4g"
    return f"{shown} ({low:{form}}{unit} to {high:{form}}{unit})"


def _decimals(width: float) -> int:
    """Return how many decimals give two digits of an interval's width, which is above 0."""
    return max(0, 1 - math.floor(math.log10(width)))


def metric_text(record: Mapping[str, Any], name: str) -> str:
    """Return a metric of the catalogue as text, with its interval; empty if the record lacks it."""
    return next((with_interval(record, metric) for metric in JUDGED if metric.name == name), "")


def disagreement(measured: Mapping[str, Any], champion: Mapping[str, Any]) -> str | None:
    """Return a sentence if by one extractor a record is better than the champion's and by the other worse, else None.

    Both records have the same protocol. Lower is better for the metrics of both extractors, FID and KID.
    """
    for metric in JUDGED:
        names = (metric.name, f"{metric.name}_second")
        if any(record.get(name) is None for record in (measured, champion) for name in names):
            continue
        gains = [champion[name] - measured[name] for name in names]
        if gains[0] * gains[1] >= 0:
            continue
        protocol = measured.get("protocol") or {}
        first, second = ((protocol.get(key) or {}).get("name", key) for key in ("extractor", "second"))
        words = ["better" if gain > 0 else "worse" for gain in gains]
        return (
            f"The two extractors disagree: {metric.label} is {words[0]} than the champion's by {first}, but "
            f"{words[1]} by {second}."
        )
    return None


def protocol_sentence(protocol: Mapping[str, Any]) -> str:
    """Return the protocol in words: the numbers of images, the seed, the extractor and the reference."""
    parts = []
    if "n" in protocol:
        parts.append(
            f"{protocol['n']:,} generated images" + (f" (seed {protocol['seed']})" if "seed" in protocol else "")
        )
    if "reference_n" in protocol:
        parts.append(f"{protocol['reference_n']:,} held-out real images{_hash(protocol, 'reference_hash')}")
    extractor = protocol.get("extractor")
    if isinstance(extractor, Mapping):
        parts.append(f"extractor {extractor['name']}{_hash(extractor, 'sha256')}")
    elif extractor is not None:  # a registry keeps records of former versions of this project
        parts.append(f"extractor {extractor} (a record of an older form)")
    if second := protocol.get("second"):
        parts.append(f"second extractor {second['name']}{_hash(second, 'sha256')}")
    if "torch_fidelity" in protocol:
        parts.append(f"torch-fidelity {protocol['torch_fidelity']}")
    return ", ".join(parts)


class Protocols:
    """Letters for protocols, so that metrics of different protocols in one table are told apart."""

    def __init__(self) -> None:
        self._seen: list[Mapping[str, Any]] = []

    def letter(self, record: Mapping[str, Any]) -> str:
        """Return the letter of the record's protocol: A for the first one, and the same for those that compare."""
        for k, other in enumerate(self._seen):
            if not gate.differences(record, other):
                return _letter(k)
        self._seen.append(record)
        return _letter(len(self._seen) - 1)

    def legend(self) -> list[str]:
        """Return a sentence for each protocol; the later ones also name every difference from the first."""
        lines = []
        for k, record in enumerate(self._seen):
            line = f"protocol {_letter(k)}: {protocol_sentence(record['protocol'])}"
            if k:
                line += f"; it differs from A in {', '.join(differing_keys(record, self._seen[0]))}"
            lines.append(line)
        return lines


def differing_keys(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Return the keys in which the protocols of two records differ, without those that may differ."""
    return [difference.partition(":")[0] for difference in gate.differences(a, b)]


def _letter(k: int) -> str:
    return ascii_uppercase[k] if k < len(ascii_uppercase) else f"{ascii_uppercase[k % 26]}{k // 26}"


def _hash(protocol: Mapping[str, Any], key: str) -> str:
    return f" ({protocol[key][:_HASH_CHARACTERS]})" if protocol.get(key) else ""
