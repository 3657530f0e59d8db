"""A table of all champions in order of time: date, version, version before, person, reason and metric."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from ddpm.errors import UserError
from ddpm.promotion.registry import Version
from ddpm.promotion.succession import Move
from ddpm.reporting.markdown import Table
from ddpm.reporting.measurements import Protocols, metric_text

_ACTIONS = {"promote": "promoted", "rollback": "rolled back to", "remove": "alias removed"}
_HEAD = ("when", "action", "version", "instead of", "FID", "protocol", "by", "why")


def history_table(
    moves: Iterable[Move], versions: Mapping[str, Version], protocols: Protocols, *, longest: int | None = None
) -> Table:
    """Return the moves of the champion's alias, newest first, with the new champion's FID.

    `versions` are the known ones by number. `longest` is the largest number of characters of a reason; None: no limit.
    """
    rows = []
    for move in reversed(list(moves)):
        fid, letter = _fid(versions.get(move.version or ""), protocols)
        why = "; ".join(move.reason.splitlines())
        if longest is not None and len(why) > longest:
            why = f"{why[: longest - 1]}…"
        new, old = move.version or "none", move.previous or "none"
        rows.append((local_time(move.when), _ACTIONS[move.action], new, old, fid, letter, move.by, why))
    return Table(_HEAD, rows)


def local_time(when: str) -> str:
    """Return a time in ISO format as date and time of this machine, to the minute; any other text as it is."""
    try:
        return f"{datetime.fromisoformat(when).astimezone():%Y-%m-%d %H:%M}"
    except ValueError:
        return when


def _fid(version: Version | None, protocols: Protocols) -> tuple[str, str]:
    if version is None:
        return "", ""
    try:
        record = version.record()
    except UserError:
        return "lost", ""
    return ("", "") if record is None else (metric_text(record, "fid"), protocols.letter(record))
