"""The interface of a model registry that promotion needs. `tracking.mlflow_registry` implements it with MLflow."""

import json
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from ddpm.errors import UserError
from ddpm.promotion import gate
from ddpm.promotion.succession import Move

CHAMPION = "champion"
"""Alias of the version that consumers get."""
CHALLENGER = "challenger"
"""Alias of the version that waits for a person's decision."""


@dataclass(frozen=True)
class Version:
    """One version of a registered model."""

    name: str
    number: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    run_id: str | None
    created: datetime

    def record(self, key: Literal["record", "record_again"] = "record") -> dict[str, Any] | None:
        """Return its metrics with their protocol, as in reports/metrics.json; `record_again`: by a later protocol."""
        return json.loads(self.tags[key]) if key in self.tags else None

    def record_like(self, measured: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return its record that has the same protocol as `measured`; None if there is none."""
        for stored in (self.record("record"), self.record("record_again")):
            if stored is not None and not gate.differences(measured, stored):
                return stored
        return None


def holding(known: Iterable[Version], weights_sha256: str, protocol: Mapping[str, Any]) -> Version | None:
    """Return the first of these versions that has these weights and was measured by this protocol."""
    for found in known:
        record = found.record() or {}
        if found.tags.get("weights_sha256") == weights_sha256 and record.get("protocol") == protocol:
            return found
    return None


class Change(Protocol):
    """Changes that only one process at a time may make. Each method can be repeated after any interruption."""

    def champion(self) -> str | None:
        """Return the number of the version with the alias CHAMPION."""

    def history(self) -> list[Move]:
        """Return every move of the alias, oldest first."""

    def resume(self, *, action: Literal["promote", "rollback"], version: str | None = None) -> Move | None:
        """Finish an interrupted move, and add a move that a person made outside this project to the history.

        Return the finished move if it is the one that the caller is about to make: `action`, to `version` unless that
        is None. The caller must not make it again.
        """

    def move(self, *, action: Literal["promote", "rollback"], version: str, by: str, reason: str) -> Move:
        """Move the alias to this version, and write the move and its consequences. Call `resume` before."""

    def decide(
        self, candidate: Version, verdict: Literal["kept", "pending"], reasons: Iterable[str], *, against: str | None
    ) -> None:
        """Write on the candidate that the champion stays. It gets the alias CHALLENGER if pending, else loses it."""


class Registry(Protocol):
    """The versions of one registered model."""

    name: str

    @property
    def place(self) -> str:
        """The registry's address for messages, without passwords."""

    @property
    def user(self) -> str:
        """The name of the user."""

    def versions(self) -> list[Version]:
        """Return all versions, newest first."""

    def alone(self) -> AbstractContextManager[Change]:
        """Wait until no other process changes the registry, and keep others out within the block."""

    def keep_record(self, number: str, record: Mapping[str, Any]) -> None:
        """Store the metrics of a version by a later protocol, as its `record_again`."""

    def download(self, version: Version, folder: Path) -> Path:
        """Return the path of the version's file, in `folder` or elsewhere. Raise UserError if it is lost or changed."""


def version(registry: Registry, number: str) -> Version:
    """Return the version with this number. Raise UserError that lists all versions if there is none."""
    known = registry.versions()
    for found in known:
        if found.number == number:
            return found
    there = ", ".join(each.number for each in reversed(known)) or "none"
    raise UserError(f"{registry.name} has no version {number} at {registry.place}; there are: {there}")


def champion(registry: Registry) -> Version | None:
    """Return the version with the alias CHAMPION; None if there is none."""
    return next((found for found in registry.versions() if CHAMPION in found.aliases), None)
