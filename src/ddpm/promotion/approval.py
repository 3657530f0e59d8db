"""A version that waits for a person: until when it may be approved, and what a person's yes or no does.

At most one version waits: the one that the gate decided about last has the alias CHALLENGER. It was compared with one
champion, so an approval holds only while that one is the champion.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from ddpm.errors import UserError, on_one_line
from ddpm.promotion.admission import Canary
from ddpm.promotion.advice import promote_command, reconsider_command
from ddpm.promotion.commands import promote
from ddpm.promotion.registry import (
    APPROVE_UNTIL,
    CHALLENGER,
    CHAMPION,
    Change,
    Registry,
    Version,
    last_champion,
    version,
)
from ddpm.promotion.succession import Move, Ruling


def approve(
    registry: Registry, number: str, *, reason: str, by: str | None = None, canary: Canary | None = None
) -> Move:
    """Make a version that waits for a person the champion, after the canary as in `commands.promote`.

    Raise UserError, and move nothing, if it does not wait: it was approved, rejected, overtaken or waited too long.
    The sentence then says who decided and what a person can do.
    """

    def waits(change: Change) -> None:
        close_lapsed(registry, change)
        _require_waiting(registry, number)

    return promote(registry, number, reason=reason, by=by, canary=canary, only_if=waits)


def reject(registry: Registry, number: str, *, reason: str, by: str | None = None) -> Ruling:
    """Reject a version that waits for a person. Raise UserError as `approve` does."""
    version(registry, number)
    with registry.alone() as change:
        if (finished := change.resume_ruling(action="reject", version=number)) is not None:
            return finished
        close_lapsed(registry, change)
        found = _require_waiting(registry, number)
        against = found.tags.get("decided_against")
        return change.rule(
            found,
            "reject",
            "rejected",
            by=by or registry.user,
            reason=reason,
            against=None if against == "none" else against,
        )


def close(registry: Registry) -> list[Ruling]:
    """Reject every version that waits and may not be approved any more; return these rejections."""
    with registry.alone() as change:
        change.settle()
        return close_lapsed(registry, change)


def close_lapsed(registry: Registry, change: Change) -> list[Ruling]:
    """Do the same within a change of the registry that is settled."""
    known, moves = registry.versions(), change.history()
    found = [(candidate, lapse(candidate, known, moves)) for candidate in waiting(known)]
    rival = last_champion(known, moves)
    return [
        change.rule(
            candidate,
            "lapse",
            "rejected",
            by=f"ddpm, run by {registry.user}",
            reason=f"{why}; `{reconsider_command(registry.name, candidate.number)}` puts it before the gate again",
            against=None if rival is None else rival.number,
        )
        for candidate, why in reversed(found)
        if why is not None
    ]


def waiting(known: Iterable[Version]) -> list[Version]:
    """Return the versions about which a person has to decide, in the order of `known`."""
    return [found for found in known if found.tags.get("decision") == "pending"]


def lapse(
    candidate: Version, known: Sequence[Version], moves: Iterable[Move], at: datetime | None = None
) -> str | None:
    """Return why a version that waits may not be approved any more; None if it may. `known` is newest first."""
    others = waiting(known)
    newest = next((found for found in others if CHALLENGER in found.aliases), others[0])
    if newest.number != candidate.number:
        return f"overtaken: version {newest.number} waits for a person in its place"
    rival = last_champion(known, moves)
    before, present = candidate.tags.get("decided_against", "none"), "none" if rival is None else rival.number
    if before != present:
        words = [f"version {number}" if number != "none" else "no version" for number in (before, present)]
        return f"overtaken: it was compared with {words[0]}, and {words[1]} is the champion now"
    until = candidate.tags.get(APPROVE_UNTIL)
    if until is None:
        return None
    try:
        is_late = (at or now()) > datetime.fromisoformat(until)
    except (TypeError, ValueError):
        return f"expired: its tag {APPROVE_UNTIL} is {until!r}, expected a time with its zone, such as {_example()}"
    return f"expired: nobody approved it until {until}" if is_late else None


def last_moment(candidate: Version, against: str | None, *, days: float, at: datetime) -> str:
    """Return the time until which a person may approve the candidate, in ISO format.

    One that waits already, since it was compared with the same champion, does not get more time.
    """
    tags = candidate.tags
    if tags.get("decision") == "pending" and tags.get("decided_against") == (against or "none"):
        until = tags.get(APPROVE_UNTIL)
        if until is not None and not _is_past(until, at):
            return until
    return (at + timedelta(days=days)).isoformat(timespec="seconds")


def _is_past(until: str, at: datetime) -> bool:
    try:
        return at > datetime.fromisoformat(until)
    except (TypeError, ValueError):  # a time that cannot be read, or without a zone
        return True


def now() -> datetime:
    return datetime.now(UTC)


def _require_waiting(registry: Registry, number: str) -> Version:
    found = version(registry, number)
    tags = found.tags
    decision = tags.get("decision", "")
    if decision == "pending":
        return found
    called = f"version {number} of {registry.name}"
    author = on_one_line(f"by {tags.get('decided_by', 'nobody known')} on {tags.get('decided_at', 'an unknown date')}")
    why = on_one_line("; ".join(tags.get("reasons", "").splitlines())) or "no reason given"
    if CHAMPION in found.aliases:
        raise UserError(f"{called} is the champion already, promoted {author} ({why}); nothing is left to decide")
    if decision == "rejected":
        raise UserError(
            f"{called} was rejected already, {author} ({why}); "
            f"`{reconsider_command(registry.name, number)}` puts it before the gate again"
        )
    state = f"its last decision is {decision!r}, {author}" if decision else "the gate has not judged it"
    raise UserError(
        f"{called} does not wait for approval: {state}; to make it the champion all the same, "
        f"`{promote_command(registry.name, number)}`"
    )


def _example() -> str:
    return datetime(2026, 1, 31, tzinfo=UTC).isoformat(timespec="seconds")
