"""Moves of the alias `champion` in MLflow. Every move can be interrupted and repeated.

The registered model's tags `promotion.000001`, `promotion.000002`, … are the history of moves. A move is announced in
the tag `promotion_under_way` before the alias moves. The history and the tags of versions and runs are written after,
so the next change of the registry finishes an interrupted move. If the alias is not where the history left it, a person
moved it outside ddpm, on MLflow's page; that is added to the history as a move. The decisions that move no alias and
belong to the history are the tags `ruling.000001`, …, announced in `ruling_under_way`. Every change of a decision also
writes the descriptions of the model and of the versions concerned.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from ddpm.promotion.registry import APPROVE_UNTIL, CHALLENGER, CHAMPION, RECORDS, Version
from ddpm.promotion.succession import Move, Ruling, consequences, decided, move_outside
from ddpm.redaction import redacted
from ddpm.tracking import descriptions
from ddpm.tracking.registry_lock import Note
from ddpm.tracking.stored_versions import aliases, registered, set_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient

_MOVES, _UNDER_WAY = "promotion.", "promotion_under_way"
_RULINGS, _RULING_UNDER_WAY = "ruling.", "ruling_under_way"
_MAX_REASON = 4000
"""Characters; a tag of a registered model holds 5,000 in an SQL store."""
_MAX_NAME = 200


class AliasChange:
    """A `promotion.registry.Change` of the registered model with this name. Use it only under the registry's lock."""

    def __init__(self, client: "MlflowClient", name: str, note: Note) -> None:
        self._client, self._name, self._note = client, name, note

    def champion(self) -> str | None:
        return aliases(self._client, self._name).get(CHAMPION)

    def history(self) -> list[Move]:
        return history(self._client, self._name)

    def rulings(self) -> list[Ruling]:
        return rulings(self._client, self._name)

    def settle(self) -> None:
        self._finish()
        outside = move_outside(self.history(), self.champion(), when=now())
        if outside is not None:
            self._carry_out(outside)

    def resume(self, *, action: Literal["promote", "rollback"], version: str | None = None) -> Move | None:
        self.settle()
        moves = self.history()
        is_asked = moves and moves[-1].action == action and version in (None, moves[-1].version)
        return moves[-1] if is_asked and self._was_interrupted("move", moves[-1]) else None

    def resume_ruling(self, *, action: Literal["reject", "reconsider"], version: str) -> Ruling | None:
        self.settle()
        found = self.rulings()
        is_asked = found and (found[-1].action, found[-1].version) == (action, version)
        return found[-1] if is_asked and self._was_interrupted("ruling", found[-1]) else None

    def move(self, *, action: Literal["promote", "rollback"], version: str, by: str, reason: str) -> Move:
        self._finish()
        made = Move(action, version, self.champion(), by[:_MAX_NAME], now(), _stored(reason), self._record_of(version))
        self._note.write({"name": self._name, "move": asdict(made)})
        self._carry_out(made)
        self._note.write({})
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
        self._finish()
        tags = decided(verdict, reasons, by="gate", against=against, when=now())
        self._decide(candidate.number, candidate.run_id, tags, until)

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
        self._finish()
        record = self._record_of(version.number)
        made = Ruling(action, verdict, version.number, by[:_MAX_NAME], now(), _stored(reason), against, record)
        self._note.write({"name": self._name, "ruling": asdict(made)})
        begun = {"key": self._next_key(_RULINGS), "ruling": asdict(made), "until": until}
        self._announce(_RULING_UNDER_WAY, begun)
        self._write_ruling(begun)
        self._note.write({})
        return made

    def _carry_out(self, made: Move) -> None:
        client, name = self._client, self._name
        key = self._next_key(_MOVES)
        self._announce(_UNDER_WAY, {"key": key, "move": asdict(made)})
        if made.version is not None and self.champion() != made.version:
            client.set_registered_model_alias(name, CHAMPION, made.version)
        self._write_down(key, made)

    def _finish(self) -> None:
        """Finish what was announced and interrupted; a move only if the alias has moved, else it never was.

        A move that is in the history was made, also if a person has moved the alias again since then.
        """
        tags = _tags(self._client, self._name)
        if (ruling := tags.get(_RULING_UNDER_WAY)) is not None:
            self._write_ruling(json.loads(ruling))
        if _UNDER_WAY not in tags:
            return
        begun = json.loads(tags[_UNDER_WAY])
        made = Move(**begun["move"])
        if self.champion() == made.version or begun["key"] in tags:
            self._write_down(begun["key"], made)
        else:
            self._client.delete_registered_model_tag(self._name, _UNDER_WAY)

    def _write_down(self, key: str, made: Move) -> None:
        """Write the history and the tags that follow from a move; every write can be repeated."""
        client, name = self._client, self._name
        client.set_registered_model_tag(name, key, json.dumps(asdict(made), ensure_ascii=False))
        runs = {str(found.version): found.run_id for found in client.search_model_versions(f"name = '{name}'")}
        for number, tags in consequences(made).items():
            if number in runs:  # a person may have deleted it
                set_tags(client, name, number, tags)
                if "decision" in tags:
                    self._tag_run(runs[number], f"{tags['decision']} as version {number} of {name}")
        if made.version is not None:
            self._drop_challenger(made.version)
        descriptions.write(client, name, {made.previous, made.version}, self.history(), self.rulings())
        client.delete_registered_model_tag(name, _UNDER_WAY)

    def _write_ruling(self, begun: Mapping[str, Any]) -> None:
        """Write a ruling into the history and on its version; every write can be repeated."""
        client, name, made = self._client, self._name, Ruling(**begun["ruling"])
        client.set_registered_model_tag(name, begun["key"], json.dumps(asdict(made), ensure_ascii=False))
        runs = {str(found.version): found.run_id for found in client.search_model_versions(f"name = '{name}'")}
        if made.version in runs:  # a person may have deleted it
            tags = decided(made.verdict, made.reason.splitlines(), by=made.by, against=made.against, when=made.when)
            self._decide(made.version, runs[made.version], tags, begun["until"])
        client.delete_registered_model_tag(name, _RULING_UNDER_WAY)

    def _decide(self, number: str, run_id: str | None, tags: Mapping[str, str], until: str | None) -> None:
        client, name, verdict = self._client, self._name, tags["decision"]
        self._drop_challenger(number)
        set_tags(client, name, number, dict(tags) | ({} if until is None else {APPROVE_UNTIL: until}))
        if verdict == "pending":
            client.set_registered_model_alias(name, CHALLENGER, number)
        self._tag_run(run_id, f"{verdict} as version {number} of {name}")
        descriptions.write(client, name, {number, tags["decided_against"]}, self.history(), self.rulings())

    def _announce(self, tag: str, begun: Mapping[str, Any]) -> None:
        self._client.set_registered_model_tag(self._name, tag, json.dumps(begun, ensure_ascii=False))

    def _next_key(self, prefix: str) -> str:
        keys = _keys(_tags(self._client, self._name), prefix)
        return f"{prefix}{int(keys[-1].removeprefix(prefix)) + 1 if keys else 1:06d}"

    def _record_of(self, number: str) -> str | None:
        """Return the name of the document with the version's metrics; None if it has none or does not exist."""
        found = self._client.search_model_versions(f"name = '{self._name}' and version_number = '{number}'")
        return (found[0].tags.get(RECORDS, "").partition(" ")[0] or None) if found else None

    def _was_interrupted(self, what: Literal["move", "ruling"], made: Move | Ruling) -> bool:
        """Return whether the command that made this was interrupted on this machine, and say so once."""
        if self._note.read() != {"name": self._name, what: asdict(made)}:
            return False
        self._note.write({})
        print(f"the {made.action} of {made.when} was interrupted, and is finished now", file=sys.stderr)
        return True

    def _drop_challenger(self, number: str) -> None:
        """Remove the alias CHALLENGER if this version has it: the version no longer waits for a decision."""
        if aliases(self._client, self._name).get(CHALLENGER) == number:
            self._client.delete_registered_model_alias(self._name, CHALLENGER)

    def _tag_run(self, run_id: str | None, sentence: str) -> None:
        """Write the decision on the training's run, unless that was deleted."""
        from mlflow.exceptions import MlflowException

        if run_id is None:
            return
        try:
            self._client.set_tag(run_id, "decision", sentence)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise


def history(client: "MlflowClient", name: str) -> list[Move]:
    """Return every move of the alias, oldest first."""
    tags = _tags(client, name)
    return [Move(**json.loads(tags[key])) for key in _keys(tags, _MOVES)]


def rulings(client: "MlflowClient", name: str) -> list[Ruling]:
    """Return every decision that moved no alias and belongs to the history, oldest first."""
    tags = _tags(client, name)
    return [Ruling(**json.loads(tags[key])) for key in _keys(tags, _RULINGS)]


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _stored(reason: str) -> str:
    return redacted(reason)[:_MAX_REASON]


def _keys(tags: Mapping[str, str], prefix: str) -> list[str]:
    return sorted(key for key in tags if key.startswith(prefix))


def _tags(client: "MlflowClient", name: str) -> Mapping[str, str]:
    model = registered(client, name)
    return {} if model is None else model.tags
