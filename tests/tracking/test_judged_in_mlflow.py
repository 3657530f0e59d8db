"""The tags and aliases that a decision about a candidate writes to MLflow."""

from collections.abc import Callable
from pathlib import Path

import pytest
from shelf import PROTOCOL, REGISTRY, Shelf, record

from ddpm.promotion import commands, registry
from ddpm.promotion.judge import summary


@pytest.fixture
def shelf(project: Path, tiny_model: Callable[..., str]) -> Shelf:
    return Shelf(project, tiny_model)


def test_the_first_sound_candidate_becomes_champion_and_its_version_says_why(shelf: Shelf) -> None:
    outcome = shelf.judged(0, 10.0)
    assert (outcome.verdict, shelf.champion(), outcome.champion) == ("promoted", "1", None)
    assert outcome.version.tags["decision"] == "promoted"
    assert "there is no champion" in outcome.version.tags["reasons"]
    assert outcome.version.tags["decided_against"] == "none"


def test_a_first_candidate_that_is_not_sound_leaves_the_registry_without_a_champion(shelf: Shelf) -> None:
    outcome = shelf.judged(0, 100.0)
    assert (outcome.verdict, shelf.champion()) == ("kept", None)
    assert outcome.version.tags["decision"] == "kept"


def test_a_better_candidate_takes_over_and_both_versions_say_so(shelf: Shelf) -> None:
    shelf.judged(0, 10.0)
    outcome = shelf.judged(1, 8.0)
    assert (outcome.verdict, shelf.champion()) == ("promoted", "2")
    assert outcome.version.tags["decided_against"] == "1"
    before = registry.version(REGISTRY, "1")
    assert (before.tags["replaced_by"], before.aliases) == ("2", ())
    assert before.tags["replaced_at"]


def test_a_candidate_that_is_not_better_enough_leaves_the_champion_and_says_why(shelf: Shelf) -> None:
    shelf.judged(0, 10.0)
    outcome = shelf.judged(1, 9.5)
    assert (outcome.verdict, shelf.champion()) == ("kept", "1")
    assert "the required 10% are out of reach" in outcome.version.tags["reasons"]
    run = shelf.client.get_run(shelf.run_id)
    assert run.data.tags["decision"] == "kept as version 2 of ddpm"


def test_judging_the_champion_itself_changes_nothing(shelf: Shelf) -> None:
    shelf.judged(0, 10.0)
    tags = registry.version(REGISTRY, "1").tags
    outcome = shelf.judged(0, 10.0)
    assert outcome.verdict == "champion"
    assert "nothing to decide" in outcome.reasons[0]
    assert registry.version(REGISTRY, "1").tags == tags
    assert len(REGISTRY.history()) == 1


def test_judging_twice_decides_the_same(shelf: Shelf) -> None:
    shelf.judged(0, 10.0)
    first, again = shelf.judged(1, 12.0), shelf.judged(1, 12.0)
    assert (first.verdict, first.reasons) == (again.verdict, again.reasons)


def test_a_champion_of_another_protocol_is_measured_again_once_and_keeps_its_old_metrics(shelf: Shelf) -> None:
    shelf.judged(0, 10.0)
    newer = PROTOCOL | {"n": 200}
    candidate = shelf.register(1, record(8.0, protocol=newer))
    outcome = shelf.judge(candidate, remeasured=record(8.1, protocol=newer))
    assert (outcome.verdict, shelf.champion()) == ("kept", "1")
    assert shelf.remeasured_file == shelf.content(0)
    champion = registry.version(REGISTRY, "1")
    assert champion.records() == [record(10.0), record(8.1, protocol=newer)]
    shelf.judge(candidate)  # the second time its figures are there


@pytest.mark.slow  # also in tests/promotion/test_judge.py, on a registry in memory
def test_a_champion_of_another_image_size_is_left_to_a_person(shelf: Shelf) -> None:
    shelf.judged(0, 10.0)
    candidate = shelf.register(1, record(0.1), size="16")
    outcome = shelf.judge(candidate)
    assert (outcome.verdict, shelf.champion()) == ("pending", "1")
    assert "1 channel(s) of 16x16 pixels and champion 1 of 1 channel(s) of 8x8" in outcome.reasons[0]
    assert "ddpm approve 2" in outcome.reasons[1]


@pytest.mark.slow  # also in tests/promotion/test_judge.py, on a registry in memory
def test_a_champion_whose_file_is_lost_is_left_to_a_person(shelf: Shelf) -> None:
    shelf.judged(0, 10.0)
    champion = registry.champion(REGISTRY)
    assert champion is not None
    REGISTRY.download(champion, shelf.project).unlink()
    outcome = shelf.judge(shelf.register(1, record(1.0, protocol=PROTOCOL | {"n": 200})))
    assert (outcome.verdict, shelf.champion()) == ("pending", "1")
    assert "could not be measured by the same protocol (version 1 of ddpm has 0 model files" in outcome.reasons[0]


def test_a_summary_says_version_decision_metrics_and_every_reason(shelf: Shelf) -> None:
    shelf.judged(0, 10.0)
    said = summary(shelf.judged(1, 8.0), metric="fid").splitlines()
    assert said[0] == "ddpm version 2 is the champion now (champion before: version 1)"
    assert said[1] == "  fid: candidate 8, champion 10, floor 4"
    assert len(said) == 2 + 7


def test_where_a_person_is_to_be_asked_the_candidate_waits_as_challenger_until_promoted(shelf: Shelf) -> None:
    outcome = shelf.judged(0, 10.0, approval="ask")
    assert (outcome.verdict, shelf.champion()) == ("pending", None)
    assert outcome.version.aliases == ("challenger",)
    assert outcome.version.tags["decision"] == "pending"
    commands.promote(REGISTRY, "1", reason="looks good", by="Ann")
    promoted = registry.version(REGISTRY, "1")
    assert promoted.aliases == ("champion",)
    assert (promoted.tags["decision"], promoted.tags["decided_by"]) == ("promoted", "Ann")
    assert promoted.tags["reasons"] == "looks good"


def test_a_challenger_that_is_judged_worse_later_waits_no_more(shelf: Shelf) -> None:
    shelf.judged(0, 10.0, approval="ask")
    shelf.judged(1, 5.0)
    outcome = shelf.judged(0, 10.0)
    assert (outcome.verdict, outcome.version.aliases) == ("kept", ())


def test_a_candidate_that_fails_the_rule_is_not_offered_to_a_person(shelf: Shelf) -> None:
    assert shelf.judged(0, 100.0, approval="ask").verdict == "kept"
