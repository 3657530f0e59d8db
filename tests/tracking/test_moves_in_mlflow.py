"""Promotions, rollbacks and moves by hand in MLflow."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from fixed_contest import FixedContest, promote
from shelf import PROTOCOL, REGISTRY, Shelf, moved_by_hand, record

from ddpm.errors import UserError
from ddpm.promotion import commands, registry
from ddpm.promotion.judge import judge

IN_MEMORY_TOO = pytest.mark.slow
"""Also in tests/promotion/test_judge.py, on a registry in memory; test_registry_model.py compares the registries."""


@pytest.fixture
def shelf(project: Path, tiny_model: Callable[..., str]) -> Shelf:
    return Shelf(project, tiny_model)


def test_promoting_the_champion_or_a_version_there_is_not_is_refused(shelf: Shelf) -> None:
    shelf.judged(0, 10.0)
    with pytest.raises(UserError, match="is the champion already"):
        commands.promote(REGISTRY, "1", reason="again")
    with pytest.raises(UserError, match=r"has no version 7 .*there are: 1"):
        commands.promote(REGISTRY, "7", reason="lucky")


def test_rollback_goes_back_step_by_step_and_stops_at_the_first(shelf: Shelf) -> None:
    for seed, fid in enumerate((16.0, 8.0, 4.0)):
        shelf.judged(seed, fid)
    assert shelf.champion() == "3"
    move = commands.rollback(REGISTRY, reason="blurred", by="Ann")
    assert (move.version, move.previous, move.by, move.reason) == ("2", "3", "Ann", "blurred")
    assert shelf.champion() == "2"
    commands.rollback(REGISTRY, reason="still blurred")
    assert shelf.champion() == "1"
    with pytest.raises(UserError, match="has no previous champion"):
        commands.rollback(REGISTRY, reason="further")
    assert shelf.champion() == "1"
    assert [(m.action, m.version) for m in REGISTRY.history()] == [
        ("promote", "1"),
        ("promote", "2"),
        ("promote", "3"),
        ("rollback", "2"),
        ("rollback", "1"),
    ]


def test_a_rollback_is_undone_by_promoting_and_can_then_be_done_again(shelf: Shelf) -> None:
    shelf.judged(0, 16.0)
    shelf.judged(1, 8.0)
    commands.rollback(REGISTRY, reason="blurred")
    commands.promote(REGISTRY, "2", reason="it was the camera")
    assert shelf.champion() == "2"
    commands.rollback(REGISTRY, reason="it was not")
    assert shelf.champion() == "1"


def test_a_version_that_was_rolled_back_does_not_come_back_by_itself(shelf: Shelf) -> None:
    shelf.judged(0, 16.0)
    shelf.judged(1, 8.0)
    commands.rollback(REGISTRY, reason="blurred")
    assert registry.version(REGISTRY, "2").tags["decision"] == "rolled back"
    outcome = shelf.judged(1, 8.0)
    assert (outcome.verdict, shelf.champion()) == ("kept", "1")
    assert "rolled back (blurred)" in outcome.reasons[0]


def test_an_alias_that_was_moved_by_hand_is_rolled_back_to_the_champion_before(shelf: Shelf) -> None:
    shelf.judged(0, 10.0)
    shelf.register(1, record(9.9))
    shelf.client.set_registered_model_alias("ddpm", "champion", "2")
    assert commands.rollback(REGISTRY, reason="who did that?").version == "1"


@pytest.mark.parametrize("to", ["1", pytest.param(None, marks=IN_MEMORY_TOO)])
def test_a_champion_that_a_person_took_down_in_mlflow_comes_back_only_by_a_person(shelf: Shelf, to: str | None) -> None:
    for seed, fid in enumerate((16.0, 8.0)):
        shelf.judged(seed, fid)
    moved_by_hand(shelf, to)
    outcome = shelf.judged(1, 8.0)
    assert (outcome.verdict, shelf.champion()) == ("kept", to)
    assert '`ddpm promote 2 --reason "why"` undoes that' in outcome.reasons[0]
    assert registry.version(REGISTRY, "2").tags["decision"] == ("rolled back" if to else "demoted")
    assert registry.version(REGISTRY, "2").tags["decided_by"] == "a person, outside ddpm"
    with pytest.raises(UserError, match="has no previous champion" if to else "has no champion"):
        commands.rollback(REGISTRY, reason="back to the bad one?")
    shelf.judged(2, 4.0)
    assert (shelf.champion(), commands.rollback(REGISTRY, reason="blurred").version) == ("3", "1")
    commands.promote(REGISTRY, "2", reason="it was the camera")
    commands.promote(REGISTRY, "3", reason="even better")
    assert commands.rollback(REGISTRY, reason="blurred").version == "2"


def test_a_move_by_hand_stands_in_the_history_once(shelf: Shelf) -> None:
    shelf.judged(0, 10.0)
    moved_by_hand(shelf, None)
    for _ in range(2):
        shelf.judged(1, 30.0)
    (_, move) = REGISTRY.history()
    assert (move.action, move.version, move.previous) == ("remove", None, "1")


def test_a_champion_that_a_person_replaced_in_mlflow_is_not_promoted_again_by_the_gate(shelf: Shelf) -> None:
    shelf.judged(0, 5.0)
    shelf.judged(1, 19.9)
    moved_by_hand(shelf, "2")
    outcome = shelf.judged(0, 5.0)
    assert (outcome.verdict, shelf.champion()) == ("kept", "2")
    assert "a person took it down in MLflow (the alias was moved to version 2" in outcome.reasons[0]


@IN_MEMORY_TOO
def test_without_a_champion_the_gate_compares_with_the_last_one(shelf: Shelf) -> None:
    shelf.judged(0, 5.0)
    moved_by_hand(shelf, None)
    worse = shelf.judged(1, 19.9)
    assert (worse.verdict, shelf.champion()) == ("kept", None)
    assert worse.reasons[0] == "there is no champion now; the last one, version 1, is compared"
    assert worse.version.tags["decided_against"] == "1"
    assert shelf.judged(2, 4.0).verdict == "promoted"
    with pytest.raises(UserError, match="has no previous champion"):
        commands.rollback(REGISTRY, reason="to the one that a person took down?")


def test_where_no_former_champion_is_left_to_compare_with_a_person_decides(shelf: Shelf) -> None:
    shelf.judged(0, 5.0)
    shelf.client.delete_model_version("ddpm", "1")
    outcome = shelf.judged(1, 1.0)
    assert (outcome.verdict, shelf.champion()) == ("pending", None)
    assert "no former champion exists to compare" in outcome.reasons[0]


@IN_MEMORY_TOO
def test_without_a_champion_a_last_one_that_cannot_be_measured_leaves_it_to_a_person(shelf: Shelf) -> None:
    shelf.judged(0, 5.0)
    moved_by_hand(shelf, None)
    REGISTRY.download(registry.version(REGISTRY, "1"), shelf.project).unlink()
    outcome = shelf.judge(shelf.register(1, record(1.0, protocol=PROTOCOL | {"n": 200})))
    assert (outcome.verdict, shelf.champion()) == ("pending", None)


def lose(shelf: Shelf, number: str) -> None:
    REGISTRY.download(registry.version(REGISTRY, number), shelf.project).unlink()


def damage(shelf: Shelf, number: str) -> None:
    file = REGISTRY.download(registry.version(REGISTRY, number), shelf.project)
    file.write_bytes(b"no model")
    sha = hashlib.sha256(b"no model").hexdigest()
    shelf.client.set_model_version_tag("ddpm", number, "model_sha256", sha)


@pytest.mark.parametrize(
    ("harm", "why"),
    [(lose, "has 0 model files"), (damage, "is not a complete safetensors file")],
    ids=["lost", "damaged"],
)
def test_a_version_whose_file_is_lost_or_does_not_load_never_becomes_champion(
    harm: Callable[[Shelf, str], None], why: str, shelf: Shelf
) -> None:
    for seed, fid in enumerate((16.0, 8.0)):
        shelf.judged(seed, fid)
    shelf.register(2, record(1.0))
    harm(shelf, "1")
    harm(shelf, "3")
    before = shelf.client.get_registered_model("ddpm").tags, registry.version(REGISTRY, "1")
    with pytest.raises(UserError, match=why):
        commands.rollback(REGISTRY, reason="blurred")
    with pytest.raises(UserError, match=why):
        commands.promote(REGISTRY, "1", reason="it was better")
    with pytest.raises(UserError, match=why):
        shelf.judge(registry.version(REGISTRY, "3"))
    assert shelf.champion() == "2"
    assert (shelf.client.get_registered_model("ddpm").tags, registry.version(REGISTRY, "1")) == before
    assert "decision" not in registry.version(REGISTRY, "3").tags


def test_rollback_passes_over_a_version_that_was_deleted(shelf: Shelf) -> None:
    for seed, fid in enumerate((16.0, 8.0, 4.0)):
        shelf.judged(seed, fid)
    shelf.client.delete_model_version("ddpm", "2")
    assert commands.rollback(REGISTRY, reason="blurred").version == "1"


def test_without_a_champion_there_is_nothing_to_roll_back(shelf: Shelf) -> None:
    shelf.judged(0, 100.0)
    with pytest.raises(UserError, match="has no champion"):
        commands.rollback(REGISTRY, reason="none")


@IN_MEMORY_TOO
def test_a_champion_that_changed_while_the_candidate_was_judged_stops_the_decision(shelf: Shelf) -> None:
    shelf.judged(0, 10.0)
    shelf.register(1, record(9.9))
    newer = PROTOCOL | {"n": 200}
    candidate = shelf.register(2, record(1.0, protocol=newer))

    def begin(_: Path, __: Path | None) -> FixedContest:
        commands.promote(REGISTRY, "2", reason="meanwhile")
        return FixedContest(record(1.0, protocol=newer), record(9.0, protocol=newer))

    with pytest.raises(UserError, match="changed from 1 to 2 while version 3 was judged"):
        judge(candidate, REGISTRY, rules=promote(), begin=begin, folder=shelf.project)
    assert shelf.champion() == "2"
