"""`dvc repro` of one stage as a flow starts it: a real dvc, a real stage."""

import json
import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import dvc_stage
import psutil
import pytest
from conftest import Project
from mounts import NO_MOUNT, mounted
from waiting import HANG_SECONDS, wait_for

from ddpm.errors import UserError
from ddpm.pipeline import dvc_lock


@pytest.fixture(autouse=True)
def in_project(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.path)
    monkeypatch.setenv("DDPM_TEST_MARK", project.mark)


def run(stage: str, **limits: float) -> tuple[dvc_stage.Outcome, list[str]]:
    lines: list[str] = []
    seconds = {"timeout_seconds": None, "silent_seconds": None} | limits
    return dvc_stage.run(stage, force=False, report=lines.append, **seconds), lines


def test_a_stage_runs_once_and_is_then_known_to_be_unchanged() -> None:
    outcome, lines = run("validate")
    assert outcome == dvc_stage.Outcome(True, "done")
    assert "> python stage.py validate" in lines
    outcome, _ = run("validate")
    assert outcome == dvc_stage.Outcome(True, "nothing had changed", ran=False)


def test_an_error_that_a_person_mends_is_passed_on_word_for_word_and_not_tried_again(project: Project) -> None:
    project.say("bad")
    outcome, _ = run("validate")
    assert outcome == dvc_stage.Outcome(False, "data/raw/said.txt says bad, expected good; write good")


def test_a_stage_that_did_not_reach_a_server_is_worth_another_try(project: Project) -> None:
    project.say("unreachable")
    run("validate")
    outcome, _ = run("train")
    assert outcome == dvc_stage.Outcome(False, "MLflow does not answer; start the server", try_again=True)


def test_a_crash_is_told_in_its_own_words_and_is_worth_another_try(project: Project) -> None:
    project.say("crash-once")
    run("validate")
    outcome, _ = run("train")
    assert outcome == dvc_stage.Outcome(False, "RuntimeError: the device went away", try_again=True)


def test_what_dvc_and_a_stage_print_is_passed_on_without_credentials(project: Project) -> None:
    file = project.path / "dvc.yaml"
    file.write_text(file.read_text().replace("python stage.py validate", "echo http://ann:S3cret@host && exit 1"))
    outcome, lines = run("validate")
    assert "http://host" in lines
    assert not outcome.ok
    assert "S3cret" not in "\n".join([*lines, outcome.message])


