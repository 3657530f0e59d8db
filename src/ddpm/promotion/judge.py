"""The decision about a registered candidate: promote it, keep the champion, or leave it to a person."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from ddpm.errors import UserError
from ddpm.promotion import gate
from ddpm.promotion.admission import Canary, examined
from ddpm.promotion.advice import approve_command, promote_command, reconsider_command
from ddpm.promotion.approval import close_lapsed, last_moment, now
from ddpm.promotion.loadable import require_loadable, require_loads
from ddpm.promotion.registry import CHAMPION, DECISION, Registry, Version, last_champion, version
from ddpm.promotion.settings import Promote
from ddpm.promotion.succession import Move, Ruling, rejected_by_person, taken_down

Decided = Literal["promoted", "kept", "pending"]
"""promoted: the candidate is the champion; kept: the champion stays; pending: a person decides."""


@dataclass(frozen=True)
class Outcome:
    """The result of judging a candidate."""

    verdict: Decided | Literal["champion"]
    """`champion`: the candidate is the champion already."""
    version: Version
    champion: Version | None
    """The champion before the decision."""
    reasons: tuple[str, ...]
    champion_record: Mapping[str, Any] | None
    """The champion's metrics by the candidate's protocol, if they were compared."""
    decision: gate.Decision | None = None
    """The verdict of every rule, if the rules decided."""


@dataclass(frozen=True)
class Asked:
    """A person's wish that the gate judges a version again, whatever a person decided about it before."""

    by: str
    reason: str


class Match(gate.Contest, Protocol):
    """A contest of two models (`gate.Contest`) that can also measure the metrics of the champion alone."""

    def champion_record(self) -> Mapping[str, Any]:
        """Return the champion's metrics by the candidate's protocol, as in reports/metrics.json."""


Begin = Callable[[Path, Path | None], Match]
"""Begins a contest of the candidate's model file and the champion's, None without a champion. Raises UserError if the
champion cannot be measured."""


def judge(
    candidate: Version,
    registry: Registry,
    *,
    rules: Promote,
    begin: Begin,
    folder: Path,
    likelihood: Mapping[str, float] | None = None,
    unfit: Mapping[str, str] | None = None,
    canary: Canary | None = None,
    measured: Mapping[str, Any] | None = None,
    asked: Asked | None = None,
) -> Outcome:
    """Decide about a registered candidate, move the alias if it is promoted, and write the decision on the version.

    If the alias was removed, the candidate is compared with the last champion. Where a rule compares, or the champion
    was measured by another protocol, the champion is downloaded into `folder` and a contest begins. If that is
    impossible, because it makes images of another kind or its file is lost, a person decides. What a person rejected or
    took down, by a rollback or in MLflow, stays as it is unless a person asked; then the history has who asked and why.
    `likelihood` has the candidate's bits per dimension by metric name; for `unfit` see `gate.decide`. `measured` are
    the candidate's metrics; None: those of its last registration. A candidate that would be promoted or left to a
    person is served by the canary first, and kept from both if that refuses it.
    """
    record = candidate.record() if measured is None else measured
    if record is None:
        raise UserError(f"version {candidate.number} of {rules.name} has no metrics; register it with `dvc repro`")
    with registry.alone() as change:
        finished = change.resume(action="promote", version=candidate.number)
        again = None if asked is None else change.resume_ruling(action="reconsider", version=candidate.number)
        moves, rulings = change.history(), change.rulings()
        if finished is not None:
            close_lapsed(registry, change)
    if finished is not None:
        return _finished(registry, candidate, finished, record)
    rival = last_champion(registry.versions(), moves)
    current = rival if rival is not None and CHAMPION in rival.aliases else None
    if current is not None and current.number == candidate.number:
        return Outcome("champion", candidate, current, ("it is the champion already: nothing to decide",), record)
    if again is not None and again.verdict != "rejected":
        return Outcome(again.verdict, candidate, current, tuple(again.reason.splitlines()), None)
    if asked is None and (reason := _person_said_no(candidate, moves, rulings)):
        waits = candidate.tags.get("decision") == "pending"  # since a person asked to reconsider it
        return Outcome("pending" if waits else "kept", candidate, current, (reason,), None)

    judged = _Judged("pending", None, ())
    if rival is None and moves:
        judged = judged.because("there is no champion, and no former champion exists to compare the candidate with")
    else:
        judged = _compared(
            candidate, dict(record) | dict(likelihood or {}), rival, registry, rules, begin, folder, unfit
        )
    if canary is not None and judged.verdict != "kept":
        judged = _served(judged, registry, candidate, canary)
    reasons = judged.reasons
    if rival is not None and current is None:
        reasons = (f"there is no champion now; the last one, version {rival.number}, is compared", *reasons)
    if asked is not None:
        reasons = (f"{asked.by} asked to reconsider it: {asked.reason}", *reasons)
    if judged.verdict == "pending":
        reasons = (*reasons, f"it waits for a person: `{approve_command(registry.name, candidate.number)}`")
    _write(
        registry,
        judged,
        candidate,
        current,
        rival,
        reasons,
        is_served=canary is not None,
        days=rules.approval_days,
        asked=asked,
    )
    return Outcome(
        judged.verdict, version(registry, candidate.number), current, reasons, judged.against, judged.decision
    )


