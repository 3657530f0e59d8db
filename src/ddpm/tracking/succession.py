"""Who was champion, and how that came about: every move of the alias, each of which can be cut off and said again.

The registered model's tags `promotion.000001`, `promotion.000002`, … hold the moves. A move is announced in the tag
`promotion_under_way` before the alias moves, and what follows from it, the history and the tags of versions and runs,
is written after: whoever changes the registry next finishes what was cut off. An alias that stands elsewhere than the
history says was moved by a person outside ddpm, in MLflow's page; that becomes a move of the history as well.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from ddpm.redaction import redacted
from ddpm.tracking.registry_lock import Note

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
CHALLENGER = "challenger"
OUTSIDE = "a person, outside ddpm"
"""Who moved an alias that no command has moved."""

_UNDER_WAY = "promotion_under_way"
_MAX_REASON = 4000
"""Characters; a tag of a registered model holds 5,000 in an SQL store."""


@dataclass(frozen=True)
class Move:
    """One move of the alias `champion`."""

    action: Literal["promote", "rollback", "remove"]
    version: str | None
    """None: the alias was removed, which only a person does, in MLflow."""
    previous: str | None
    by: str
    when: str
    reason: str


def history(client: "MlflowClient", name: str) -> list[Move]:
    """Every move, oldest first."""
    tags = _tags(client, name)
    return [Move(**json.loads(tags[key])) for key in _keys(tags)]


def line(moves: Iterable[Move]) -> list[str]:
    """The champions in succession, the present one last; a person's demotion takes a version out.

    A promotion adds a version; a rollback takes away what came after its version. What a promotion merely replaced
    stays, also where the alias was moved on by hand.
    """
    moves = list(moves)
    found: list[str] = []
    for move in moves:
        if move.action == "remove":
            found = found[:-1]
        while move.action == "rollback" and found and found[-1] != move.version:
            found.pop()
        if move.version is not None and found[-1:] != [move.version]:
            found.append(move.version)
    down = taken_down(moves)
    return [number for number in found if number not in down or down[number].action == "promote"]


def taken_down(moves: Iterable[Move]) -> dict[str, Move]:
    """The versions that a person took the alias from, with the move that did it, and that nobody gave it back to.

    A rollback, the removal of the alias, or a move by hand. A promotion by command replaces, and takes nobody down.
    """
    down: dict[str, Move] = {}
    for move in moves:
        if move.version is not None:
            down.pop(move.version, None)
        if move.previous is not None and (move.action != "promote" or move.by == OUTSIDE):
            down[move.previous] = move
    return down


def resume(client: "MlflowClient", name: str, note: Note, *, action: str, version: str | None = None) -> Move | None:
    """Finishes what was cut off, and takes down what a person did outside ddpm.

    The move, where it was this command that was cut off here: `action`, to `version` unless that is None. It is done
    with this answer, and not to be done once more. Under the lock of the registry.
    """
    _finish(client, name)
    tags, holder = _tags(client, name), aliases(client, name).get(CHAMPION)
    moves = [Move(**json.loads(tags[key])) for key in _keys(tags)]
    known = moves[-1].version if moves else None
    if holder != known:
        _carry_out(client, name, _by_hand(moves, known, holder))
        return None
    mine = moves and note.read() == {"name": name, "move": asdict(moves[-1])}
    if not mine or moves[-1].action != action or version not in (None, holder):
        return None
    note.write({})
    print(f"the {action} of {moves[-1].when} was cut off, and is finished now", file=sys.stderr)
    return moves[-1]


def move(
    client: "MlflowClient",
    name: str,
    note: Note,
    *,
    action: Literal["promote", "rollback"],
    version: str,
    by: str,
    reason: str,
) -> Move:
    """Moves the alias to this version and writes down why. Under the lock of the registry, after `resume`."""
    previous = aliases(client, name).get(CHAMPION)
    made = Move(action, version, previous, by, now(), redacted(reason)[:_MAX_REASON])
    note.write({"name": name, "move": asdict(made)})
    _carry_out(client, name, made)
    note.write({})
    return made


def decided(decision: str, reasons: Iterable[str], *, by: str, against: str | None, when: str) -> dict[str, str]:
    """The tags of a version that say what was decided about it."""
    return {
        "decision": decision,
        "reasons": "; ".join(reasons),
        "decided_at": when,
        "decided_by": by,
        "decided_against": against or "none",
    }


def tell_run(client: "MlflowClient", run_id: str | None, sentence: str) -> None:
    """The decision on the page of the training's run; a run that was deleted is told nothing."""
    from mlflow.exceptions import MlflowException

    if run_id is None:
        return
    try:
        client.set_tag(run_id, "decision", sentence)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise


