"""The decision about a version in words, and how a person can change it."""

from ddpm.promotion.advice import promote_command, rollback_command
from ddpm.promotion.registry import Version
from ddpm.reporting.markdown import bullets, code, escaped

VERDICTS = {
    "promoted": "became the champion",
    "kept": "did not become the champion",
    "pending": "waits for a person's decision",
    "rolled back": "was the champion and was rolled back",
    "demoted": "was the champion and was taken down by a person",
}
"""The values of the tag `decision`, in words."""


def decision(version: Version, champion: Version | None) -> str:
    """Return Markdown with the decision about this version, who made it, its reasons and what a person can do."""
    lines = [f"Version {escaped(version.number)} of {code(version.name)} **{verdict(version)}**{_author(version)}."]
    if found := reasons(version):
        lines += ["", bullets(found)]
    if version.tags.get("decision") == "pending":
        lines += ["", f"To approve it: {code(promote_command(version.name, version.number))}"]
    if champion is None:
        lines += ["", "There is no champion."]
    else:
        before = version.tags.get("decided_against", "none")
        undo = before != "none" and champion.number == version.number
        way_back = f" To return to version {escaped(before)}: {code(rollback_command(version.name))}" if undo else ""
        lines += ["", f"Champion: version {escaped(champion.number)}.{way_back}"]
    return "\n".join(lines)


def verdict(version: Version) -> str:
    """Return the decision about a version as the end of a sentence, such as "became the champion"."""
    return VERDICTS.get(version.tags.get("decision", ""), "is not judged yet")


def reasons(version: Version) -> list[str]:
    """Return the reasons of the decision, one sentence each."""
    return [reason for reason in version.tags.get("reasons", "").splitlines() if reason.strip()]


def _author(version: Version) -> str:
    by, when = version.tags.get("decided_by"), version.tags.get("decided_at")
    if not by:
        return ""
    return f", decided by {escaped(by)}" + (f" on {escaped(when[:16].replace('T', ' at '))}" if when else "")