@dataclass(frozen=True)
class _Judged:
    verdict: Decided
    against: Mapping[str, Any] | None
    """The rival's record by the candidate's protocol."""
    reasons: tuple[str, ...]
    decision: gate.Decision | None = None

    def because(self, reason: str) -> "_Judged":
        return replace(self, reasons=(*self.reasons, reason))


def _compared(
    candidate: Version,
    record: Mapping[str, Any],
    rival: Version | None,
    registry: Registry,
    rules: Promote,
    begin: Begin,
    folder: Path,
    unfit: Mapping[str, str] | None,
) -> _Judged:
    """Judge the candidate with this record by the rules, against the rival if there is one."""
    opponent: Mapping[str, Any] | None = None
    if rival is not None:
        if reason := _incomparable(candidate, rival):
            return _Judged("pending", None, (reason,))
        opponent = _record_like(rival, record)
    contest = None
    is_measured_again = rival is not None and opponent is None
    compares = rival is not None and rules.compares
    if compares or is_measured_again or any(rule.figure == "seconds_per_image" for rule in rules.rules):
        if rival is not None and is_measured_again:
            print(f"measuring champion {rival.number} again by the candidate's protocol", flush=True)
        own = registry.download(candidate, _new(folder / "candidate"))
        require_loads(own, candidate)  # or its fault would seem to be the champion's
        try:
            contest = begin(own, None if rival is None else registry.download(rival, _new(folder / "champion")))
            if is_measured_again:
                opponent = contest.champion_record()
        except UserError as error:
            if rival is None:
                raise
            reason = f"champion {rival.number} could not be measured by the same protocol ({error})"
            return _Judged("pending", None, (reason,))
        if rival is not None and is_measured_again and opponent is not None:
            registry.keep_record(rival.number, opponent)
    decision = gate.decide(record, rules, contest, has_champion=rival is not None, unfit=unfit)
    verdict: Decided = "kept"
    if decision.person or (decision.promote and rules.approval == "ask"):
        verdict = "pending"
    elif decision.promote:
        verdict = "promoted"
    return _Judged(verdict, opponent, decision.reasons, decision)


def _served(judged: _Judged, registry: Registry, candidate: Version, canary: Canary) -> _Judged:
    """Return the judgement after the canary, whose failures keep the candidate from being champion."""
    found = examined(registry, candidate, canary)
    judged = replace(judged, reasons=(*judged.reasons, *found.failures, *found.remarks))
    return replace(judged, verdict="kept") if found.failures else judged


