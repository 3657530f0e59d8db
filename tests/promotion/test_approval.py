"""A version that waits for a person: approved, rejected, overtaken, too late, and asked for again."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fixed_contest import FixedContest, promote
from registry_in_memory import RegistryInMemory

from ddpm.errors import UserError
from ddpm.promotion import approval, commands
from ddpm.promotion.gate import MEMORIZED
from ddpm.promotion.judge import Asked, Outcome, judge
from ddpm.promotion.registry import APPROVE_UNTIL, CHALLENGER, CHAMPION, Version, version
from ddpm.promotion.succession import Ruling


def record(fid: float) -> dict[str, Any]:
    return {"fid": fid, "floor": {"fid": 4.0}, "protocol": {"n": 100}} | dict.fromkeys(MEMORIZED, 0.01)


@pytest.fixture
def registry(tmp_path: Path, tiny_model: Callable[..., str]) -> RegistryInMemory:
    tiny_model(tmp_path / "model.safetensors")
    return RegistryInMemory(tmp_path / "model.safetensors")


def judged(registry: RegistryInMemory, candidate: Version, *, asked: Asked | None = None, **changes: Any) -> Outcome:
    def begin(_: Path, champion: Path | None) -> FixedContest:
        before = [version(registry, move.version) for move in registry.moves if move.version]
        known: Mapping[str, Any] | None = None if champion is None else before[-1].record()
        return FixedContest(candidate.record() or {}, known)

    rules = promote(**changes)
    return judge(candidate, registry, rules=rules, begin=begin, folder=Path("unused"), asked=asked)


def champion_and_waiting(registry: RegistryInMemory, *fids: float) -> None:
    """Version 1 is the champion; the gate leaves each of the others to a person."""
    assert judged(registry, registry.register(record(16.0))).verdict == "promoted"
    for fid in fids:
        assert judged(registry, registry.register(record(fid)), approval="ask").verdict == "pending"


def let_expire(registry: RegistryInMemory, number: str) -> None:
    registry._tag(number, {APPROVE_UNTIL: "2026-01-01T00:00:00+00:00"})


def decision(registry: RegistryInMemory, number: str) -> str:
    return version(registry, number).tags["decision"]


def test_a_yes_makes_it_the_champion_and_keeps_who_said_so_and_why(registry: RegistryInMemory) -> None:
    champion_and_waiting(registry, 8.0)
    move = approval.approve(registry, "2", reason="sharp", by="Ann")
    assert (move.version, move.previous, move.by, move.reason) == ("2", "1", "Ann", "sharp")
    assert (registry.champion(), decision(registry, "2")) == ("2", "promoted")


def test_a_no_leaves_the_champion_and_stands_until_a_person_asks(registry: RegistryInMemory) -> None:
    champion_and_waiting(registry, 8.0)
    approval.reject(registry, "2", reason="blurred eights", by="Ann")
    assert (registry.champion(), decision(registry, "2"), registry.aliases.get(CHALLENGER)) == ("1", "rejected", None)
    [ruling] = registry.rulings()
    assert (ruling.action, ruling.version, ruling.by, ruling.reason) == ("reject", "2", "Ann", "blurred eights")
    again = judged(registry, version(registry, "2"))  # the same model is registered again, and the gate may decide
    assert (again.verdict, registry.champion()) == ("kept", "1")
    assert "Ann rejected it on" in again.reasons[0]
    assert "`ddpm reconsider 2" in again.reasons[0]
    assert judged(registry, version(registry, "2"), asked=Asked("Bob", "I like them")).verdict == "promoted"


def approve(registry: RegistryInMemory) -> object:
    return approval.approve(registry, "2", reason="sharp", by="Ann")


def reject(registry: RegistryInMemory) -> object:
    return approval.reject(registry, "2", reason="blurred", by="Bob")


def roll_back(registry: RegistryInMemory) -> object:
    return commands.rollback(registry, reason="no")


def overtake(registry: RegistryInMemory) -> object:
    return judged(registry, registry.register(record(7.0)), approval="ask")


def promote_another(registry: RegistryInMemory) -> object:
    registry.register(record(7.0))
    return commands.promote(registry, "3", reason="by hand")


@pytest.mark.parametrize(
    ("before", "why", "decided"),
    [
        ([approve], "is the champion already, promoted by Ann on .* (sharp)", "promoted"),
        ([reject], "was rejected already, by Bob on .* (blurred); `ddpm reconsider 2", "rejected"),
        ([approve, roll_back], "does not wait for approval: its last decision is 'rolled back'", "rolled back"),
        ([overtake], "overtaken: version 3 waits for a person in its place", "rejected"),
        ([promote_another], "overtaken: it was compared with version 1, and version 3 is the champion", "rejected"),
        ([lambda there: let_expire(there, "2")], "expired: nobody approved it until 2026-01-01", "rejected"),
        ([lambda there: there._tag("2", {APPROVE_UNTIL: "soon"})], "approve_until is 'soon', expected", "rejected"),
    ],
    ids=["approved", "rejected", "rolled back", "overtaken", "another champion", "too late", "no time"],
)
@pytest.mark.parametrize("answer", [approve, reject])
def test_a_version_that_does_not_wait_any_more_is_neither_approved_nor_rejected_and_the_reason_says_why(
    answer: Callable[[RegistryInMemory], object],
    before: list[Callable[[RegistryInMemory], object]],
    why: str,
    decided: str,
    registry: RegistryInMemory,
) -> None:
    champion_and_waiting(registry, 8.0)
    for change in before:
        change(registry)
    champion, moves = registry.champion(), len(registry.moves)
    with pytest.raises(UserError) as refused:
        answer(registry)

    assert re.search(why.replace("(", r"\(").replace(")", r"\)"), str(refused.value))
    assert (registry.champion(), len(registry.moves), decision(registry, "2")) == (champion, moves, decided)
    rulings = list(registry.rulings())
    with pytest.raises(UserError):
        answer(registry)
    assert registry.rulings() == rulings, "the same answer once more changes nothing"


def test_a_version_that_never_waited_is_not_approved(registry: RegistryInMemory) -> None:
    champion_and_waiting(registry)
    registry.register(record(8.0))
    with pytest.raises(UserError, match=r"the gate has not judged it; .* `ddpm promote 2"):
        approve(registry)
    assert judged(registry, version(registry, "2"), approval="ask").verdict == "pending"
    with pytest.raises(UserError, match="has no version 7"):
        approval.reject(registry, "7", reason="none")


def test_a_retraining_rejects_what_it_overtakes_and_what_is_too_late(registry: RegistryInMemory) -> None:
    champion_and_waiting(registry, 8.0, 9.0)
    assert [decision(registry, number) for number in "23"] == ["rejected", "pending"]
    let_expire(registry, "3")
    closed = approval.close(registry)
    assert [(ruling.action, ruling.version) for ruling in closed] == [("lapse", "3")]
    assert closed[0].reason.startswith("expired: ")
    assert closed == registry.rulings()[1:]
    assert approval.close(registry) == []
    assert registry.champion() == "1"


def test_a_version_that_lapsed_may_be_judged_again_when_it_is_registered_again(registry: RegistryInMemory) -> None:
    champion_and_waiting(registry, 8.0)
    let_expire(registry, "2")
    approval.close(registry)
    assert judged(registry, version(registry, "2"), approval="ask").verdict == "pending"
    assert approval.close(registry) == []


def test_a_version_that_is_judged_again_while_it_waits_gets_no_more_time(registry: RegistryInMemory) -> None:
    champion_and_waiting(registry, 8.0)
    registry._tag("2", {APPROVE_UNTIL: "2999-01-01T00:00:00+00:00"})
    judged(registry, version(registry, "2"), approval="ask", approval_days=1.0)
    assert version(registry, "2").tags[APPROVE_UNTIL] == "2999-01-01T00:00:00+00:00"


def test_a_no_that_comes_while_the_gate_judges_stands(registry: RegistryInMemory) -> None:
    champion_and_waiting(registry, 8.0)

    def begin(_: Path, __: Path | None) -> FixedContest:
        approval.reject(registry, "2", reason="blurred eights", by="Ann")
        return FixedContest(record(8.0), record(16.0))

    with pytest.raises(UserError, match=r"a person decided about version 2 while it was judged: Ann rejected it"):
        judge(version(registry, "2"), registry, rules=promote(), begin=begin, folder=Path("unused"))
    assert (registry.champion(), decision(registry, "2")) == ("1", "rejected")


def test_a_version_that_is_reconsidered_after_its_time_waits_for_a_new_one(registry: RegistryInMemory) -> None:
    champion_and_waiting(registry, 8.0)
    let_expire(registry, "2")
    again = judged(registry, version(registry, "2"), asked=Asked("Bob", "I was away"), approval="ask")
    assert (again.verdict, decision(registry, "2")) == ("pending", "pending")
    assert approval.approve(registry, "2", reason="sharp", by="Bob").version == "2"


def test_the_time_to_approve_is_that_of_the_setting(registry: RegistryInMemory) -> None:
    champion_and_waiting(registry)
    before = datetime.now(UTC)
    waits = judged(registry, registry.register(record(8.0)), approval="ask", approval_days=2.0).version
    until = datetime.fromisoformat(waits.tags[APPROVE_UNTIL])
    assert 2 * 86400 - 1 <= (until - before).total_seconds() < 2 * 86400 + 60
    known = registry.versions()
    assert approval.lapse(waits, known, registry.moves, at=until) is None
    late = approval.lapse(waits, known, registry.moves, at=until.replace(year=until.year + 1))
    assert (late or "").startswith("expired")


def test_an_alias_that_a_person_took_away_in_mlflow_changes_nothing_about_who_waits(registry: RegistryInMemory) -> None:
    champion_and_waiting(registry, 8.0)
    del registry.aliases[CHALLENGER]
    assert approval.close(registry) == []
    del registry.aliases[CHAMPION]
    assert approval.close(registry) == [], "it was compared with the last champion"
    assert approval.approve(registry, "2", reason="sharp").previous is None


@pytest.mark.parametrize(
    ("fid", "mode", "verdict"), [(8.0, "auto", "promoted"), (8.0, "ask", "pending"), (30.0, "auto", "kept")]
)
def test_a_version_that_was_rolled_back_goes_before_the_gate_again_only_if_a_person_asks(
    fid: float, mode: str, verdict: str, registry: RegistryInMemory
) -> None:
    champion_and_waiting(registry)
    registry.register(record(fid))
    commands.promote(registry, "2", reason="by hand")
    commands.rollback(registry, reason="blurred", by="Ann")
    refused = judged(registry, version(registry, "2"), approval=mode)
    assert (refused.verdict, registry.champion()) == ("kept", "1")
    assert "`ddpm reconsider 2" in refused.reasons[0]
    asked = judged(registry, version(registry, "2"), approval=mode, asked=Asked("Bob", "it was the camera"))
    assert asked.verdict == verdict
    assert asked.reasons[0] == "Bob asked to reconsider it: it was the camera"
    if verdict == "promoted":
        assert registry.champion() == "2"
        assert registry.moves[-1].by == "gate, asked by Bob"
        assert registry.moves[-1].reason.startswith(asked.reasons[0])
    else:
        assert registry.champion() == "1"
        ruling: Ruling = registry.rulings()[-1]
        assert replace(ruling, when="", reason="") == Ruling(
            "reconsider", "pending" if mode == "ask" else "kept", "2", "gate, asked by Bob", "", "", "1"
        )
        assert ruling.reason.startswith(asked.reasons[0])
    later = judged(registry, version(registry, "2"), approval=mode)
    assert later.verdict == {"promoted": "champion"}.get(verdict, verdict), "the nightly gate does not undo it"
