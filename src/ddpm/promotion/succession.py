"""The history of champions and of persons' decisions: who follows whom, who may return, and the tags that result.

Pure functions.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

OUTSIDE = "a person, outside ddpm"
"""The author (`Move.by`) of a move that no command made."""


@dataclass(frozen=True)
class Move:
    """One move of the alias `champion`."""

    action: Literal["promote", "rollback", "remove"]
    version: str | None
    """The new champion; None: a person removed the alias in MLflow."""
    previous: str | None
    by: str
    when: str
    reason: str
    record: str | None = None
    """Name of the document with the new champion's metrics at that time; None in a history of an older form."""


@dataclass(frozen=True)
class Ruling:
    """A decision that belongs to the history and moves no alias."""

    action: Literal["reject", "lapse", "reconsider"]
    """reject: a person said no to a version that waited; lapse: it waited too long or was overtaken; reconsider: a
    person put it before the gate again, which did not promote it."""
    verdict: Literal["rejected", "kept", "pending"]
    """The decision about the version, as its tag has it."""
    version: str
    by: str
    when: str
    reason: str
    against: str | None
    """The champion that the version was compared with."""
    record: str | None = None
    """As `Move.record`."""


def line(moves: Iterable[Move]) -> list[str]:
    """Return the champions in order, the present one last, without the versions that a person took down.

    A promotion adds a version; a rollback removes the versions after its own. A version that a promotion
    replaced stays, also if a person moved the alias by hand.
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
    """Return the versions that a person took the alias from, unless they got it back, each with that move.

    Such a move is a rollback, a removal of the alias, or a move by hand. A promotion by command does not count.
    """
    down: dict[str, Move] = {}
    for move in moves:
        if move.version is not None:
            down.pop(move.version, None)
        if move.previous is not None and (move.action != "promote" or move.by == OUTSIDE):
            down[move.previous] = move
    return down


def move_outside(moves: list[Move], holder: str | None, *, when: str) -> Move | None:
    """Return the move that a person made outside ddpm if the alias is not where these moves left it; else None.

    A move back to a former champion counts as a rollback.
    """
    known = moves[-1].version if moves else None
    if holder == known:
        return None
    if holder is None:
        return Move("remove", None, known, OUTSIDE, when, "the alias was removed outside ddpm")
    reason = f"the alias was moved to version {holder} outside ddpm"
    return Move("rollback" if holder in line(moves) else "promote", holder, known, OUTSIDE, when, reason)


def rejected_by_person(number: str, tags: Mapping[str, str], rulings: Iterable[Ruling]) -> Ruling | None:
    """Return a person's rejection of the version with these tags; None if that is not the last decision about it."""
    own = [ruling for ruling in rulings if ruling.version == number]
    stands = tags.get("decision") == "rejected" and own and own[-1].action == "reject"
    return own[-1] if stands else None


def consequences(move: Move) -> dict[str, dict[str, str]]:
    """Return the tags that a move writes, by version number."""
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
    """Return the tags that describe the decision about a version."""
    return {
        "decision": decision,
        "reasons": "\n".join(reasons),
        "decided_at": when,
        "decided_by": by,
        "decided_against": against or "none",
    }
