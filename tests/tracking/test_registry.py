import fcntl
import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ddpm.errors import UserError
from ddpm.promotion import commands, registry
from ddpm.promotion.judge import Outcome, judge, summary
from ddpm.promotion.registry import Version
from ddpm.promotion.settings import Promote
from ddpm.tracking import store
from ddpm.tracking.mlflow_registry import MlflowRegistry

REGISTRY = MlflowRegistry("ddpm")

RULE = Promote(
    name="ddpm",
    metric="fid",
    min_improvement=0.1,
    max_over_floor=5.0,
    max_memorized_share=0.05,
    approval="auto",
)
PROTOCOL = {"n": 100, "seed": 0, "extractor_hash": "e"}
SHAPE = {"channels": "1", "size": "8"}


def record(fid: float, **changes: Any) -> dict[str, Any]:
    figures = {"fid": fid, "kid": None, "memorized_share": 0.01}
    return {**figures, "floor": {"fid": 4.0}, "protocol": PROTOCOL} | changes


class Shelf:
    """Logged models to register, tiny and untrained, told apart by a number."""

    def __init__(self, project: Path, tiny_model: Callable[..., str]) -> None:
        self.project, self.tiny_model = project, tiny_model
        self.client = store.connect()
        location = (project / "mlartifacts").as_uri()
        self.experiment = self.client.create_experiment("tests", artifact_location=location)
        self.run_id = self.client.create_run(self.experiment).info.run_id
        self.logged: dict[int, str] = {}

    def file(self, seed: int) -> Path:
        return self.project / f"served-{seed}" / "artifacts" / "model.safetensors"

    def content(self, seed: int) -> bytes:
        return self.file(seed).read_bytes()

    def model_id(self, seed: int) -> str:
        if seed not in self.logged:
            model = self.client.create_logged_model(self.experiment, source_run_id=self.run_id)
            self.tiny_model(self.file(seed), seed=seed)
            self.client.log_model_artifacts(model.model_id, str(self.file(seed).parents[1]))
            self.client.finalize_logged_model(model.model_id, "READY")
            self.logged[seed] = model.model_id
        return self.logged[seed]

    def register(self, seed: int, measured: Mapping[str, Any], **tags: str) -> Version:
        model_id = self.model_id(seed)
        return REGISTRY.register(
            sha256=hashlib.sha256(self.content(seed)).hexdigest(),
            model_id=model_id,
            run_id=self.run_id,
            record=measured,
            tags=SHAPE | tags,
        )

    def judged(self, seed: int, fid: float, **rule: Any) -> Outcome:
        return self.judge(self.register(seed, record(fid)), **rule)

    def judge(self, candidate: Version, remeasured: Mapping[str, Any] | None = None, **rule: Any) -> Outcome:
        def remeasure(file: Path) -> Mapping[str, Any]:
            assert remeasured is not None, "measured again without need"
            self.remeasured_file = file.read_bytes()
            return remeasured

        folder = self.project / "downloads"
        return judge(candidate, REGISTRY, rule=replace(RULE, **rule), remeasure=remeasure, folder=folder)

    def champion(self) -> str | None:
        found = registry.champion(REGISTRY)
        return found and found.number


@pytest.fixture
def shelf(project: Path, tiny_model: Callable[..., str]) -> Shelf:
    return Shelf(project, tiny_model)


def test_the_same_model_again_is_the_same_version_with_its_figures_brought_up_to_date(shelf: Shelf) -> None:
    first = shelf.register(0, record(10.0), data_hash="d")
    again = shelf.register(0, record(9.0), data_hash="d")
    other = shelf.register(1, record(10.0))
    assert (first.number, again.number, other.number) == ("1", "1", "2")
    assert (first.tags["fid"], again.tags["fid"], again.tags["kid"]) == ("10", "9", "none")
    assert again.record() == record(9.0)
    assert again.tags["floor.fid"] == "4"
    assert again.tags["data_hash"] == "d"
    assert again.run_id == shelf.run_id


def test_versions_are_listed_newest_first_with_their_aliases(shelf: Shelf) -> None:
    shelf.judged(0, 10.0)
    shelf.judged(1, 10.0)
    assert [(v.number, v.aliases) for v in REGISTRY.versions()] == [("2", ()), ("1", ("champion",))]


def test_where_nothing_is_registered_there_are_no_versions_no_champion_and_no_history(project: Path) -> None:
    assert REGISTRY.versions() == []
    assert registry.champion(REGISTRY) is None
    assert REGISTRY.history() == []
    with pytest.raises(UserError, match=r"has no version 1 .*there are: none"):
        registry.version(REGISTRY, "1")


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
    assert "not enough, since 1 (10.0%) is asked for" in outcome.version.tags["reasons"]
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


def test_a_champion_of_another_protocol_is_measured_again_once_and_keeps_its_old_figures(shelf: Shelf) -> None:
    shelf.judged(0, 10.0)
    newer = PROTOCOL | {"n": 200}
    candidate = shelf.register(1, record(8.0, protocol=newer))
    outcome = shelf.judge(candidate, remeasured=record(8.1, protocol=newer))
    assert (outcome.verdict, shelf.champion()) == ("kept", "1")
    assert shelf.remeasured_file == shelf.content(0)
    champion = registry.version(REGISTRY, "1")
    assert champion.record("record_again") == record(8.1, protocol=newer)
    assert champion.record("record") == record(10.0)
    shelf.judge(candidate)  # the second time its figures are there


