"""A command that is interrupted after any of its writes to MLflow and repeated ends as if nothing had happened."""

import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fixed_contest import FixedContest
from fixed_contest import promote as rules_of_test

from ddpm.errors import UserError
from ddpm.promotion import approval, commands, registry
from ddpm.promotion.gate import MEMORIZED
from ddpm.promotion.judge import Asked, judge
from ddpm.promotion.registry import APPROVE_UNTIL, Version
from ddpm.promotion.settings import Rule
from ddpm.tracking import champion_alias, store
from ddpm.tracking.mlflow_registry import MlflowRegistry

REGISTRY = MlflowRegistry("ddpm")

NEWER = {"n": 200}
FIDS = (16.0, 8.0, 4.0, 2.0)
TOO_STRICT = Rule(figure="fid", floors_at_most=0.01)


class Line:
    """Lets the writes of MLflow's client through until it is cut off."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        from mlflow import MlflowClient

        self.mend()
        self.thread = threading.get_ident()  # what a run of another test still has to tell does not count here
        for name in dir(MlflowClient):
            if name.startswith(("set_", "delete_", "create_", "update_", "log_")):
                patch.setattr(MlflowClient, name, self._counted(getattr(MlflowClient, name)))

    def mend(self, *, cut_after: int | None = None) -> None:
        """Let all writes through, or only the first `cut_after` of them."""
        self.writes, self.cut_after = 0, cut_after

    def _counted(self, write: Callable[..., Any]) -> Callable[..., Any]:
        from mlflow.exceptions import MlflowException

        def counted(*args: Any, **more: Any) -> Any:
            if threading.get_ident() != self.thread:
                return write(*args, **more)
            if self.writes == self.cut_after:
                raise MlflowException("the connection was lost")
            answer = write(*args, **more)
            self.writes += 1
            if self.writes == self.cut_after:
                raise MlflowException("the answer was lost")
            return answer

        return counted


class Registry:
    """Four logged models; the first three have been champions in turn, the fourth is registered and not judged."""

    def __init__(self, project: Path, tiny_model: Callable[..., str], patch: pytest.MonkeyPatch) -> None:
        self.project, self.patch = project, patch
        self.client = store.connect()
        experiment = self.client.create_experiment("tests", artifact_location=(project / "mlartifacts").as_uri())
        self.models = [self._logged(experiment, seed, tiny_model) for seed in range(len(FIDS))]
        for seed in range(3):
            self.judge(self.register(seed))
        self.register(3)
        self.saved = project / "saved.db"
        self._copy(project / "mlflow.db", self.saved)

    def _logged(self, experiment: str, seed: int, tiny_model: Callable[..., str]) -> tuple[str, str, str]:
        run = self.client.create_run(experiment).info.run_id
        folder = self.project / f"served-{seed}"
        sha = tiny_model(folder / "artifacts" / "model.safetensors", seed=seed)
        model = self.client.create_logged_model(experiment, source_run_id=run).model_id
        self.client.log_model_artifacts(model, str(folder))
        self.client.finalize_logged_model(model, "READY")
        return sha, model, run

    def register(self, seed: int, **protocol: Any) -> Version:
        sha, model, run = self.models[seed]
        figures = {"fid": FIDS[seed], "kid": None, "floor": {"fid": 4.0}} | dict.fromkeys(MEMORIZED, 0.01)
        return REGISTRY.register(
            sha256=sha,
            model_id=model,
            run_id=run,
            record=figures | {"protocol": {"n": 100} | protocol},
            tags={"channels": "1", "size": "8"},
        )

    def judge(
        self, candidate: Version, *rules: Rule, fid: float = 0.0, asked: Asked | None = None, **changes: Any
    ) -> str:
        def begin(_: Path, champion: Path | None) -> FixedContest:
            measured = candidate.record() or {}
            rival = registry.version(REGISTRY, REGISTRY.history()[-1].version or "")
            known: Mapping[str, Any] | None = rival.record_like(measured)
            assert known or fid, "measured again without need"
            again = {"fid": fid, "floor": {"fid": 4.0}, "protocol": NEWER} | dict.fromkeys(MEMORIZED, 0.0)
            return FixedContest(measured, known or again)

        found = rules_of_test(*rules, **changes)
        folder = self.project / "down"
        return judge(candidate, REGISTRY, rules=found, begin=begin, folder=folder, asked=asked).verdict

    def state(self) -> dict[str, Any]:
        model = self.client.get_registered_model("ddpm")
        versions = self.client.search_model_versions("name = 'ddpm'")
        return {
            "aliases": {alias: str(number) for alias, number in model.aliases.items()},
            "moves": model.tags,
            "versions": {str(v.version): v.tags for v in versions},
            "descriptions": [model.description, *((str(v.version), v.description) for v in versions)],
            "runs": {v.run_id: self.client.get_run(v.run_id).data.tags.get("decision") for v in versions},
        }

    def save(self) -> Path:
        """Return a copy of the store as it is now."""
        now = self.project / "prepared.db"
        self._copy(self.project / "mlflow.db", now)
        return now

    def restore(self, saved: Path | None = None) -> None:
        self._copy(saved or self.saved, self.project / "mlflow.db")
        (self.project / ".state" / "registry.lock").unlink()

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
            old.backup(new)


@pytest.fixture(scope="module")
def there(
    tmp_path_factory: pytest.TempPathFactory, empty_store: Path, tiny_model: Callable[..., str]
) -> Iterator[Registry]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("a project")
        patch.chdir(folder)
        for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
            patch.delenv(name, raising=False)
        patch.setattr(champion_alias, "now", lambda: "2026-01-01T00:00:00+00:00")
        patch.setattr("ddpm.promotion.admission.now", lambda: "2026-01-01T00:00:00+00:00")
        patch.setattr("ddpm.promotion.judge.now", lambda: datetime(2999, 1, 1, tzinfo=UTC))
        Registry._copy(empty_store, folder / "mlflow.db")
        yield Registry(folder, tiny_model, patch)


def nothing(_: Registry) -> None:
    """The three champions were promoted by commands only."""


def move_by_hand(registry: Registry) -> None:
    registry.client.set_registered_model_alias("ddpm", "champion", "2")


def remove_by_hand(registry: Registry) -> None:
    registry.client.delete_registered_model_alias("ddpm", "champion")


def wait_for_a_person(registry: Registry) -> None:
    registry.judge(registry.register(3), approval="ask")


def two_wait(registry: Registry) -> None:
    """The second of them was left without its alias when the first one's rejection was not written down."""
    wait_for_a_person(registry)
    registry.client.set_model_version_tag("ddpm", "3", "decision", "pending")


