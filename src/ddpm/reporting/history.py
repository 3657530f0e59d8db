"""A table of all champions and persons' decisions in order of time: when, which version, metrics, who, why."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from heapq import merge
from operator import attrgetter
from typing import Any

from ddpm.errors import UserError
from ddpm.promotion.registry import Version
from ddpm.promotion.succession import Move, Ruling
from ddpm.reporting.markdown import Table
from ddpm.reporting.measurements import Protocols, metric_text

Event = Move | Ruling

_ACTIONS = {
    "promote": "promoted",
    "rollback": "rolled back to",
    "remove": "alias removed",
    "reject": "rejected",
    "lapse": "rejected, not in time",
    "reconsider": "reconsidered",
}
_HEAD = ("when", "action", "version", "against", "FID", "FID of that", "protocol", "by", "why")


def in_order(moves: Iterable[Move], rulings: Iterable[Ruling]) -> list[Event]:
    """Return both in order of time, oldest first; each of the two keeps its own order, whatever a clock said."""
    return list(merge(moves, rulings, key=attrgetter("when")))


def history_table(
    events: Iterable[Event], versions: Mapping[str, Version], protocols: Protocols, *, longest: int | None = None
) -> Table:
    """Return the events, newest first, with the FID of the version and, by the same protocol, of the one before.

    The figures are those that the version had at that time. `versions` are the known ones by number. `longest` is the
    largest number of characters of a reason; None: no limit.
    """
    rows = []
    for event in reversed(list(events)):
        old = event.previous if isinstance(event, Move) else event.against
        figures = _figures(event, versions.get(event.version or ""), versions.get(old or ""), protocols)
        why = "; ".join(event.reason.splitlines())
        if longest is not None and len(why) > longest:
            why = f"{why[: longest - 1]}…"
        action = _ACTIONS[event.action]
        if isinstance(event, Ruling) and event.action == "reconsider":
            action += f": {event.verdict}"
        rows.append((local_time(event.when), action, event.version or "none", old or "none", *figures, event.by, why))
    return Table(_HEAD, rows)


def local_time(when: str) -> str:
    """Return a time in ISO format as date and time of this machine, to the minute; any other text as it is."""
    try:
        return f"{datetime.fromisoformat(when).astimezone():%Y-%m-%d %H:%M}"
    except ValueError:
        return when


def _figures(event: Event, version: Version | None, before: Version | None, protocols: Protocols) -> tuple[str, ...]:
    """Return FID, FID of the version before, and the letter of the protocol of both."""
    if version is None:
        return "", "", ""
    try:
        record = version.record() if event.record is None else version.read(event.record)
    except UserError:
        return "lost", "", ""
    if record is None:
        return "", "", ""
    return metric_text(record, "fid"), _fid_like(record, before), protocols.letter(record)


def _fid_like(record: Mapping[str, Any], before: Version | None) -> str:
    try:
        other = None if before is None else before.record_like(record)
    except UserError:
        return "lost"
    return "" if other is None else metric_text(other, "fid")
