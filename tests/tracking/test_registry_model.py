"""Random sequences of commands, kills and a person's changes: MLflow's registry does what a registry in memory does."""

import hashlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fixed_contest import FixedContest
from fixed_contest import promote as rules_of_test
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from killed import Answer, in_process
from registry_in_memory import RegistryInMemory

from ddpm.errors import UserError
from ddpm.promotion import commands, registry
from ddpm.promotion.gate import MEMORIZED
from ddpm.promotion.judge import judge
from ddpm.promotion.registry import CHAMPION, Registry
from ddpm.promotion.succession import Move
from ddpm.tracking import documents, store
from ddpm.tracking.mlflow_registry import MlflowRegistry

MLFLOW = MlflowRegistry("ddpm")
FIDS = (8.0, 6.0, 7.9, 3.0, 12.0)
"""Of the logged models, by their seeds: some are better than the one before, one is not by enough, one is too bad."""
MOST_CHANGES = 45
"""A kill comes before one of so many changes; the longest command makes fewer, so some are killed and some not."""
SHAPE = {"channels": "1", "size": "8"}

Command = Callable[[Registry], Any]


class Shelf:
    """A store with logged models and no version, to which every example returns."""

    def __init__(self, folder: Path, empty_store: Path, tiny_model: Callable[..., str]) -> None:
        self.folder = folder
        self.database, self.saved = folder / "mlflow.db", folder / "saved.db"
        shutil.copy(empty_store, self.database)
        client = store.connect()
        experiment = client.create_experiment("tests", artifact_location=(folder / "mlartifacts").as_uri())
        self.run_id = client.create_run(experiment).info.run_id
        self.models: list[tuple[str, str]] = []
        self.file = folder / "served" / "artifacts" / "model.safetensors"
        for seed in range(len(FIDS)):
            sha256 = tiny_model(self.file, seed=seed)
            model = client.create_logged_model(experiment, source_run_id=self.run_id).model_id
            client.log_model_artifacts(model, str(self.file.parents[1]))
            client.finalize_logged_model(model, "READY")
            self.models.append((sha256, model))
        self._copy(self.database, self.saved)
        shutil.copytree(folder / "mlartifacts", folder / "saved artifacts")

    def restore(self) -> None:
        self._copy(self.saved, self.database)
        shutil.rmtree(self.folder / "mlartifacts")
        shutil.copytree(self.folder / "saved artifacts", self.folder / "mlartifacts")
        shutil.rmtree(self.folder / ".state", ignore_errors=True)
        documents._content.cache_clear()

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
            old.backup(new)


def record(seed: int) -> dict[str, Any]:
    figures = {"fid": FIDS[seed], "kid": None, "floor": {"fid": 4.0}, "protocol": {"n": 100}}
    return figures | dict.fromkeys(MEMORIZED, 0.01)


def judged(number: str, approval: str, folder: Path) -> Command:
    """Judge a version as stage `register` does, by metrics without noise."""

    def command(there: Registry) -> str:
        candidate = registry.version(there, number)

        def begin(_: Path, champion: Path | None) -> FixedContest:
            measured, known = candidate.record() or {}, {found.number: found for found in there.versions()}
            with there.alone() as change:
                moves = change.history()
            rival = next((known[m.version] for m in reversed(moves) if m.version in known), None)
            return FixedContest(measured, rival and rival.record_like(measured))

        rules = rules_of_test(approval=approval)
        return judge(candidate, there, rules=rules, begin=begin, folder=folder / "downloads").verdict

    return command