def wait_too_long(registry: Registry) -> None:
    wait_for_a_person(registry)
    registry.client.set_model_version_tag("ddpm", "4", APPROVE_UNTIL, "2026-01-01T00:00:00+00:00")


def roll_back_the_fourth(registry: Registry) -> None:
    promote(registry)
    roll_back(registry)


def approve(_: Registry) -> str | None:
    return approval.approve(REGISTRY, "4", reason="sharper", by="Ann").version


def reject(_: Registry) -> str:
    return approval.reject(REGISTRY, "4", reason="blurred", by="Ann").reason


def close(_: Registry) -> int:
    approval.close(REGISTRY)
    return len(REGISTRY.rulings())


def reconsider(registry: Registry, *rules: Rule) -> str:
    return registry.judge(registry.register(3), *rules, asked=Asked("Ann", "it was the camera"))


def promote(_: Registry) -> str | None:
    return commands.promote(REGISTRY, "4", reason="sharper", by="Ann").version


def roll_back(_: Registry) -> str | None:
    return commands.rollback(REGISTRY, reason="blurred", by="Ann").version


CASES: dict[str, tuple[Callable[[Registry], None], Callable[[Registry], Any]]] = {
    "a promotion by the gate": (nothing, lambda there: there.judge(there.register(3))),
    "a candidate that is not good enough": (nothing, lambda there: there.judge(there.register(3), TOO_STRICT)),
    "a candidate that is left to a person": (nothing, lambda there: there.judge(there.register(3), approval="ask")),
    "a person's promotion": (wait_for_a_person, promote),
    "a person's yes": (wait_for_a_person, approve),
    "a person's no": (wait_for_a_person, reject),
    "a yes after a candidate was overtaken": (two_wait, approve),
    "a candidate that waited too long": (wait_too_long, close),
    "a promotion that a person asked for": (roll_back_the_fourth, reconsider),
    "a no of the gate to a person": (roll_back_the_fourth, lambda there: reconsider(there, TOO_STRICT)),
    "a champion that is measured again": (nothing, lambda there: there.judge(there.register(3, **NEWER), fid=1.0)),
    "a rollback": (nothing, roll_back),
    "a rollback after the alias was moved by hand": (move_by_hand, roll_back),
    "a promotion after the alias was removed by hand": (remove_by_hand, promote),
}


