"""A registry of versions in memory: the rules of promotion without MLflow."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from ddpm.errors import UserError
from ddpm.promotion.registry import (
    APPROVE_UNTIL,
    CANARY,
    CHALLENGER,
    CHAMPION,
    DECISION,
    ORIGIN,
    RECORDS,
    SHADOW,
    WATCHED,
    Version,
)
from ddpm.promotion.succession import Move, Ruling, consequences, decided, move_outside

NOW = "2026-01-01T00:00:00+00:00"


class RegistryInMemory:
    """A `promotion.registry.Registry`, and its own `Change`. All versions but those in `files` share one model file."""

    name, place, user = "ddpm", "memory", "Ann"

    def __init__(self, model_file: Path) -> None:
        self.model_file = model_file
        self.files: dict[str, Path] = {}
        self.lost: set[str] = set()
        """Versions whose model file is gone."""
        self.kept: dict[str, Path] = {}
        """By version, the file to compare its answers with."""
        self.aliases: dict[str, str] = {}
        self.moves: list[Move] = []
        self.ruled: list[Ruling] = []
        self._versions: dict[str, Version] = {}
        self._documents: list[dict[str, Any]] = []
        self._last = 0

    def register(self, record: Mapping[str, Any], *, origin: Mapping[str, Any] | None = None, **tags: str) -> Version:
        self._last += 1
        number = str(self._last)
        stored = {"channels": "1", "size": "8", RECORDS: self._document(record)} | tags
        stored |= {} if origin is None else {ORIGIN: self._document(origin)}
        self._versions[number] = Version(self.name, number, (), stored, None, datetime.now(UTC), self._read)
        return self._versions[number]

    def delete(self, number: str) -> None:
        """Delete a version with its aliases, as on MLflow's page. Its number is not used again."""
        del self._versions[number]
        self.aliases = {alias: holder for alias, holder in self.aliases.items() if holder != number}

    def versions(self) -> list[Version]:
        def named(version: Version) -> Version:
            return replace(version, aliases=tuple(a for a, number in self.aliases.items() if number == version.number))

        return [named(version) for version in reversed(self._versions.values())]

    @contextmanager
    def alone(self) -> Iterator["RegistryInMemory"]:
        yield self

    def keep_record(self, number: str, record: Mapping[str, Any]) -> None:
        self._tag(number, {RECORDS: f"{self._versions[number].tags[RECORDS]} {self._document(record)}"})

    def keep_decision(self, number: str, decision: Mapping[str, Any]) -> None:
        self._tag(number, {DECISION: self._document(decision)})

    def keep_canary(self, number: str, result: Mapping[str, Any]) -> None:
        self._tag(number, {CANARY: self._document(result)})

    def keep_crossing(self, number: str, sentence: str) -> None:
        self._tag(number, {WATCHED: f"{NOW}: {sentence}"})

    def keep_shadow(self, number: str, figures: Mapping[str, Any]) -> None:
        self._tag(number, {SHADOW: self._document(figures)})

    def keep_file(self, number: str, file: Path) -> None:
        self.kept[number] = file

    def kept_file(self, number: str, folder: Path) -> Path | None:
        return self.kept.get(number)

    def download(self, version: Version, folder: Path) -> Path:
        if version.number in self.lost:
            raise UserError(f"version {version.number} has lost its file")
        return self.files.get(version.number, self.model_file)

    def champion(self) -> str | None:
        return self.aliases.get(CHAMPION)

    def history(self) -> list[Move]:
        return self.moves

    def rulings(self) -> list[Ruling]:
        return self.ruled

    def settle(self) -> None:
        outside = move_outside(self.moves, self.champion(), when=NOW)
        if outside is not None:
            self._write_down(outside)

    def resume_ruling(self, *, action: Literal["reject", "reconsider"], version: str) -> Ruling | None:
        return self.settle()

    def resume(self, *, action: Literal["promote", "rollback"], version: str | None = None) -> Move | None:
        return self.settle()

    def move(self, *, action: Literal["promote", "rollback"], version: str, by: str, reason: str) -> Move:
        made = Move(action, version, self.champion(), by, NOW, reason)
        self.aliases[CHAMPION] = version
        self._write_down(made)
        return made

    def decide(
        self,
        candidate: Version,
        verdict: Literal["kept", "pending"],
        reasons: Iterable[str],
        *,
        against: str | None,
        until: str | None = None,
    ) -> None:
        self._decide(candidate.number, decided(verdict, reasons, by="gate", against=against, when=NOW), until)

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
        made = Ruling(action, verdict, version.number, by, NOW, reason, against)
        self.ruled.append(made)
        self._decide(version.number, decided(verdict, [reason], by=by, against=against, when=NOW), until)
        return made

    def _decide(self, number: str, tags: Mapping[str, str], until: str | None) -> None:
        self._tag(number, dict(tags) | ({} if until is None else {APPROVE_UNTIL: until}))
        if tags["decision"] == "pending":
            self.aliases[CHALLENGER] = number
        elif self.aliases.get(CHALLENGER) == number:
            del self.aliases[CHALLENGER]

    def _document(self, content: Mapping[str, Any]) -> str:
        self._documents.append(dict(content))
        return str(len(self._documents) - 1)

    def _read(self, name: str) -> dict[str, Any]:
        return self._documents[int(name)]

    def _write_down(self, made: Move) -> None:
        self.moves.append(made)
        for number, tags in consequences(made).items():
            if number in self._versions:
                self._tag(number, tags)
        if made.version is not None and self.aliases.get(CHALLENGER) == made.version:
            del self.aliases[CHALLENGER]

    def _tag(self, number: str, tags: Mapping[str, str]) -> None:
        known = self._versions[number]
        self._versions[number] = replace(known, tags={**known.tags, **tags})
