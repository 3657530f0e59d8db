"""The rules of succession: who was champion, who may return, and what a move means for the versions. Pure functions."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

OUTSIDE = "a person, outside ddpm"
"""Who moved an alias that no command has moved."""


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


def line(moves: Iterable[Move]) -> list[str]:
    """The champions in succession, the present one last; a person's demotion takes a version out.

    A promotion adds a version; a rollback removes those after its version. A version that a promotion only replaced
    stays, also if the alias was moved on by hand.
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
    """The versions that a person took the alias from and nobody gave it back to, each with the move that did it.

    That is a rollback, the removal of the alias, or a move by hand. A promotion by command only replaces.
    """
    down: dict[str, Move] = {}
    for move in moves:
        if move.version is not None:
            down.pop(move.version, None)
        if move.previous is not None and (move.action != "promote" or move.by == OUTSIDE):
            down[move.previous] = move
    return down


def move_outside(moves: list[Move], holder: str | None, *, when: str) -> Move | None:
    """The move that a person must have made, if the alias is not where these moves left it; else None.

    An alias that went back to a former champion was rolled back.
    """
    known = moves[-1].version if moves else None
    if holder == known:
        return None
    if holder is None:
        return Move("remove", None, known, OUTSIDE, when, "the alias was removed outside ddpm")
    reason = f"the alias was moved to version {holder} outside ddpm"
    return Move("rollback" if holder in line(moves) else "promote", holder, known, OUTSIDE, when, reason)


def consequences(move: Move) -> dict[str, dict[str, str]]:
    """The tags that a move writes on versions: number of the version -> its tags."""
    by, when, old, new = move.by, move.when, move.previous, move.version
    found: dict[str, dict[str, str]] = {}
    if old is not None:
        if move.action == "promote":
            found[old] = {"replaced_by": str(new), "replaced_at": when}
        else:
            decision = "rolled back" if move.action == "rollback" else "demoted"
            found[old] = decided(decision, [move.reason], by=by, against=new, when=when)
    if new is not None:
        reason = f"rollback: {move.reason}" if move.action == "rollback" else move.reason
        found[new] = decided("promoted", [reason], by=by, against=old, when=when)
    return found


def decided(decision: str, reasons: Iterable[str], *, by: str, against: str | None, when: str) -> dict[str, str]:
    """The tags of a version that say what was decided about it."""
    return {
        "decision": decision,
        "reasons": "; ".join(reasons),
        "decided_at": when,
        "decided_by": by,
        "decided_against": against or "none",
    }
