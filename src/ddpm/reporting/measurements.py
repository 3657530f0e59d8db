"""The metrics of a model beside the floor and the champion, and the protocols by which they were measured."""

from collections.abc import Iterable, Mapping
from string import ascii_uppercase
from typing import Any

from ddpm.measuring.metric_catalogue import JUDGED, Metric
from ddpm.promotion import gate
from ddpm.reporting.markdown import Table

_HASH_CHARACTERS = 8


def metrics_table(
    measured: Mapping[str, Any],
    champion: Mapping[str, Any] | None = None,
    *,
    title: str = "this model",
    champion_title: str = "champion",
    metrics: Iterable[Metric] = JUDGED,
) -> Table:
    """Return a table of the metrics that the record `measured` has, each with its spread, and of the floor.

    The champion's column is there if its record is given. Raises ValueError if that has another protocol, because its
    metrics do not compare.
    """
    if champion is not None and (differing := gate.differences(measured, champion)):
        raise ValueError(f"the champion was measured differently: {'; '.join(differing)}")
    columns = {title: measured} | ({} if champion is None else {champion_title: champion})
    columns["floor"] = measured.get("floor") or {}
    rows = [
        (f"{metric.label}, {metric.direction}", *(with_spread(record, metric) for record in columns.values()))
        for metric in metrics
        if measured.get(metric.name) is not None
    ]
    return Table(("metric", *columns), rows)


def with_spread(record: Mapping[str, Any], metric: Metric) -> str:
    """Return the metric of a record as text, with its spread if it has one; empty if the record lacks the metric."""
    value = record.get(metric.name)
    if value is None:
        return ""
    if metric.group == "copies":
        return f"{value:.2%}"
    spread = record.get(metric.spread)
    return f"{value:.4g} ± {spread:.2g}" if spread else f"{value:.4g}"


def metric_text(record: Mapping[str, Any], name: str) -> str:
    """Return a metric of the catalogue as text, with its spread; empty if the record lacks it."""
    return next((with_spread(record, metric) for metric in JUDGED if metric.name == name), "")


def protocol_sentence(protocol: Mapping[str, Any]) -> str:
    """Return the protocol in words: the numbers of images, the seed, the extractor and the reference."""
    parts = []
    if "n" in protocol:
        parts.append(
            f"{protocol['n']:,} generated images" + (f" (seed {protocol['seed']})" if "seed" in protocol else "")
        )
    if "reference_n" in protocol:
        parts.append(f"{protocol['reference_n']:,} held-out real images{_hash(protocol, 'reference_hash')}")
    if "extractor" in protocol:
        parts.append(f"extractor {protocol['extractor']}{_hash(protocol, 'extractor_hash')}")
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
