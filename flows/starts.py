"""What started a run, and how its name and its tags in Prefect say why it ran."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

import unreported
from pipeline import start_time
from prefect.client.orchestration import get_client

from ddpm.errors import on_one_line
from ddpm.redaction import redacted

Trigger = Literal["event", "overdue"]
_ASKED_CHARACTERS = 120
"""Longest part of the name that says who asked; it may come from another machine."""
_NAME_CHARACTERS = 300


@dataclass(frozen=True)
class Start:
    """The start of a flow run."""

    run: UUID
    because: str | None
    """Who or what asked for it, on one line."""

    def say(self, reason: str, tags: Sequence[str]) -> None:
        """Write the reason and who asked into the name of the run, and add tags to it."""
        parts = [start_time(), reason, f"({self.because})" if self.because is not None else ""]
        name = " ".join(filter(None, parts))
        with get_client(sync_client=True) as client:
            own = client.read_flow_run(self.run).tags
            every = sorted({*own, *tags})
            client.update_flow_run(self.run, name=name[:_NAME_CHARACTERS], tags=every)


def of_this_run(trigger: Trigger | None, because: str | None) -> Start:
    """Return what started the flow run that calls this, and write it into the run, which may be refused next."""
    asked = textwrap.shorten(redacted(on_one_line(because or "")), _ASKED_CHARACTERS, placeholder=" …")
    start = Start(unreported.this_run(), asked or None)
    with get_client(sync_client=True) as client:
        scheduled = client.read_flow_run(start.run).auto_scheduled
    start.say("", [trigger or ("cron" if scheduled else "person")])
    return start