@pytest.mark.parametrize(
    "case",
    [name if name == "a person's no" else pytest.param(name, marks=pytest.mark.slow) for name in CASES],
)
def test_a_command_that_is_cut_off_anywhere_and_said_again_ends_as_if_it_had_not_been(
    case: str, there: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, command = CASES[case]
    line = Line(monkeypatch)
    there.restore()
    prepare(there)
    prepared = there.save()
    line.mend()
    answer, writes = command(there), line.writes
    expected = there.state()
    assert writes >= 5
    for k in range(writes + 1):
        there.restore(prepared)
        line.mend(cut_after=k)
        with pytest.raises(UserError, match="was lost"):
            command(there)
        line.mend()
        assert command(there) == answer, f"cut off after write {k}"
        assert there.state() == expected, f"cut off after write {k}"
    if case == "a rollback":
        assert roll_back(there) != answer, "a later rollback is one of its own"


def test_a_rollback_that_was_cut_off_is_finished_by_the_next_gate_and_not_done_again_by_its_caller(
    there: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there.restore()
    line = Line(monkeypatch)
    line.mend(cut_after=2)  # the announcement and the alias
    with pytest.raises(UserError):
        roll_back(there)
    line.mend()
    assert there.judge(there.register(3), TOO_STRICT) == "kept"
    moves = REGISTRY.history()
    assert [(move.action, move.version, move.by) for move in moves[3:]] == [("rollback", "2", "Ann")]
    assert roll_back(there) == "2"
    assert "was interrupted, and is finished now" in capsys.readouterr().err
    assert roll_back(there) == "1"


def test_a_killed_promotion_that_is_in_the_history_is_finished_though_a_person_has_moved_the_alias_since(
    there: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line(monkeypatch)
    for writes in range(1, 20):
        line.mend()
        there.restore()
        line.mend(cut_after=writes)
        with pytest.raises(UserError):
            promote(there)
        if len(REGISTRY.history()) == 4:
            break
    line.mend()
    there.client.set_registered_model_alias("ddpm", "champion", "2")
    roll_back(there)
    tags = {found.number: found.tags for found in REGISTRY.versions()}
    assert tags["3"]["replaced_by"] == "4"
    assert [(move.action, move.version) for move in REGISTRY.history()[3:]] == [
        ("promote", "4"),
        ("rollback", "2"),
        ("rollback", "1"),
    ]


def test_a_rejection_that_was_cut_off_is_finished_by_the_next_command_whatever_that_is(
    there: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.restore()
    line = Line(monkeypatch)
    wait_for_a_person(there)
    line.mend(cut_after=1)  # the announcement
    with pytest.raises(UserError):
        reject(there)
    line.mend()
    with pytest.raises(UserError, match=r"was rejected already, by Ann on .* \(blurred\)"):
        approve(there)
    assert [(ruling.version, ruling.by, ruling.reason) for ruling in REGISTRY.rulings()] == [("4", "Ann", "blurred")]
    assert registry.champion(REGISTRY).number == "3"  # type: ignore[union-attr]


def test_a_new_model_whose_registration_is_cut_off_anywhere_becomes_one_version(
    there: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.restore()
    there.client.delete_registered_model("ddpm")
    line = Line(monkeypatch)
    for writes in range(2, 40):
        line.mend(cut_after=writes)
        try:
            there.register(0)
            break
        except UserError:
            continue
    assert [found.number for found in REGISTRY.versions()] == ["1"]
    line.mend()
    tags = registry.version(REGISTRY, "1").tags
    assert there.register(0).tags == tags
    assert tags["model_sha256"] == there.models[0][0]
    record = registry.version(REGISTRY, "1").record()
    assert record is not None
    assert record["fid"] == FIDS[0]
