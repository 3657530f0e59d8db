"""The watch of `ddpm serve` over the champion: what it compares with, and what follows if a limit is crossed."""

import base64
import json
import logging
import os
import tempfile
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ddpm.errors import UserError

if TYPE_CHECKING:
    from ddpm.canary.kept import Kept
    from ddpm.promotion.registry import Registry, Version
    from ddpm.serving.answering import Answering
    from ddpm.serving.settings import Watch
    from ddpm.serving.watching import Crossing, Watching

EVENT = "ddpm.champion.limit-crossed"
"""Name of the event that a Prefect server gets."""
_ANSWER_SECONDS = 10.0


def watch_of(
    registry: "Registry", limits: "Watch", *, auto_rollback: bool
) -> "Callable[[Version, Answering], Watching | None]":
    """Return what begins the watch over a version that is served; nothing is watched with a share of 0."""

    def begin(version: "Version", answering: "Answering") -> "Watching | None":
        from ddpm.promotion.registry import CHAMPION
        from ddpm.serving.watching import Record, Watching

        if limits.share == 0 or CHAMPION not in version.aliases:
            return None
        log = logging.getLogger(__name__)
        try:
            known = kept_with(registry, version.number)
            seconds = version.canary().get("figures", {}).get("seconds_of_one_image")
        except UserError as error:
            log.warning("version %s is not watched: %s", version.number, error)
            return None
        if known is None:
            log.warning("version %s has no measured features to compare with, so only its errors count", version.number)

        def report(crossing: "Crossing") -> None:
            act(registry, version.number, crossing, auto_rollback=auto_rollback)

        device = next(answering.model.network.parameters()).device
        watching = Watching(Record(known, seconds), limits, device, report)
        answering.listeners.append(watching.drew)
        return watching

    return begin


def kept_with(registry: "Registry", number: str) -> "Kept | None":
    """Return what is kept with a version; None if that has nothing. Raise UserError if it is lost or changed."""
    from ddpm.canary import kept

    with tempfile.TemporaryDirectory() as folder:
        file = registry.kept_file(number, Path(folder))
        return None if file is None else kept.read(file)


def act(registry: "Registry", number: str, crossing: "Crossing", *, auto_rollback: bool) -> None:
    """Log the crossing, write it on the version, send the event and, if wanted, roll back. A failure stops nothing."""
    from ddpm.promotion.commands import rollback

    log = logging.getLogger(__name__)
    log.warning("version %s crossed a limit: %s", number, crossing.sentence)

    def roll_back() -> None:
        move = rollback(registry, reason=crossing.sentence, by=f"ddpm serve, run by {registry.user}", only=number)
        log.warning("version %s is the champion again, in place of version %s", move.version, move.previous)

    steps: list[Callable[[], Any]] = [
        lambda: registry.keep_crossing(number, crossing.sentence),
        lambda: send_event(registry.name, number, crossing),
    ]
    for step in [*steps, *([roll_back] if auto_rollback else [])]:
        try:
            step()
        except Exception as error:  # also of a registry or a server that does not answer
            log.warning("after version %s crossed a limit: %s: %s", number, type(error).__name__, error)


def send_event(name: str, number: str, crossing: "Crossing") -> None:
    """Send the event to the Prefect server at PREFECT_API_URL; without that variable, do nothing."""
    address = os.environ.get("PREFECT_API_URL")
    if not address:
        return
    event = {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": EVENT,
        "resource": {
            "prefect.resource.id": f"ddpm.model.{name}",
            "prefect.resource.name": f"{name} version {number}",
            "ddpm.version": number,
            "ddpm.limit": crossing.limit,
        },
        "payload": {"version": number, "limit": crossing.limit, "sentence": crossing.sentence},
    }
    headers = {"Content-Type": "application/json"}
    if secret := os.environ.get("PREFECT_API_AUTH_STRING"):
        headers["Authorization"] = f"Basic {base64.b64encode(secret.encode()).decode()}"
    request = urllib.request.Request(f"{address.rstrip('/')}/events", json.dumps([event]).encode(), headers)
    with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS):
        return
