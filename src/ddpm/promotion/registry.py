"""What promotion needs of a model registry. `tracking.mlflow_registry` implements it with MLflow."""

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
"""Alias of the version that is used."""
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
        """Its metrics with their protocol, as in reports/metrics.json; `record_again` by a later protocol."""
        return json.loads(self.tags[key]) if key in self.tags else None

    def record_like(self, measured: Mapping[str, Any]) -> dict[str, Any] | None:
        """Its record that was measured by the protocol of this one; None if there is none."""
        for stored in (self.record("record"), self.record("record_again")):
            if stored is not None and not gate.differences(measured, stored):
                return stored
        return None


def holding(known: Iterable[Version], weights_sha256: str, protocol: Mapping[str, Any]) -> Version | None:
    """The first of these versions that has these weights and was measured by this protocol."""
    for found in known:
        record = found.record() or {}
        if found.tags.get("weights_sha256") == weights_sha256 and record.get("protocol") == protocol:
            return found
    return None


class Change(Protocol):
    """What only one process at a time may do. Each method can be repeated after it was interrupted anywhere."""

    def champion(self) -> str | None:
        """The number of the version with the alias CHAMPION."""

    def history(self) -> list[Move]:
        """Every move of the alias, oldest first."""

    def resume(self, *, action: Literal["promote", "rollback"], version: str | None = None) -> Move | None:
        """Finishes what was interrupted, and writes down a move that a person made outside this project.

        Returns the move if it is the interrupted one of this caller: `action`, to `version` unless that is None. It is
        done then, and must not be repeated.
        """

    def move(self, *, action: Literal["promote", "rollback"], version: str, by: str, reason: str) -> Move:
        """Moves the alias to this version, and writes the move and what follows from it. Call `resume` before."""

    def decide(
        self, candidate: Version, verdict: Literal["kept", "pending"], reasons: Iterable[str], *, against: str | None
    ) -> None:
        """Writes on the candidate that the champion stays. It is the CHALLENGER if it is pending, else no more."""


class Registry(Protocol):
    """The versions of one registered model."""

    name: str

    @property
    def place(self) -> str:
        """Where the registry is, as a person may see it."""

    @property
    def user(self) -> str:
        """Who uses it."""

    def versions(self) -> list[Version]:
        """Newest first."""

    def alone(self) -> AbstractContextManager[Change]:
        """Waits until no other process changes the registry, and keeps others out within the block."""

    def keep_record(self, number: str, record: Mapping[str, Any]) -> None:
        """Stores the metrics of a version by a later protocol, as its `record_again`."""

    def download(self, version: Version, folder: Path) -> Path:
        """The version's model file, in `folder` or where it is. Raises UserError if it was lost or changed."""


def version(registry: Registry, number: str) -> Version:
    """Raises UserError that names the versions there are, if there is none of this number."""
    known = registry.versions()
    for found in known:
        if found.number == number:
            return found
    there = ", ".join(each.number for each in reversed(known)) or "none"
    raise UserError(f"{registry.name} has no version {number} at {registry.place}; there are: {there}")


def champion(registry: Registry) -> Version | None:
    """The version with the alias CHAMPION."""
    return next((found for found in registry.versions() if CHAMPION in found.aliases), None)
