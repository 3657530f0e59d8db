"""Moves of the alias `champion` in MLflow. Every move can be interrupted and repeated.

The registered model's tags `promotion.000001`, `promotion.000002`, … are the history of moves. A move is announced in
the tag `promotion_under_way` before the alias moves. The history and the tags of versions and runs are written after,
so the next change of the registry finishes an interrupted move. If the alias is not where the history left it, a person
moved it outside ddpm, on MLflow's page; that is added to the history as a move. Every change of a decision also writes
the descriptions of the model and of the versions concerned.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from ddpm.promotion.registry import CHALLENGER, CHAMPION, Version
from ddpm.promotion.succession import Move, consequences, decided, move_outside
from ddpm.redaction import redacted
from ddpm.tracking import descriptions
from ddpm.tracking.registry_lock import Note
from ddpm.tracking.stored_versions import aliases, registered, set_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient

_UNDER_WAY = "promotion_under_way"
_MAX_REASON = 4000
"""Characters; a tag of a registered model holds 5,000 in an SQL store."""


class AliasChange:
    """A `promotion.registry.Change` of the registered model with this name. Use it only under the registry's lock."""

    def __init__(self, client: "MlflowClient", name: str, note: Note) -> None:
        self._client, self._name, self._note = client, name, note

    def champion(self) -> str | None:
        return aliases(self._client, self._name).get(CHAMPION)

    def history(self) -> list[Move]:
        return history(self._client, self._name)

    def resume(self, *, action: Literal["promote", "rollback"], version: str | None = None) -> Move | None:
        self._finish()
        moves, holder = self.history(), self.champion()
        outside = move_outside(moves, holder, when=now())
        if outside is not None:
            self._carry_out(outside)
            return None
        is_mine = moves and self._note.read() == {"name": self._name, "move": asdict(moves[-1])}
        if not is_mine or moves[-1].action != action or version not in (None, holder):
            return None
        self._note.write({})
        print(f"the {action} of {moves[-1].when} was interrupted, and is finished now", file=sys.stderr)
        return moves[-1]

    def move(self, *, action: Literal["promote", "rollback"], version: str, by: str, reason: str) -> Move:
        made = Move(action, version, self.champion(), by, now(), redacted(reason)[:_MAX_REASON])
        self._note.write({"name": self._name, "move": asdict(made)})
        self._carry_out(made)
        self._note.write({})
        return made

    def decide(
        self, candidate: Version, verdict: Literal["kept", "pending"], reasons: Iterable[str], *, against: str | None
    ) -> None:
        client, name, number = self._client, self._name, candidate.number
        self._drop_challenger(number)
        set_tags(client, name, number, decided(verdict, reasons, by="gate", against=against, when=now()))
        if verdict == "pending":
            client.set_registered_model_alias(name, CHALLENGER, number)
        self._tag_run(candidate.run_id, f"{verdict} as version {number} of {name}")
        descriptions.write(client, name, {number, against}, self.history())

    def _carry_out(self, made: Move) -> None:
        client, name = self._client, self._name
        keys = _keys(_tags(client, name))
        key = f"promotion.{int(keys[-1].removeprefix('promotion.')) + 1 if keys else 1:06d}"
        announced = json.dumps({"key": key, "move": asdict(made)}, ensure_ascii=False)
        client.set_registered_model_tag(name, _UNDER_WAY, announced)
        if made.version is not None and self.champion() != made.version:
            client.set_registered_model_alias(name, CHAMPION, made.version)
        self._write_down(key, made)

    def _finish(self) -> None:
        """Finish an announced move if the alias has moved; otherwise remove the announcement.

        A move that is in the history was made, also if a person has moved the alias again since then.
        """
        tags = _tags(self._client, self._name)
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
        descriptions.write(client, name, {made.previous, made.version}, self.history())
        client.delete_registered_model_tag(name, _UNDER_WAY)

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
    return [Move(**json.loads(tags[key])) for key in _keys(tags)]


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _keys(tags: Mapping[str, str]) -> list[str]:
    return sorted(key for key in tags if key.startswith("promotion."))


def _tags(client: "MlflowClient", name: str) -> Mapping[str, str]:
    model = registered(client, name)
    return {} if model is None else model.tags
