"""Which event was answered by which run: a small database, so that an event that is sent again starts nothing."""

import sqlite3
from pathlib import Path

MOST = 100_000
"""Events that are remembered; of older ones only Prefect knows the first, by its idempotency key."""


class Deliveries:
    """The events that were answered, in a file that outlives this process."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.execute(
            "create table if not exists deliveries (number integer primary key, event text unique, run text)"
        )

    def run_of(self, event: str) -> str | None:
        """Return the run that answered the event; None for a new event."""
        found = self._database.execute("select run from deliveries where event = ?", (event,)).fetchone()
        return None if found is None else str(found[0])

    def note(self, event: str, run: str) -> None:
        """Remember the run that answers the event; the oldest events beyond MOST are forgotten."""
        self._database.execute("insert or ignore into deliveries (event, run) values (?, ?)", (event, run))
        self._database.execute(
            "delete from deliveries where number <= (select max(number) from deliveries) - ?", (MOST,)
        )