def drop_challenger(client: "MlflowClient", name: str, number: str) -> None:
    """This version waits for nobody any more."""
    if aliases(client, name).get(CHALLENGER) == number:
        client.delete_registered_model_alias(name, CHALLENGER)


def tag(client: "MlflowClient", name: str, number: str, tags: Mapping[str, str]) -> None:
    """Tags of a version, one by one as MLflow takes them."""
    for key, value in tags.items():
        client.set_model_version_tag(name, number, key, value)


def aliases(client: "MlflowClient", name: str) -> dict[str, str]:
    """alias -> version; a search answers without aliases."""
    model = _registered(client, name)
    return {} if model is None else {alias: str(number) for alias, number in model.aliases.items()}


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _by_hand(moves: list[Move], known: str | None, holder: str | None) -> Move:
    """What a person must have done: an alias that went back to a former champion was rolled back."""
    if holder is None:
        return Move("remove", None, known, OUTSIDE, now(), "the alias was removed outside ddpm")
    back = holder in line(moves)
    reason = f"the alias was moved to version {holder} outside ddpm"
    return Move("rollback" if back else "promote", holder, known, OUTSIDE, now(), reason)


def _carry_out(client: "MlflowClient", name: str, made: Move) -> None:
    keys = _keys(_tags(client, name))
    key = f"promotion.{int(keys[-1].removeprefix('promotion.')) + 1 if keys else 1:06d}"
    announced = json.dumps({"key": key, "move": asdict(made)}, ensure_ascii=False)
    client.set_registered_model_tag(name, _UNDER_WAY, announced)
    if made.version is not None and aliases(client, name).get(CHAMPION) != made.version:
        client.set_registered_model_alias(name, CHAMPION, made.version)
    _write_down(client, name, key, made)


def _finish(client: "MlflowClient", name: str) -> None:
    """A move that was announced happened if the alias moved; otherwise it did not, and is forgotten."""
    announced = _tags(client, name).get(_UNDER_WAY)
    if announced is None:
        return
    begun = json.loads(announced)
    made = Move(**begun["move"])
    if aliases(client, name).get(CHAMPION) == made.version:
        _write_down(client, name, begun["key"], made)
    else:
        client.delete_registered_model_tag(name, _UNDER_WAY)


def _write_down(client: "MlflowClient", name: str, key: str, made: Move) -> None:
    """All that follows from a move; every write can be repeated."""
    client.set_registered_model_tag(name, key, json.dumps(asdict(made), ensure_ascii=False))
    runs = {str(found.version): found.run_id for found in client.search_model_versions(f"name = '{name}'")}
    for number, tags in _consequences(made).items():
        if number in runs:  # a person may have deleted it
            tag(client, name, number, tags)
            if "decision" in tags:
                tell_run(client, runs[number], f"{tags['decision']} as version {number} of {name}")
    if made.version is not None:
        drop_challenger(client, name, made.version)
    client.delete_registered_model_tag(name, _UNDER_WAY)


def _consequences(made: Move) -> dict[str, dict[str, str]]:
    """version -> its tags."""
    by, when, old, new = made.by, made.when, made.previous, made.version
    found: dict[str, dict[str, str]] = {}
    if old is not None:
        if made.action == "promote":
            found[old] = {"replaced_by": str(new), "replaced_at": when}
        else:
            decision = "rolled back" if made.action == "rollback" else "demoted"
            found[old] = decided(decision, [made.reason], by=by, against=new, when=when)
    if new is not None:
        reason = f"rollback: {made.reason}" if made.action == "rollback" else made.reason
        found[new] = decided("promoted", [reason], by=by, against=old, when=when)
    return found


def _keys(tags: Mapping[str, str]) -> list[str]:
    return sorted(key for key in tags if key.startswith("promotion."))


def _tags(client: "MlflowClient", name: str) -> dict[str, str]:
    model = _registered(client, name)
    return {} if model is None else model.tags


def _registered(client: "MlflowClient", name: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