def _new(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _record_like(rival: Version, record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the rival's record by this protocol; None if there is none or it is lost, so it must be measured again."""
    try:
        return rival.record_like(record)
    except UserError as error:
        print(f"{error}; meanwhile it is measured again", flush=True)
        return None


def _write(
    registry: Registry,
    judged: _Judged,
    candidate: Version,
    current: Version | None,
    rival: Version | None,
    reasons: tuple[str, ...],
    *,
    is_served: bool,
    days: float,
    asked: Asked | None,
) -> None:
    """Write the decision to the registry.

    Raise UserError, and write nothing, if the champion changed or a person said no since the decision began.
    """
    before = None if current is None else current.number
    again = "dvc repro register" if asked is None else reconsider_command(registry.name, candidate.number)
    with registry.alone() as change:
        present = change.champion()
        if present != before:
            raise UserError(
                f"the champion of {registry.name} changed from {before} to {present} while version {candidate.number} "
                f"was judged; judge it again with `{again}`"
            )
        fresh = version(registry, candidate.number)
        if asked is None and (no := _person_said_no(fresh, change.history(), change.rulings())):
            raise UserError(f"a person decided about version {candidate.number} while it was judged: {no}")
        if judged.decision is not None:
            registry.keep_decision(candidate.number, judged.decision.to_json())
        elif DECISION in candidate.tags:  # that of an earlier judgement must not stand beside these reasons
            registry.keep_decision(candidate.number, {"rules": [], "images": None})
        if judged.verdict == "promoted":
            if not is_served:
                require_loadable(registry, candidate)
            by = f"gate, run by {registry.user}" if asked is None else f"gate, asked by {asked.by}"
            change.move(action="promote", version=candidate.number, by=by, reason="\n".join(reasons))
        else:
            verdict, against = judged.verdict, None if rival is None else rival.number
            until = last_moment(candidate, against, days=days, at=now()) if verdict == "pending" else None
            if asked is None:
                change.decide(candidate, verdict, reasons, against=against, until=until)
            else:
                by, reason = f"gate, asked by {asked.by}", "\n".join(reasons)
                change.rule(candidate, "reconsider", verdict, by=by, reason=reason, against=against, until=until)
        close_lapsed(registry, change)


def _finished(registry: Registry, candidate: Version, move: Move, record: Mapping[str, Any]) -> Outcome:
    """Return the outcome of a promotion that was interrupted when the candidate was judged last time."""
    former = None if move.previous is None else version(registry, move.previous)
    against = None if former is None else former.record_like(record)
    return Outcome("promoted", version(registry, candidate.number), former, tuple(move.reason.splitlines()), against)


def _person_said_no(candidate: Version, moves: Iterable[Move], rulings: Iterable[Ruling]) -> str | None:
    """Return who rejected or took down the version, why, and what undoes that; None if nobody did."""
    number = candidate.number
    if (move := taken_down(moves).get(number)) is not None:
        what = "it was rolled back" if move.action == "rollback" else "a person took it down in MLflow"
        undo = f"`{promote_command(candidate.name, number)}` undoes that"
        said = f"{what} ({move.reason})"
    elif (ruling := rejected_by_person(number, candidate.tags, rulings)) is not None:
        said = f"{ruling.by} rejected it on {ruling.when} ({'; '.join(ruling.reason.splitlines())})"
        undo = f"`{promote_command(candidate.name, number)}` makes it the champion all the same"
    else:
        return None
    return f"{said}; {undo}, and `{reconsider_command(candidate.name, number)}` puts it before the gate again"


def _incomparable(candidate: Version, current: Version) -> str | None:
    """Return why two models' images cannot be measured against the same reference; None if they can."""
    shapes = [tuple(each.tags.get(key, "unknown") for key in ("channels", "size")) for each in (candidate, current)]
    if shapes[0] == shapes[1]:
        return None
    new, old = (f"{channels} channel(s) of {size}x{size} pixels" for channels, size in shapes)
    return (
        f"it makes images of {new} and champion {current.number} of {old}: their metrics do not compare, "
        "so a person decides (or give the new kind of model its own name in promote.name)"
    )


def summary(outcome: Outcome, *, metric: str) -> str:
    """Return the decision, the values of the metric and the reasons, one per line."""
    found, record = outcome.version, outcome.version.record() or {}
    words = {"promoted": "is the champion now", "kept": "is not promoted", "pending": "waits for a person"}
    lines = [f"{found.name} version {found.number} {words.get(outcome.verdict, 'is the champion already')}"]
    if outcome.champion is not None and outcome.champion.number != found.number:
        lines[0] += f" (champion before: version {outcome.champion.number})"
    records = {"candidate": record, "champion": outcome.champion_record, "floor": record.get("floor")}
    records |= {"reconstructed": record.get("reconstructed")}
    measured = [f"{who} {as_text(of[metric])}" for who, of in records.items() if of and metric in of]
    values = [f"  {metric}: {', '.join(measured)}"] if measured else []
    return "\n".join([*lines, *values, *(f"  {reason}" for reason in outcome.reasons)])


def as_text(value: float | None) -> str:
    """Format a metric for messages and for tags of a version."""
    return "none" if value is None else f"{value:.6g}"
