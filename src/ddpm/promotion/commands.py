"""A person's commands: promote a version, or roll back to the previous champion."""

from collections.abc import Callable

from ddpm.errors import UserError
from ddpm.promotion.admission import Canary, require_admitted
from ddpm.promotion.advice import promote_command
from ddpm.promotion.loadable import require_loadable
from ddpm.promotion.registry import Change, Registry, version
from ddpm.promotion.succession import Move, line


def promote(
    registry: Registry,
    number: str,
    *,
    reason: str,
    by: str | None = None,
    canary: Canary | None = None,
    only_if: Callable[[Change], object] | None = None,
) -> Move:
    """Make this version the champion by a person's command.

    The canary serves it before; None skips that, which is stored with the version. `only_if` is called under the
    registry's lock, before the canary and again before the move. Raise UserError if the version is the champion
    already, if the canary refuses it, if its model file is lost or cannot be read, and what `only_if` raises.
    """
    found = version(registry, number)
    with registry.alone() as change:
        if (finished := _promoted_already(registry, change, number, only_if)) is not None:
            return finished
    require_admitted(registry, found, canary)  # takes seconds, in which others may change the registry
    with registry.alone() as change:
        if (finished := _promoted_already(registry, change, number, only_if)) is not None:
            return finished
        return change.move(action="promote", version=number, by=by or registry.user, reason=reason)


def _promoted_already(
    registry: Registry, change: Change, number: str, only_if: Callable[[Change], object] | None
) -> Move | None:
    """Return an interrupted promotion of this version, finished; None if there was none.

    Raise UserError if it is the champion already, and what `only_if` raises.
    """
    if (finished := change.resume(action="promote", version=number)) is not None:
        return finished
    if only_if is not None:
        only_if(change)
    if change.champion() == number:
        raise UserError(f"version {number} of {registry.name} is the champion already; name another version")
    return None


def rollback(registry: Registry, *, reason: str, by: str | None = None, only: str | None = None) -> Move:
    """Make the previous champion the champion again. A second rollback goes one champion further back.

    A version that a person took down is skipped. To undo a rollback, promote the version that it took down. With
    `only`, this version alone is taken down. Raise UserError if another one is champion, if there is no previous
    champion, or if its model file is lost or cannot be read.
    """
    name = registry.name
    with registry.alone() as change:
        finished = change.resume(action="rollback")
        if finished is not None and only in (None, finished.previous):
            return finished
        known = {found.number: found for found in registry.versions()}
        current = change.champion()
        if only is not None and current != only:
            raise UserError(f"version {only} of {name} is not the champion any more, so nothing is rolled back")
        if current is None:
            raise UserError(f"{name} has no champion at {registry.place}; {_other(registry)}")
        before = [number for number in line(change.history()) if number in known and number != current]
        if not before:
            raise UserError(
                f"version {current} of {name} has no previous champion that was not taken down or deleted; "
                f"{_other(registry, current)}"
            )
        require_loadable(registry, known[before[-1]])
        return change.move(action="rollback", version=before[-1], by=by or registry.user, reason=reason)


def _other(registry: Registry, current: str | None = None) -> str:
    """Return the advice to promote another version than the current champion, with the newest one as example."""
    for found in registry.versions():
        if found.number != current:
            return f"choose one of `ddpm versions` and promote it: `{promote_command(registry.name, found.number)}`"
    return "register another version with `dvc repro`"