class Machine(RuleBasedStateMachine):
    """The store on the shelf and its model, a registry in memory, get the same commands.

    A command that was killed counts as done if it moved the alias; the next command must finish it. Otherwise it counts
    as not done, though some of its words may stand on the versions that it touches (`unsure`) until a decision about
    them is written again.
    """

    shelf: Shelf

    def __init__(self) -> None:
        super().__init__()
        self.shelf.restore()
        self.model = RegistryInMemory(self.shelf.file)
        self.seeds: dict[str, int] = {}
        self.half_registered: set[str] = set()
        self.unsure: set[str] = set()
        self.is_settled = True
        """Whether the history is written up to the last move."""
        self.unanswered: Move | None = None
        """The move of a killed command, which counts as done when the command is repeated."""
        self.said = 0
        """Number of reasons given so far; each is another one."""

    # ---- a stage registers

    @rule(seed=st.integers(0, len(FIDS) - 1), kill=st.none() | st.integers(0, MOST_CHANGES), half=st.booleans())
    def register(self, seed: int, kill: int | None, half: bool) -> None:
        sha256, model_id = self.shelf.models[seed]

        def command() -> str:
            return MLFLOW.register(
                sha256=sha256, model_id=model_id, run_id=self.shelf.run_id, record=record(seed), tags=SHAPE
            ).number

        answer = in_process(command, folder=self.shelf.folder, kill_after=kill, half=half)
        assert answer.refused is None
        holding = [found.number for found in MLFLOW.versions() if found.tags["model_sha256"] == sha256]
        assert len(holding) == 1 or (answer.was_killed and not holding), "registered once"
        for number in holding:
            if seed not in self.seeds.values():
                assert self.model.register(record(seed)).number == number
                self.seeds[number] = seed
                self.half_registered.add(number)
            if not answer.was_killed:
                assert answer.result == number
                self.half_registered.discard(number)

    # ---- a gate or a person decides

    @precondition(lambda self: self.seeds)
    @rule(pick=st.integers(0, 9), ask=st.booleans(), kill=st.none() | st.integers(0, MOST_CHANGES))
    def judge(self, pick: int, ask: bool, kill: int | None) -> None:
        number = self.picked(pick)
        if number in self.half_registered:
            self.register(self.seeds[number], None, False)  # as the stage does before it judges
        command = judged(number, "ask" if ask else "auto", self.shelf.folder)
        self.say(command, action="promote", to=number, about={number}, kill=kill)

    @precondition(lambda self: self.seeds)
    @rule(pick=st.integers(0, 9), kill=st.none() | st.integers(0, MOST_CHANGES))
    def promote(self, pick: int, kill: int | None) -> None:
        number, reason = self.picked(pick), self.reason()

        def command(there: Registry) -> str | None:
            return commands.promote(there, number, reason=reason, by="Ann").version

        self.say(command, action="promote", to=number, about={number}, kill=kill)

    @rule(kill=st.none() | st.integers(0, MOST_CHANGES))
    def roll_back(self, kill: int | None) -> None:
        reason = self.reason()

        def command(there: Registry) -> str | None:
            return commands.rollback(there, reason=reason, by="Ann").version

        self.say(command, action="rollback", to=None, about=set(), kill=kill)

    def say(self, command: Command, *, action: str, to: str | None, about: set[str], kill: int | None) -> None:
        """Give a command to the store and, if it was carried out there, to the model."""
        before = self.alias()
        answer = in_process(lambda: command(MLFLOW), folder=self.shelf.folder, kill_after=kill)
        if answer.was_killed:
            self.settle_killed(command, before, about)
            return
        last = self.model.moves[-1] if self.model.moves else None
        self.observe_outside()
        self.is_settled = True
        if self.unanswered is not None and last is self.model.moves[-1] and self.is_answered_by(action, to):
            self.unanswered = None
            assert answer == Answer("promoted" if answer.result == "promoted" else last.version)
            return
        expected = self.expected(command)
        assert (answer.result, answer.refused is None) == (expected.result, expected.refused is None), (
            answer,
            expected,
        )
        self.unsure -= about
        if self.alias() != before:
            self.unanswered = None

    def settle_killed(self, command: Command, before: str | None, about: set[str]) -> None:
        now = self.alias()
        self.unsure |= about
        if now == before:
            self.is_settled = False
            if len(MLFLOW.history()) > len(self.model.moves):
                self.observe_outside()
            return
        self.observe_outside()
        expected = self.expected(command)
        assert expected.refused is None
        assert self.model.champion() == now, "moved to another version than the model's"
        self.is_settled, self.unanswered = False, self.model.moves[-1]

    def is_answered_by(self, action: str, to: str | None) -> bool:
        made = self.unanswered
        return made is self.model.moves[-1] and made.action == action and to in (None, made.version)

    def expected(self, command: Command) -> Answer:
        try:
            return Answer(command(self.model))
        except UserError as error:
            return Answer(refused=str(error))

    def observe_outside(self) -> None:
        """Let the model write a person's change of the alias into its history, as every command does first."""
        self.model.resume(action="promote")

    # ---- a person on MLflow's page, and a disk

    @precondition(lambda self: self.seeds)
    @rule(pick=st.integers(0, 9))
    def move_outside(self, pick: int) -> None:
        number = self.picked(pick)
        self.alias_moves_outside(number)
        store.connect().set_registered_model_alias("ddpm", CHAMPION, number)
        self.model.aliases[CHAMPION] = number

    @precondition(lambda self: CHAMPION in self.model.aliases)
    @rule()
    def remove_outside(self) -> None:
        self.alias_moves_outside(None)
        store.connect().delete_registered_model_alias("ddpm", CHAMPION)
        del self.model.aliases[CHAMPION]

    @precondition(lambda self: len(self.seeds) > 1)
    @rule(pick=st.integers(0, 9))
    def delete_outside(self, pick: int) -> None:
        number = self.picked(pick)
        if number == self.model.champion():
            self.alias_moves_outside(None)
        store.connect().delete_model_version("ddpm", number)
        self.model.delete(number)
        del self.seeds[number]
        self.half_registered.discard(number)

    def alias_moves_outside(self, to: str | None) -> None:
        """A person moves the alias. If a killed move was not written down before, nobody can tell that it was made."""
        made = self.unanswered
        if to != self.model.champion() and made is not None and made is self.model.moves[-1] and not self.is_settled:
            if len(MLFLOW.history()) < len(self.model.moves):
                self.model.moves.pop()
                self.unsure |= {number for number in (made.version, made.previous) if number is not None}
            self.unanswered = None
        self.is_settled = False

    # ---- what holds after every step

    @invariant()
    def the_registry_is_whole(self) -> None:
        documents._content.cache_clear()
        found = MLFLOW.versions()
        assert [v.number for v in found if CHAMPION in v.aliases] == [n for n in [self.model.champion()] if n]
        assert sorted(v.number for v in found) == sorted(self.seeds), "no version twice, none lost"
        assert len({v.tags["model_sha256"] for v in found}) == len(found), "no model is two versions"
        for each in found:
            file = MLFLOW.download(each, self.shelf.folder / "downloads")
            seed = self.seeds[each.number]
            assert hashlib.sha256(file.read_bytes()).hexdigest() == self.shelf.models[seed][0], "its file is whole"
            if each.number not in self.half_registered:
                assert each.record() == record(seed), "its metrics are whole"

    @invariant()
    def every_move_is_in_the_history_once_and_in_order(self) -> None:
        def plain(moves: list[Move]) -> list[Move]:
            return [replace(move, when="", by="", record=None) for move in moves]

        stored, expected = plain(MLFLOW.history()), plain(self.model.moves)
        assert stored == expected or (not self.is_settled and stored == expected[:-1])

    @invariant()
    def no_decision_is_lost(self) -> None:
        if self.is_settled:
            known = {version.number: version.tags.get("decision") for version in self.model.versions()}
            stored = {version.number: version.tags.get("decision") for version in MLFLOW.versions()}
            assert {k: v for k, v in stored.items() if v != known[k]}.keys() <= self.unsure

    # ----

    def picked(self, pick: int) -> str:
        return sorted(self.seeds, key=int)[pick % len(self.seeds)]

    def reason(self) -> str:
        self.said += 1
        return f"reason {self.said}"

    @staticmethod
    def alias() -> str | None:
        found = registry.champion(MLFLOW)
        return found and found.number


@pytest.fixture(scope="module")
def shelf(
    tmp_path_factory: pytest.TempPathFactory, empty_store: Path, tiny_model: Callable[..., str]
) -> Iterator[Shelf]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("a project")
        patch.chdir(folder)
        for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
            patch.delenv(name, raising=False)
        patch.setenv("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")  # no open connection is in a fork
        yield Shelf(folder, empty_store, tiny_model)


def run(shelf: Shelf, *, examples: int, steps: int, derandomize: bool) -> None:
    class OnShelf(Machine):
        pass

    OnShelf.shelf = shelf
    run_state_machine_as_test(
        OnShelf,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=derandomize,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink] if not derandomize else [Phase.generate],
        ),
    )


def test_a_few_sequences_with_kills_leave_the_registry_as_the_model_has_it(shelf: Shelf) -> None:
    run(shelf, examples=2, steps=10, derandomize=True)


@pytest.mark.slow
def test_many_sequences_with_kills_leave_the_registry_as_the_model_has_it(shelf: Shelf) -> None:
    run(shelf, examples=150, steps=25, derandomize=False)