def test_a_champion_of_another_image_size_is_left_to_a_person(shelf: Shelf) -> None:
    shelf.judged(0, 10.0)
    candidate = shelf.register(1, record(0.1), size="16")
    outcome = shelf.judge(candidate)
    assert (outcome.verdict, shelf.champion()) == ("pending", "1")
    assert "1 channel(s) of 16x16 pixels and champion 1 of 1 channel(s) of 8x8" in outcome.reasons[0]
    assert "ddpm promote 2" in outcome.reasons[1]


def test_a_champion_whose_file_is_lost_is_left_to_a_person(shelf: Shelf) -> None:
    shelf.judged(0, 10.0)
    champion = registry.champion(REGISTRY)
    assert champion is not None
    REGISTRY.download(champion, shelf.project).unlink()
    outcome = shelf.judge(shelf.register(1, record(1.0, protocol=PROTOCOL | {"n": 200})))
    assert (outcome.verdict, shelf.champion()) == ("pending", "1")
    assert "could not be measured by the same protocol (version 1 of ddpm has 0 model files" in outcome.reasons[0]


def test_a_summary_says_version_decision_figures_and_every_reason(shelf: Shelf) -> None:
    shelf.judged(0, 10.0)
    said = summary(shelf.judged(1, 8.0), metric="fid").splitlines()
    assert said[0] == "ddpm version 2 is the champion now (champion before: version 1)"
    assert said[1] == "  fid: candidate 8, champion 10, floor 4"
    assert len(said) == 5


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
    with pytest.raises(UserError, match="is the first champion"):
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


def moved_by_hand(shelf: Shelf, to: str | None) -> None:
    """As MLflow's page does it."""
    if to is None:
        shelf.client.delete_registered_model_alias("ddpm", "champion")
    else:
        shelf.client.set_registered_model_alias("ddpm", "champion", to)


@pytest.mark.parametrize("to", ["1", None])
def test_a_champion_that_a_person_took_down_in_mlflow_comes_back_only_by_a_person(shelf: Shelf, to: str | None) -> None:
    for seed, fid in enumerate((16.0, 8.0)):
        shelf.judged(seed, fid)
    moved_by_hand(shelf, to)
    outcome = shelf.judged(1, 8.0)
    assert (outcome.verdict, shelf.champion()) == ("kept", to)
    assert "`ddpm promote 2` undoes that" in outcome.reasons[0]
    assert registry.version(REGISTRY, "2").tags["decision"] == ("rolled back" if to else "demoted")
    assert registry.version(REGISTRY, "2").tags["decided_by"] == "a person, outside ddpm"
    with pytest.raises(UserError, match="is the first champion, or those" if to else "has no champion"):
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


def test_without_a_champion_the_gate_compares_with_the_last_one(shelf: Shelf) -> None:
    shelf.judged(0, 5.0)
    moved_by_hand(shelf, None)
    worse = shelf.judged(1, 19.9)
    assert (worse.verdict, shelf.champion()) == ("kept", None)
    assert worse.reasons[0] == "there is no champion now; it is held against the last one, version 1"
    assert worse.version.tags["decided_against"] == "1"
    assert shelf.judged(2, 4.0).verdict == "promoted"
    with pytest.raises(UserError, match="there is none to go back to"):
        commands.rollback(REGISTRY, reason="to the one that a person took down?")


def test_where_no_former_champion_is_left_to_compare_with_a_person_decides(shelf: Shelf) -> None:
    shelf.judged(0, 5.0)
    shelf.client.delete_model_version("ddpm", "1")
    outcome = shelf.judged(1, 1.0)
    assert (outcome.verdict, shelf.champion()) == ("pending", None)
    assert "none is left to compare it with" in outcome.reasons[0]


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
    ("harm", "why"), [(lose, "has 0 model files"), (damage, "is no whole safetensors file")], ids=["lost", "damaged"]
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


def test_a_champion_that_changed_while_the_candidate_was_judged_stops_the_decision(shelf: Shelf) -> None:
    shelf.judged(0, 10.0)
    shelf.register(1, record(9.9))
    newer = PROTOCOL | {"n": 200}
    candidate = shelf.register(2, record(1.0, protocol=newer))

    def remeasure(_: Path) -> Mapping[str, Any]:
        commands.promote(REGISTRY, "2", reason="meanwhile")
        return record(9.0, protocol=newer)

    with pytest.raises(UserError, match="changed from 1 to 2 while version 3 was judged"):
        judge(candidate, REGISTRY, rule=RULE, remeasure=remeasure, folder=shelf.project)
    assert shelf.champion() == "2"


def test_one_promotion_waits_for_another(shelf: Shelf) -> None:
    shelf.judged(0, 100.0)
    with open(shelf.project / ".state" / "registry.lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        promotion = threading.Thread(target=commands.promote, args=(REGISTRY, "1"), kwargs={"reason": "now"})
        promotion.start()
        time.sleep(0.5)
        assert shelf.champion() is None
    promotion.join(20)
    assert shelf.champion() == "1"


def test_a_model_file_that_was_changed_in_the_store_is_refused(shelf: Shelf) -> None:
    version = shelf.register(0, record(10.0))
    file = REGISTRY.download(version, shelf.project)
    assert file.read_bytes() == shelf.content(0)
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(UserError, match="is not the file that was registered as version 1"):
        REGISTRY.download(version, shelf.project)
    file.unlink()
    with pytest.raises(UserError, match="has 0 model files"):
        REGISTRY.download(version, shelf.project)


def test_the_history_is_read_back_from_tags_that_an_sql_store_can_hold(shelf: Shelf) -> None:
    shelf.judged(0, 100.0)
    commands.promote(REGISTRY, "1", reason="x" * 20000)
    tags = shelf.client.get_registered_model("ddpm").tags
    assert list(tags) == ["promotion.000001"]
    assert len(tags["promotion.000001"]) < 5000
    assert json.loads(tags["promotion.000001"])["version"] == "1"