@pytest.mark.parametrize("shell", ["becomes the stage", "stays beside it"])
def test_a_killed_stage_names_the_signal_and_is_worth_another_try(
    project: Project, shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_it = {"becomes the stage": 'shift; eval "exec $1"', "stays beside it": 'shift; eval "$1"; exit $?'}[shell]
    (tmp_path / "shell").write_text(f"#!/bin/sh\n{run_it}\n")
    (tmp_path / "shell").chmod(0o755)
    monkeypatch.setenv("SHELL", str(tmp_path / "shell"))
    project.say("long")
    run("validate")

    def kill() -> None:
        file = project.path / "stage.pid"
        wait_for(lambda: file.exists() and file.read_text())
        os.kill(int(file.read_text()), signal.SIGKILL)

    threading.Thread(target=kill).start()
    outcome, _ = run("train")
    assert outcome == dvc_stage.Outcome(False, "it was killed by SIGKILL", try_again=True)


def test_a_stage_that_takes_too_long_is_stopped_with_all_it_started(project: Project) -> None:
    project.say("long")
    run("validate")
    seconds, bars = 3.0, 0
    while not bars:  # on a slow machine, dvc needs longer to start the stage
        seconds *= 2
        assert seconds < HANG_SECONDS
        outcome, lines = run("train", timeout_seconds=seconds)
        assert outcome == dvc_stage.Outcome(False, f"it did not end within {seconds:g} seconds and was stopped")
        assert not project.stage_is_running()
        bars = sum(line.startswith("training:") for line in lines)
    assert bars <= 1 + seconds / dvc_stage.PROGRESS_SECONDS, "a progress bar is not to fill the log"


def test_a_stage_is_stopped_for_the_reason_that_is_asked_for_while_it_runs(project: Project) -> None:
    project.say("long")
    run("validate")
    lines: list[str] = []

    def hopeless() -> str | None:
        return "hopeless" if any(line.startswith("training:") for line in lines) else None

    limits = {"timeout_seconds": None, "silent_seconds": None}
    outcome = dvc_stage.run("train", force=False, report=lines.append, stop=hopeless, **limits)
    assert outcome == dvc_stage.Outcome(False, "hopeless")
    assert not project.stage_is_running()


SILENCE = (
    "printed nothing for 4 seconds while no stage ran, so it was stopped; check that the disks of data.path and .dvc"
)


def test_a_dvc_that_waits_for_ever_is_ended_with_a_sentence(project: Project) -> None:
    os.mkfifo(project.path / "data/raw/pipe.png")
    outcome, _ = run("validate", silent_seconds=4)
    assert (outcome.ok, outcome.try_again) == (False, False)
    assert outcome.message.startswith(f"dvc {SILENCE}")
    with pytest.raises(UserError, match=f"dvc status {SILENCE}"):
        dvc_stage.changes(silent_seconds=4)
    assert not project.processes(word="dvc")


def test_a_stage_may_be_silent_for_longer_than_dvc_may() -> None:
    """A shell in dvc's place: it runs a stage, which ends when a byte arrives, and then waits for ever."""
    with subprocess.Popen(["sh", "-c", "dd bs=1 count=1 status=none; read line"], stdin=subprocess.PIPE) as dvc:
        assert dvc.stdin is not None
        wait_for(psutil.Process(dvc.pid).children)
        silence = dvc_stage._Silence(dvc.pid)
        for _ in range(10):
            time.sleep(0.1)
            assert not silence.lasts_longer(0.5)
        dvc.stdin.write(b"x")
        dvc.stdin.flush()
        wait_for(lambda: silence.lasts_longer(0.5))
        dvc.kill()


def test_what_dvc_would_wait_for_is_named_by_the_look_before(project: Project) -> None:
    dvc_stage.look()
    os.mkfifo(project.path / "data/raw/pipe.png")
    with pytest.raises(UserError, match=r"^data\.path is data/raw, in which pipe\.png \(a pipe\) cannot be data"):
        dvc_stage.look()


OTHERS = {"pid": os.getpid(), "cmd": "dvc repro train"}
"""What a dvc that was killed left, whose pid means another process by now."""


@pytest.mark.parametrize(
    ("left", "fault"),
    [
        ("", "was left incomplete by a dvc that was interrupted"),
        pytest.param('{"write": {"data', "was left incomplete by a dvc that was interrupted", marks=pytest.mark.slow),
        (json.dumps({"write": {"reports/metrics.json": OTHERS}}), "names only stages whose dvc has ended"),
        pytest.param(
            json.dumps({"read": {"data/raw": [OTHERS]}}),
            "names only stages whose dvc has ended",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["empty", "torn", "writes", "reads"],
)
def test_what_a_dvc_that_was_killed_left_of_its_list_keeps_no_stage_from_running(
    project: Project, left: str, fault: str
) -> None:
    run("validate")
    listed = project.path / ".dvc/tmp/rwlock"
    listed.write_text(left)
    outcome, lines = run("train")
    assert outcome.ok
    assert lines[0] == f".dvc/tmp/rwlock {fault}; it was removed, and dvc writes a new one"
    listed.write_text(left)
    assert dvc_stage.changes() == {}


def test_a_folder_without_stages_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"dvc\.yaml was not found in .*; start the flow in the project's folder"):
        dvc_stage.stages()


def test_a_disk_on_which_dvc_cannot_write_is_told_with_what_to_do(project: Project) -> None:
    cache = project.path / ".dvc/cache"
    cache.mkdir()
    with mounted(cache, "-t", "tmpfs", "-o", "size=64k", "tmpfs") as is_mounted:
        if not is_mounted:
            pytest.skip(NO_MOUNT)
        with suppress(OSError), (cache / "ballast").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1024))
        outcome, _ = run("validate")
    says = "a file below {}, or a temporary one, could not be written (No space left on device); make space there"
    assert (outcome.ok, outcome.try_again) == (False, False)
    assert outcome.message == f"dvc: {says.format(project.path)} and start again"


def test_a_dvc_lock_that_a_killed_dvc_left_torn_loses_only_its_torn_entry(project: Project) -> None:
    run("validate")
    run("train")
    lock = project.path / "dvc.lock"
    whole = lock.read_text()
    lock.write_text(whole[: whole.rindex("- path") + len("- pa")])
    with pytest.raises(UserError, match=r"dvc status ended with 1"):
        dvc_stage.changes()
    said: list[str] = []
    dvc_stage.look(said.append)
    assert [each.partition(";")[0] for each in said] == [f"dvc.lock {dvc_lock.TORN}"]
    assert list(dvc_stage.changes()) == ["train"]
    outcome, _ = run("train")
    assert (outcome.ok, outcome.ran, lock.read_text()) == (True, False, whole)
