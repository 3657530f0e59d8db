"""Decisions about champions without a server: the rules of judge, commands and succession."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from fixed_contest import FixedContest, promote
from registry_in_memory import RegistryInMemory

from ddpm.errors import UserError
from ddpm.generation.recipe import load_model
from ddpm.promotion import commands
from ddpm.promotion.gate import MEMORIZED
from ddpm.promotion.judge import Outcome, judge
from ddpm.promotion.registry import CHAMPION, Version, holding, version

PROTOCOL = {"n": 100}
NEWER = {"n": 200}


def record(fid: float, protocol: Mapping[str, Any] = PROTOCOL) -> dict[str, Any]:
    return {"fid": fid, "floor": {"fid": 4.0}, "protocol": protocol} | dict.fromkeys(MEMORIZED, 0.01)


@pytest.fixture
def registry(tmp_path: Path, tiny_model: Callable[..., str]) -> RegistryInMemory:
    tiny_model(tmp_path / "model.safetensors")
    return RegistryInMemory(tmp_path / "model.safetensors")


def judged(registry: RegistryInMemory, candidate: Version, *, again: float | None = None, **changes: Any) -> Outcome:
    """Decides about the candidate; a champion that is measured again has this FID."""

    def begin(_: Path, champion: Path | None) -> FixedContest:
        measured = candidate.record() or {}
        before = [version(registry, move.version) for move in registry.moves if move.version]
        known = None if champion is None else before[-1].record_like(measured)
        assert champion is None or known or again is not None, "measured again without need"
        return FixedContest(measured, known or record(again or 0.0, NEWER))

    return judge(candidate, registry, rules=promote(**changes), begin=begin, folder=Path("unused"))


def champions(registry: RegistryInMemory, *fids: float) -> None:
    for fid in fids:
        assert judged(registry, registry.register(record(fid))).verdict == "promoted"


@pytest.mark.parametrize(
    ("fid", "approval", "verdict", "champion"),
    [
        (8.0, "auto", "promoted", "2"),
        (9.5, "auto", "kept", "1"),  # better, but by less than a tenth
        (30.0, "auto", "kept", "1"),  # above five times the floor
        (8.0, "ask", "pending", "1"),
        (30.0, "ask", "kept", "1"),
    ],
)
def test_a_candidate_takes_over_if_it_is_better_enough_and_no_person_is_to_be_asked(
    registry: RegistryInMemory, fid: float, approval: str, verdict: str, champion: str
) -> None:
    champions(registry, 10.0)
    outcome = judged(registry, registry.register(record(fid)), approval=approval)
    assert (outcome.verdict, registry.champion()) == (verdict, champion)
    assert (outcome.version.tags["decision"], outcome.version.tags["decided_against"]) == (verdict, "1")
    assert ("challenger" in outcome.version.aliases) == (verdict == "pending")


def test_a_champion_of_another_protocol_is_measured_again_and_its_new_record_is_kept(
    registry: RegistryInMemory,
) -> None:
    champions(registry, 10.0)
    candidate = registry.register(record(8.0, NEWER))
    assert judged(registry, candidate, again=8.1).verdict == "kept"
    assert version(registry, "1").records()[1:] == [record(8.1, NEWER)]
    assert judged(registry, candidate).champion_record == record(8.1, NEWER)


def test_a_champion_that_cannot_be_measured_again_is_left_to_a_person(registry: RegistryInMemory) -> None:
    champions(registry, 10.0)
    registry.lost.add("1")
    outcome = judged(registry, registry.register(record(1.0, NEWER)))
    assert outcome.verdict == "pending"
    assert "could not be measured by the same protocol (version 1 has lost its file)" in outcome.reasons[0]
    assert judged(registry, registry.register(record(1.0), size="16")).reasons[0].startswith("it makes images of")


def test_a_candidate_whose_file_is_torn_is_named_itself_and_not_the_champion(
    registry: RegistryInMemory, tmp_path: Path
) -> None:
    champions(registry, 10.0)
    candidate = registry.register(record(1.0))
    registry.files[candidate.number] = tmp_path / "torn.safetensors"
    registry.files[candidate.number].write_bytes(registry.model_file.read_bytes()[:-9])

    def begin(own: Path, _: Path | None) -> FixedContest:  # stage `register` loads both files
        load_model(own)
        return FixedContest(record(1.0), record(10.0))

    with pytest.raises(UserError, match=r"^version 2 of ddpm cannot be champion: .*torn\.safetensors"):
        judge(candidate, registry, rules=promote(), begin=begin, folder=Path("unused"))
    assert "decision" not in version(registry, "2").tags


@pytest.mark.parametrize("moved_to", ["1", None])
def test_a_version_that_a_person_took_down_comes_back_only_by_a_person(
    registry: RegistryInMemory, moved_to: str | None
) -> None:
    champions(registry, 16.0, 8.0)
    if moved_to is None:
        del registry.aliases[CHAMPION]
    else:
        registry.aliases[CHAMPION] = moved_to
    outcome = judged(registry, version(registry, "2"))
    assert (outcome.verdict, registry.champion()) == ("kept", moved_to)
    assert '`ddpm promote 2 --reason "why"` undoes that' in outcome.reasons[0]
    commands.promote(registry, "2", reason="it was the camera")
    assert registry.champion() == "2"


def test_a_rollback_passes_over_what_was_taken_down_and_stops_at_the_first(registry: RegistryInMemory) -> None:
    champions(registry, 16.0, 8.0, 4.0)
    assert [commands.rollback(registry, reason="blurred").version for _ in range(2)] == ["2", "1"]
    with pytest.raises(UserError, match="has no previous champion"):
        commands.rollback(registry, reason="further")
    commands.promote(registry, "3", reason="it was the camera")
    assert commands.rollback(registry, reason="it was not").version == "1", "a person took 2 down"


def test_without_a_champion_the_last_one_is_compared_with(registry: RegistryInMemory) -> None:
    champions(registry, 5.0)
    del registry.aliases[CHAMPION]
    outcome = judged(registry, registry.register(record(19.9)))
    assert (outcome.verdict, registry.champion()) == ("kept", None)
    assert outcome.reasons[0] == "there is no champion now; the last one, version 1, is compared"
    assert judged(registry, registry.register(record(4.0))).verdict == "promoted"


def test_a_version_whose_file_is_lost_never_becomes_champion(registry: RegistryInMemory) -> None:
    champions(registry, 16.0, 8.0)
    registry.lost |= {"1", "3"}
    with pytest.raises(UserError, match="has lost its file"):
        judged(registry, registry.register(record(1.0)))
    with pytest.raises(UserError, match="has lost its file"):
        commands.rollback(registry, reason="blurred")
    assert registry.champion() == "2"


def test_a_version_that_no_consumer_could_sample_from_never_becomes_champion(
    registry: RegistryInMemory, tmp_path: Path, tiny_model: Callable[..., str]
) -> None:
    tiny_model(tmp_path / "model.safetensors", recipe={"steps": 51})  # more than the model has
    with pytest.raises(UserError, match=r"cannot be champion: .* recipe\.steps is 51, expected at most"):
        judged(registry, registry.register(record(1.0)))
    assert registry.champion() is None


def test_a_champion_that_changed_meanwhile_stops_the_decision(registry: RegistryInMemory) -> None:
    champions(registry, 10.0)
    registry.register(record(9.9))

    def begin(_: Path, __: Path | None) -> FixedContest:
        commands.promote(registry, "2", reason="meanwhile")
        return FixedContest(record(1.0, NEWER), record(9.0, NEWER))

    candidate = registry.register(record(1.0, NEWER))
    with pytest.raises(UserError, match="changed from 1 to 2 while version 3 was judged"):
        judge(candidate, registry, rules=promote(), begin=begin, folder=Path("unused"))
    assert registry.champion() == "2"
    left = version(registry, candidate.number)
    assert (left.rules(), "decision" in left.tags) == ([], False), "a table against a former champion must not stay"
    again = judged(registry, left, again=9.0)
    assert (again.verdict, again.version.tags["decided_against"]) == ("promoted", "2")


def test_a_version_is_found_by_its_weights_and_the_protocol_of_its_metrics_whatever_is_in_it(
    registry: RegistryInMemory,
) -> None:
    opaque = {"n": 100, "drawing": {"temperature": 0.7}}
    found = registry.register(record(5.0, opaque), weights_sha256="w")
    registry.register(record(5.0), weights_sha256="w")
    assert holding(registry.versions(), "w", opaque) == found
    assert holding(registry.versions(), "v", opaque) is None


def test_the_table_of_an_earlier_judgement_does_not_stand_beside_the_reasons_of_a_later_one(
    registry: RegistryInMemory,
) -> None:
    champions(registry, 10.0)
    candidate = registry.register(record(9.5))
    assert judged(registry, candidate).version.rules()
    registry.lost.add("1")
    again = judged(registry, version(registry, candidate.number))
    assert (again.verdict, again.version.rules()) == ("pending", [])
