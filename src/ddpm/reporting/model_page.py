"""The page of a registered model: what it is, how to read its versions, and the champions in time."""

from collections.abc import Mapping, Sequence

from ddpm.promotion.advice import name_option
from ddpm.promotion.registry import CHALLENGER, CHAMPION, Version
from ddpm.reporting.fitting import fitted
from ddpm.reporting.history import Event, history_table
from ddpm.reporting.markdown import bullets, code, escaped, table
from ddpm.reporting.measurements import Protocols

_MOST_EVENTS = 10
_LONGEST_REASON = 100


def page(name: str, events: Sequence[Event], versions: Mapping[str, Version], *, limit: int | None = None) -> str:
    """Return the page in Markdown, in at most `limit` characters; it has the last of these decisions, oldest first."""
    option = name_option(name)
    parts = [
        "A diffusion model that generates images. The pipeline trains each version, measures it and decides which one "
        f"consumers get: the version with the alias {code(CHAMPION)}.",
        "**How to read a version**: its number counts the registrations. Its page has samples, metrics beside those of "
        "the champion before and of real images (*floor*), the decision with its reasons, and the settings. "
        f"The alias {code(CHALLENGER)} marks a version that waits for a person. Its artifacts are the model file, "
        "the model card and the records of its metrics.",
        _champions(events, versions, option),
        f"**Commands**: {code(f'ddpm versions{option}')} lists all versions, {code(f'ddpm history{option}')} all "
        f"champions, and {code(f'ddpm compare 1 2{option}')} puts two versions side by side.",
    ]
    return fitted(parts, limit=limit, rest="")


def _champions(events: Sequence[Event], versions: Mapping[str, Version], option: str) -> str:
    if not events:
        return "There has been no champion yet."
    protocols = Protocols()
    shown = history_table(events[-_MOST_EVENTS:], versions, protocols, longest=_LONGEST_REASON)
    lines = ["**Champions and decisions, newest first**", table(shown, spaced=True), "&nbsp;"]
    lines.append(bullets(protocols.legend()))
    if len(events) > _MOST_EVENTS:
        lines.append(escaped(f"{len(events) - _MOST_EVENTS} earlier ones: ") + code(f"ddpm history{option}"))
    return "\n\n".join(lines)
