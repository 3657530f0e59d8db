"""Two versions side by side: their metrics by each protocol that both have, and the settings in which they differ."""

from collections.abc import Iterator, Mapping
from typing import Any

from ddpm.measuring.metric_catalogue import JUDGED
from ddpm.promotion.advice import name_option
from ddpm.promotion.registry import Version
from ddpm.reporting import measurements
from ddpm.reporting.markdown import Table, code, escaped, linked_image, table
from ddpm.reporting.origins import as_words, short
from ddpm.reporting.training_again import Spread

_HASHES = ("data_hash", "code_hash", "git_commit")


def metrics_tables(a: Version, b: Version, again: Spread | None = None) -> list[tuple[str, Table]]:
    """Return tables of metrics, each with its protocol in words; two records share a table only if they compare.

    `again` is what training again does to the metrics; a table of two records has it beside them. Raises UserError if
    a record is lost.
    """
    found, others = [], b.records()
    for record in a.records():
        same = next((other for other in others if not measurements.differing_keys(record, other)), None)
        if same is not None:
            others.remove(same)
        both = {_title(a): record} | ({} if same is None else {_title(b): same})
        found.append(_table(record, both, again if same is not None else None))
    return [*found, *(_table(other, {_title(b): other}) for other in others)]


def differences(a: Version, b: Version) -> Table:
    """Return a table of the settings of training, of sampling, and of the origin in which two versions differ."""
    one, other = dict(_settings(a)), dict(_settings(b))
    keys = [key for key in one | other if one.get(key) != other.get(key)]
    rows = [(key, one.get(key, ""), other.get(key, "")) for key in keys]
    return Table(("setting", _title(a), _title(b)), rows)


def page(a: Version, b: Version, *, picture: str, sampled: str, again: Spread | None = None) -> str:
    """Return the comparison in Markdown. `picture` is the file of the grids, `sampled` says how they arose."""
    parts = [f"# {escaped(a.name)}: version {escaped(a.number)} and version {escaped(b.number)}"]
    parts += [linked_image(sampled, picture), escaped(sampled)]
    for protocol, content in metrics_tables(a, b, again):
        parts += ["## Metrics", escaped(protocol), table(content)]
    parts.append(escaped(training_again_sentence(a, b, again)))
    differing = table(differences(a, b)) or "The known settings are equal."
    command = code(f"ddpm compare {a.number} {b.number}{name_option(a.name)}")
    return "\n\n".join([*parts, "## Differing settings", differing, f"Made by {command}."])


def training_again_sentence(a: Version, b: Version, again: Spread | None) -> str:
    """Return what the column of training again is, or how to get it."""
    if again is None:
        return "`ddpm spread` measures what training again with other seeds does to these metrics."
    return again.sentence([a, b])


def _table(
    reference: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]], again: Spread | None = None
) -> tuple[str, Table]:
    columns = {**records, **measurements.floors(reference)}
    rows = [
        (
            metric.heading,
            *(measurements.with_interval(each, metric) for each in columns.values()),
            *([] if again is None else [again.of(metric)]),
        )
        for metric in JUDGED
        if any(each.get(metric.name) is not None for each in records.values())
    ]
    only = "" if len(records) > 1 else f"Only {next(iter(records))} was measured like this: "
    return only + measurements.protocol_sentence(reference["protocol"]), Table(
        ("metric", *columns, *([] if again is None else ["training again"])), rows
    )


def _title(version: Version) -> str:
    return f"version {version.number}"


def _settings(version: Version) -> Iterator[tuple[str, str]]:
    origin = version.origin()
    for section, values in origin.get("params", {}).items():
        yield from _flat(section, values)
    for record in version.records()[:1]:
        yield from _flat("sample", record["protocol"].get("drawing", {}))
    for key in _HASHES:
        if origin.get(key):
            yield key, short(origin[key])
    yield "start", str(origin.get("start", {}).get("name", "untrained weights"))


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _flat(f"{name}.{key}", each)
    else:
        yield name, as_words(value)
