"""The interface of a model registry that promotion needs. `tracking.mlflow_registry` implements it with MLflow."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from ddpm.errors import UserError
from ddpm.promotion import gate
from ddpm.promotion.succession import Move, Ruling

CHAMPION = "champion"
"""Alias of the version that consumers get."""
CHALLENGER = "challenger"
"""Alias of the version that waits for a person's decision."""
RECORDS = "records"
"""Tag: the names of a version's records of metrics, the one of its last registration first."""
DECISION = "rules"
"""Tag: the name of the document with the gate's verdict on every rule."""
APPROVE_UNTIL = "approve_until"
"""Tag: the time until which a person may approve a version that waits, in ISO format."""
ORIGIN = "origin"
"""Tag: the name of the document with a version's origin."""
CANARY = "canary"
"""Tag: the name of the document with the last result of the canary (`admission.Examined`)."""
WATCHED = "watched"
"""Tag: the limit that the version's answers crossed last when it was served, with the time."""
SHADOW = "shadow"
"""Tag: the name of the document with the figures of the version while it was the shadow of another one."""
KEPT = "kept"
"""Tag: the name of the file with pictures and features to compare a version's answers with (`canary.kept`)."""
SIGNATURE = "signature"
"""Tag: the name of the file with the signature of a version (`signing.signature`)."""


def _no_documents(name: str) -> dict[str, Any]:
    raise UserError(f"there is no document {name}")


@dataclass(frozen=True)
class Version:
    """One version of a registered model."""

    name: str
    number: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    run_id: str | None
    created: datetime
    read: Callable[[str], dict[str, Any]] = field(default=_no_documents, compare=False, repr=False)
    """Returns one of its documents by name. Raises UserError if that is lost or damaged."""

    def records(self) -> list[dict[str, Any]]:
        """Return its metrics by each protocol, as in reports/metrics.json, those of its last registration first."""
        return [self.read(name) for name in self.tags.get(RECORDS, "").split()]

    def record(self) -> dict[str, Any] | None:
        """Return the metrics of its last registration with their protocol; None if it has none."""
        name = self.tags.get(RECORDS, "").partition(" ")[0]
        return self.read(name) if name else None

    def record_like(self, measured: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return its record that has the same protocol as `measured`; None if there is none."""
        return next((stored for stored in self.records() if not gate.differences(measured, stored)), None)

    def rules(self) -> list[dict[str, Any]]:
        """Return the gate's verdict on every rule, as `verdicts.Verdict.to_json`; empty if the gate did not decide."""
        return self.read(self.tags[DECISION])["rules"] if DECISION in self.tags else []

    def canary(self) -> dict[str, Any]:
        """Return the last result of the canary; empty if it was never served for that."""
        return self.read(self.tags[CANARY]) if CANARY in self.tags else {}

    def shadow(self) -> dict[str, Any]:
        """Return its last figures as a shadow and those of the served version; empty if it never was one."""
        return self.read(self.tags[SHADOW]) if SHADOW in self.tags else {}

    def origin(self) -> dict[str, Any]:
        """Return its origin: the lineage of its model file, `facts` of the data, `git_commit`, …; empty if unknown."""
        return self.read(self.tags[ORIGIN]) if ORIGIN in self.tags else {}


def holding(known: Iterable[Version], weights_sha256: str, protocol: Mapping[str, Any]) -> Version | None:
    """Return the first of these versions that has these weights and was measured by this protocol."""
    for found in known:
        has_weights = found.tags.get("weights_sha256") == weights_sha256
        if has_weights and any(record.get("protocol") == protocol for record in found.records()):
            return found
    return None


class Change(Protocol):
    """Changes that only one process at a time may make. Each method can be repeated after any interruption."""

    def champion(self) -> str | None:
        """Return the number of the version with the alias CHAMPION."""

    def history(self) -> list[Move]:
        """Return every move of the alias, oldest first."""

    def rulings(self) -> list[Ruling]:
        """Return every decision that moved no alias and belongs to the history, oldest first."""

    def settle(self) -> None:
        """Finish an interrupted change, and add a move that a person made outside this project to the history."""

    def resume(self, *, action: Literal["promote", "rollback"], version: str | None = None) -> Move | None:
        """Settle, and return the finished move if it is the one that the caller is about to make.

        That is `action`, to `version` unless that is None. The caller must not make it again.
        """

    def resume_ruling(self, *, action: Literal["reject", "reconsider"], version: str) -> Ruling | None:
        """Settle, and return the finished ruling if it is the one that the caller is about to make, as `resume`."""

    def move(self, *, action: Literal["promote", "rollback"], version: str, by: str, reason: str) -> Move:
        """Move the alias to this version, and write the move and its consequences. Call `resume` before."""

    def decide(
        self,
        candidate: Version,
        verdict: Literal["kept", "pending"],
        reasons: Iterable[str],
        *,
        against: str | None,
        until: str | None = None,
    ) -> None:
        """Write on the candidate that the champion stays. It gets the alias CHALLENGER if pending, else loses it.

        `until` is the time until which a person may approve a pending one, in ISO format.
        """

    def rule(
        self,
        version: Version,
        action: Literal["reject", "lapse", "reconsider"],
        verdict: Literal["rejected", "kept", "pending"],
        *,
        by: str,
        reason: str,
        against: str | None,
        until: str | None = None,
    ) -> Ruling:
        """Write a decision that moves no alias into the history, and on the version as `decide` does."""


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
        """Store the metrics of a version by another protocol, after those that it has."""

    def keep_decision(self, number: str, decision: Mapping[str, Any]) -> None:
        """Store the gate's verdict on every rule with the version, in place of an earlier one."""

    def keep_canary(self, number: str, result: Mapping[str, Any]) -> None:
        """Store the result of the canary with the version, in place of an earlier one."""

    def keep_crossing(self, number: str, sentence: str) -> None:
        """Write on the version that its answers crossed a limit, in place of an earlier one."""

    def keep_shadow(self, number: str, figures: Mapping[str, Any]) -> None:
        """Store the figures of the version as a shadow (`serving.shadow`), in place of earlier ones."""

    def keep_file(self, number: str, file: Path) -> None:
        """Store this file with the version, to compare its answers with, in place of an earlier one."""

    def kept_file(self, number: str, folder: Path) -> Path | None:
        """Return the path of that file, in `folder` or elsewhere; None if the version has none.

        Raise UserError if it is lost or changed.
        """

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
    return champion_among(registry.versions())


def champion_among(known: Iterable[Version]) -> Version | None:
    """Return the one of these versions that has the alias CHAMPION; None if there is none."""
    return next((found for found in known if CHAMPION in found.aliases), None)


def last_champion(known: Iterable[Version], moves: Iterable[Move]) -> Version | None:
    """Return the last champion that still exists, the present one if there is one; None if there was none."""
    by_number = {found.number: found for found in known}
    if (present := champion_among(by_number.values())) is not None:
        return present
    champions = [by_number.get(move.version or "") for move in reversed(list(moves))]
    return next((found for found in champions if found is not None), None)


def judged_against(version: Version | None, known: Iterable[Version]) -> Version | None:
    """Return the champion when the gate decided about the version; None if there was none."""
    number = version.tags.get("decided_against") if version else None
    return next((found for found in known if found.number == number), None)
