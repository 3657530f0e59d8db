"""The decision about a version in words, and how a person can change it."""

from collections.abc import Iterable, Mapping
from typing import Any

from ddpm.errors import UserError
from ddpm.measuring.metric_catalogue import find
from ddpm.promotion.advice import approve_command, reconsider_command, rollback_command
from ddpm.promotion.registry import APPROVE_UNTIL, Version
from ddpm.reporting.history import local_time
from ddpm.reporting.markdown import Table, bullets, code, escaped, table

VERDICTS = {
    "promoted": "became the champion",
    "kept": "did not become the champion",
    "pending": "waits for a person's decision",
    "rejected": "was rejected",
    "rolled back": "was the champion and was rolled back",
    "demoted": "was the champion and was taken down by a person",
}
"""The values of the tag `decision`, in words."""


def decision(version: Version, champion: Version | None) -> str:
    """Return Markdown with the decision about this version, who made it, its reasons and what a person can do."""
    lines = [f"Version {escaped(version.number)} of {code(version.name)} **{verdict(version)}**{_author(version)}."]
    rules = rules_of(version)
    if rules:
        lines += ["", table(rules_table(rules))]
    if found := remarks(version, rules):
        lines += ["", bullets(found)]
    lines += [sentence for line in next_steps(version) for sentence in ("", line)]
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


def next_steps(version: Version) -> list[str]:
    """Return in Markdown what a person can do about the decision, one sentence each."""
    name, number, decided = version.name, version.number, version.tags.get("decision")
    if decided == "pending":
        until = version.tags.get(APPROVE_UNTIL)
        late = f" Until {escaped(local_time(until))}; after that it counts as rejected." if until else ""
        yes, no = (code(approve_command(name, number, reject=reject)) for reject in (False, True))
        return [f"To approve it: {yes}; to reject it: {no}.{late}"]
    if decided in ("rejected", "rolled back", "demoted"):
        return [f"To put it before the gate again: {code(reconsider_command(name, number))}"]
    return []


def reasons(version: Version) -> list[str]:
    """Return the reasons of the decision, one sentence each."""
    return [reason for reason in version.tags.get("reasons", "").splitlines() if reason.strip()]


def rules_of(version: Version) -> list[dict[str, Any]]:
    """Return the gate's verdict on every rule; empty if the gate did not decide, or if the document is lost."""
    try:
        return version.rules()
    except UserError:
        return []


def remarks(version: Version, rules: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the reasons that are not about one of these rules, which a table shows."""
    sentences = {rule["sentence"] for rule in rules}
    return [reason for reason in reasons(version) if reason not in sentences]


def rules_table(rules: Iterable[Mapping[str, Any]]) -> Table:
    """Return a table of the gate's rules with both values, their difference, all with intervals, and the verdict.

    `rules` are as `promotion.verdicts.Verdict.to_json` returns them.
    """
    rows = [
        (rule["words"], *(_interval(rule, name) for name in ("candidate", "champion", "difference")), _verdict(rule))
        for rule in rules
    ]
    return Table(("rule", "candidate", "champion", "difference", "verdict"), rows)


def because(rules: Iterable[Mapping[str, Any]]) -> str:
    """Return the rules that did not pass in a few words; empty if all did."""
    return ", ".join(
        f"{rule['words']}: {_verdict(rule)}" for rule in rules if rule["outcome"] not in ("passed", "no champion")
    )


def _verdict(rule: Mapping[str, Any]) -> str:
    outcome = {"unfit": "not judged", "no champion": "no champion to compare with"}.get(
        rule["outcome"], rule["outcome"]
    )
    if (otherwise := rule.get("otherwise")) is not None:
        return f"{outcome} (would have been: {otherwise})"
    comparison = rule["comparison"]
    return outcome if comparison in (None, outcome) else f"{outcome} ({comparison})"


def _interval(rule: Mapping[str, Any], name: str) -> str:
    found = rule[name]
    if found is None:
        return ""
    metric = find(rule["rule"]["figure"])
    form = "{:.2%}" if metric is not None and metric.group == "copies" else "{:.4g}"
    value, low, high = (None if each is None else form.format(each) for each in found.values())
    return f"{value}" if low is None else f"{value} ({low} to {high})"


def _author(version: Version) -> str:
    by, when = version.tags.get("decided_by"), version.tags.get("decided_at")
    if not by:
        return ""
    return f", decided by {escaped(by)}" + (f" on {escaped(when[:16].replace('T', ' at '))}" if when else "")
