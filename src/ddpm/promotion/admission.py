"""The canary: the last look at a version before it becomes champion, and what is stored of it."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from ddpm.errors import UserError
from ddpm.promotion.advice import promote_command
from ddpm.promotion.loadable import require_loadable
from ddpm.promotion.registry import Registry, Version


@dataclass(frozen=True)
class Examined:
    """What serving a version showed."""

    failures: tuple[str, ...] = ()
    """A sentence for each reason not to promote it."""
    remarks: tuple[str, ...] = ()
    """Sentences on what was found, and on what could not be compared."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """What was measured: seconds_to_start, seconds_of_one_image, memory_bytes, distance, distance_by_chance."""


Canary = Callable[[Registry, Version], Examined]
"""Serves a version and compares its answers (`canary.examine`). Raises nothing for a version that fails."""


def examined(registry: Registry, version: Version, canary: Canary) -> Examined:
    """Return what the canary found, after storing it with the version."""
    found = canary(registry, version)
    _keep(registry, version, "failed" if found.failures else "passed", **asdict(found))
    return found


def require_admitted(registry: Registry, version: Version, canary: Canary | None) -> None:
    """Raise UserError if the canary refuses the version. None skips it, which is stored; the file must still load."""
    if canary is None:
        require_loadable(registry, version)
        _keep(registry, version, "skipped")
        return
    if failures := examined(registry, version, canary).failures:
        advice = promote_command(registry.name, version.number)
        raise UserError(
            f"version {version.number} of {registry.name} does not become champion: {'; '.join(failures)}; mend that, "
            f"or promote it without the canary: `{advice} --skip-canary`"
        )


def _keep(registry: Registry, version: Version, outcome: str, **found: Any) -> None:
    registry.keep_canary(version.number, {"outcome": outcome, "by": registry.user, "when": now(), **found})


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
