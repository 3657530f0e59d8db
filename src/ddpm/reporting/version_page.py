"""The page of a version: decision, samples, metrics, sampling settings, data, lineage and how to use it."""

from collections.abc import Iterable, Mapping
from typing import Any

from ddpm.errors import UserError
from ddpm.promotion.advice import name_option, promote_command
from ddpm.promotion.registry import Version
from ddpm.reporting import decisions, measurements, origins
from ddpm.reporting.fitting import fitted
from ddpm.reporting.history import local_time
from ddpm.reporting.markdown import Table, bullets, code, escaped, linked_image, table
from ddpm.reporting.model_card import FILE

_LONGEST_REASON = 700
_GAP = "&nbsp;"
"""A line of its own: MLflow's page puts no space between a table and what follows."""
_ALL = f"There was no room for everything; the model card, the artifact {code(FILE)}, has the rest."


def page(version: Version, against: Version | None, *, picture: str | None, limit: int | None = None) -> str:
    """Return the page in Markdown, in at most `limit` characters.

    `against` is the version that it was compared with; `picture` is the address of a grid of its samples.
    """
    try:
        records, origin = version.records(), version.origin()
    except UserError as error:
        return fitted([_decision(version), escaped(error), usage(version)], limit=limit, rest="")
    parts = [
        _decision(version),
        linked_image(f"Samples of version {version.number}", picture) if picture else "",
        *_metrics(records, version, against),
        usage(version),
        *_settings(records, origin, version.run_id),
    ]
    return fitted(parts, limit=limit, rest=_ALL)


def usage(version: Version) -> str:
    """Return the commands that sample from the version, serve it, and make it the champion."""
    chosen = f"--version {version.number}{name_option(version.name)}"
    commands = (
        f"ddpm sample {chosen} --number 16 --out samples.png",
        f"ddpm serve {chosen}",
        promote_command(version.name, version.number),
    )
    return "**How to use it**\n\n" + "\n".join(f"- {code(command)}" for command in commands)


def _decision(version: Version) -> str:
    tags = version.tags
    line = f"Version {escaped(version.number)} {decisions.verdict(version)}"
    if tags.get("decided_by"):
        line += f", decided by {escaped(tags['decided_by'])} on {escaped(local_time(tags.get('decided_at', '')))}"
    if tags.get("replaced_by"):
        line += f"; version {escaped(tags['replaced_by'])} replaced it on {escaped(local_time(tags['replaced_at']))}"
    rules = decisions.rules_of(version)
    shown = [f"{line}."]
    if rules:
        shown += [table(decisions.rules_table(rules), spaced=True), _GAP]
    if found := [reason[:_LONGEST_REASON] for reason in decisions.remarks(version, rules)]:
        shown.append(bullets(found))
    shown += decisions.next_steps(version)
    return "\n\n".join(shown)


def _metrics(records: list[dict[str, Any]], version: Version, against: Version | None) -> Iterable[str]:
    for k, record in enumerate(records):
        rival = None if k or against is None else _comparable(against, record)
        of_rival = "" if against is None else f"version {against.number}"
        title = "Metrics" if k == 0 else "Metrics by another protocol"
        protocol = escaped(measurements.protocol_sentence(record["protocol"]))
        shown = measurements.metrics_table(record, rival, title=f"version {version.number}", champion_title=of_rival)
        yield f"**{title}**\n\n{table(shown, spaced=True)}\n\n{_GAP}\n\nMeasured with {protocol}."


def _comparable(against: Version, record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    try:
        return against.record_like(record)
    except UserError:
        return None


def _settings(records: list[dict[str, Any]], origin: Mapping[str, Any], run_id: str | None) -> Iterable[str]:
    if records and "drawing" in records[0]["protocol"]:
        yield _section("Sampling", origins.sampling_table(records[0]["protocol"]["drawing"]))
    if facts := origin.get("facts"):
        yield _section("Data", origins.data_table(facts))
    yield _section("Origin", origins.lineage_table(origin, run_id=run_id))


def _section(title: str, content: Table) -> str:
    return f"**{title}**\n\n{table(content, spaced=True)}\n\n{_GAP}" if content.rows else ""
