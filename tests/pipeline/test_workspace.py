"""The lock of the workspace and the watch over a stage's launcher, with real processes and a real dvc."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from waiting import wait_for

from ddpm.errors import UserError
from ddpm.pipeline import process_identity
from ddpm.pipeline.workspace import LOCK, POLL_SECONDS, InUseError, claim

STAGE = """
import os, signal, sys, time
from pathlib import Path
from tqdm import tqdm
from ddpm.errors import UserError
from ddpm.pipeline import process_identity
from ddpm.pipeline.workspace import run_stage

def save(signum, frame):
    Path("saved").write_text("yes")
    sys.exit(1)

def main():
    what = sys.argv[1]
    if what == "save":
        signal.signal(signal.SIGTERM, save)
    Path("stage.pid").write_text(str(os.getpid()))
    if what == "progress":
        for _ in tqdm(range(3), mininterval=0):
            raise UserError("two and two is 5, expected 4; count again")
    if what == "mend":
        raise UserError("two and two is 5, expected 4; count again")
    if what == "crash":
        raise ValueError("one\\nof those")
    if what == "interrupt":
        raise KeyboardInterrupt
    if what in ("wait", "save"):
        while not Path("go").exists():
            time.sleep(0.05)
    print("done")

if __name__ == "__main__":
    run_stage(main)
"""
FLOW = """
import os, subprocess, sys, time
from pathlib import Path
from ddpm.pipeline import process_identity
from ddpm.pipeline.workspace import claim, launcher_environment

with claim("flow nightly"):
    Path("flow.pid").write_text(str(os.getpid()))
    if len(sys.argv) > 1:
        subprocess.run(sys.argv[1:], env=os.environ | launcher_environment())
    time.sleep(3600)
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty workspace with a stage and a flow in it, as the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_STAGE", raising=False)
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / "flow.py").write_text(FLOW)
    return tmp_path


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Starts `python ARGUMENTS` in the workspace, under another command; nothing it started outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def start_one(*arguments: str, under: Sequence[str] = (), **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*under, sys.executable, *arguments],
            cwd=folder,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start_one
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        process.communicate()


@pytest.fixture
def dvc_project(folder: Path) -> Path:
    """The workspace as a DVC project whose stage `one` waits and whose stage `two` ends at once."""
    (folder / "dvc.yaml").write_text(
        textwrap.dedent(f"""
        stages:
          one: {{cmd: '"{sys.executable}" stage.py wait', deps: [stage.py]}}
          two: {{cmd: '"{sys.executable}" stage.py end', deps: [stage.py]}}
        """)
    )
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], cwd=folder, check=True)
    return folder


def pid_in(path: Path) -> int:
    wait_for(lambda: path.exists() and path.read_text())
    return int(path.read_text())


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_stage_runs_by_itself_and_exits_with_zero(start: Start) -> None:
    stage = start("stage.py", "end")
    out, err = stage.communicate()
    assert (stage.returncode, out, err) == (0, "done\n", "")


def test_a_user_error_is_one_sentence_without_a_traceback(start: Start) -> None:
    stage = start("stage.py", "mend")
    _, err = stage.communicate()
    assert (stage.returncode, err) == (1, "error: two and two is 5, expected 4; count again\n")


def test_an_error_keeps_to_its_line_whatever_the_names_in_it_hold() -> None:
    assert str(UserError("a\nb\x1b[31m\udcff é is no image")) == "a\\nb\\x1b[31m\\udcff é is no image"


def test_the_error_has_a_line_of_its_own_below_a_progress_bar(start: Start) -> None:
    _, err = start("stage.py", "progress").communicate()
    assert err.splitlines()[-1] == "error: two and two is 5, expected 4; count again"


def test_any_other_error_ends_in_a_traceback_and_its_own_line(start: Start) -> None:
    stage = start("stage.py", "crash")
    _, err = stage.communicate()
    assert stage.returncode == 1
    assert err.startswith("Traceback (most recent call last)")
    assert err.endswith("\nerror: ValueError: one of those\n")


def test_ctrl_c_exits_with_130_and_no_traceback(start: Start) -> None:
    stage = start("stage.py", "interrupt")
    _, err = stage.communicate()
    assert (stage.returncode, err) == (130, "")


def test_a_second_stage_is_refused_with_the_pid_of_the_first(start: Start, folder: Path) -> None:
    first = start("stage.py", "wait")
    assert pid_in(folder / "stage.pid") == first.pid
    second = start("stage.py", "end")
    _, err = second.communicate()
    assert second.returncode == 1
    assert err.startswith(f"error: {folder} is in use by `stage.py wait` (process {first.pid}, since ")
    (folder / "go").touch()
    assert first.wait() == 0
    assert start("stage.py", "end").wait() == 0


def test_a_name_that_a_dead_owner_left_keeps_nobody_out_even_if_its_pid_lives_again(folder: Path) -> None:
    LOCK.parent.mkdir()
    LOCK.write_text(json.dumps({"pid": os.getppid(), "what": "flow"}))
    with claim("flow"):
        assert json.loads(LOCK.read_text())["pid"] == os.getpid()


def test_a_name_whose_pid_is_no_number_is_that_of_an_unknown_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ddpm.pipeline.workspace.GRACE_SECONDS", -5)
    LOCK.parent.mkdir()
    LOCK.write_text(
        json.dumps({"pid": "x", "what": "flow", "since": "now", "host": "h", "place": process_identity.place()})
    )
    with LOCK.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InUseError, match="by an unknown process"), claim("flow"):
            pass


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_file_is_never_taken_for_a_lock_nor_emptied(folder: Path, kind: str) -> None:
    place, victim = folder / LOCK, folder / "victim"
    victim.write_text("as it was")
    place.parent.mkdir(exist_ok=True)
    {"link": lambda: place.symlink_to(victim), "pipe": lambda: os.mkfifo(place), "folder": place.mkdir}[kind]()
    with pytest.raises(UserError, match="cannot be opened as a lock"), claim("a test"):
        pass
    assert victim.read_text() == "as it was"


def test_a_holder_that_does_not_say_who_it_is_keeps_others_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ddpm.pipeline.workspace.GRACE_SECONDS", -5)
    LOCK.parent.mkdir()
    with LOCK.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with (
            pytest.raises(InUseError, match=r"by an unknown process; find it with `fuser \.state/pipeline\.lock`"),
            claim("flow"),
        ):
            pass


def test_a_claim_within_a_claim_leaves_the_outer_one_in_force(folder: Path) -> None:
    with claim("retrain"):
        with claim("pipeline"):
            pass
        assert json.loads(LOCK.read_text())["what"] == "retrain"


def test_a_flow_keeps_a_persons_dvc_out_between_its_stages(start: Start, dvc_project: Path) -> None:
    flow = start("flow.py")
    pid_in(dvc_project / "flow.pid")
    dvc = start("-m", "dvc", "repro", "two")
    _, err = dvc.communicate()
    assert dvc.returncode != 0
    assert f"is in use by flow nightly (process {flow.pid}," in err


def test_a_flow_shares_the_workspace_with_the_stages_of_its_own_dvc(start: Start, dvc_project: Path) -> None:
    start("flow.py", sys.executable, "-m", "dvc", "repro", "two")
    wait_for((dvc_project / "dvc.lock").exists)


def test_a_persons_dvc_keeps_a_flow_out_until_it_ends(start: Start, dvc_project: Path) -> None:
    dvc = start("-m", "dvc", "repro", "one", "two")
    pid_in(dvc_project / "stage.pid")
    with (
        pytest.raises(UserError, match=rf"in use by `dvc repro one two` \(process {dvc.pid}, since "),
        claim("flow"),
    ):
        pass
    (dvc_project / "go").touch()
    dvc.communicate()
    assert dvc.returncode == 0
    with claim("flow"):
        pass


def test_killing_dvc_lets_the_stage_save_and_end_before_anyone_else_starts(start: Start, dvc_project: Path) -> None:
    text = (dvc_project / "dvc.yaml").read_text()
    (dvc_project / "dvc.yaml").write_text(text.replace("stage.py wait", "stage.py save"))
    dvc = start("-m", "dvc", "repro", "one")
    stage = pid_in(dvc_project / "stage.pid")
    dvc.kill()
    dvc.wait()
    with claim("flow"):
        assert not is_running(stage)
        assert (dvc_project / "saved").exists()


def test_killing_a_flow_ends_the_stage_though_its_dvc_lives(start: Start, dvc_project: Path) -> None:
    flow = start("flow.py", sys.executable, "-m", "dvc", "repro", "one")
    stage = pid_in(dvc_project / "stage.pid")
    flow.kill()
    wait_for(lambda: not is_running(stage))


def test_a_stage_that_starts_after_its_flow_has_died_does_not_run(start: Start) -> None:
    flow = start("-c", "")
    flow.wait()
    stage = start("stage.py", "end", DDPM_LAUNCHER=str(flow.pid))
    out, err = stage.communicate()
    assert (stage.returncode, out) == (1, "")
    assert err == "error: the flow that started this stage has ended; start the flow again\n"


def test_a_stage_that_starts_after_its_dvc_has_died_does_not_run(start: Start) -> None:
    stage = start("stage.py", "end", DVC_STAGE="one")
    out, err = stage.communicate()
    assert (stage.returncode, out) == (1, "")
    assert err == "error: the dvc that started this stage has ended; start dvc again\n"


def namespace(*options: str) -> list[str]:
    """The command that runs another in namespaces of its own; what a container is, as far as pids and mounts go."""
    command = ["unshare", *options]
    try:
        possible = subprocess.run([*command, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        possible = False
    if not possible:
        pytest.skip(f"`{' '.join(command)}` is not to be had here: it takes Linux and the rights of root")
    return command


@pytest.fixture
def container() -> list[str]:
    """The command that runs another with pids of its own, and ends it with itself."""
    return namespace("--pid", "--fork", "--mount-proc", "--kill-child")


def test_a_stage_in_a_container_keeps_others_out_until_it_ends(
    start: Start, folder: Path, container: list[str]
) -> None:
    stage = start("stage.py", "wait", under=container)
    assert pid_in(folder / "stage.pid") < 10, "its pid means another process here"
    with pytest.raises(UserError, match=r"`stage.py wait` \(process \d of another container or machine"), claim("flow"):
        pass
    second = start("stage.py", "end", under=container)
    assert "of another container or machine" in second.communicate()[1]
    (folder / "go").touch()
    assert stage.wait() == 0
    with claim("flow"):
        assert start("stage.py", "end", under=container).wait() == 1


def test_a_persons_dvc_in_a_container_keeps_others_out_between_its_stages_and_only_while_it_lives(
    start: Start, dvc_project: Path, container: list[str]
) -> None:
    pause = "touch pausing; while true; do sleep 0.1; done"
    with (dvc_project / "dvc.yaml").open("a") as file:
        file.write(f"  pause: {{cmd: '{pause}', deps: [stage.py]}}\n")
    dvc = start("-m", "dvc", "repro", "two", "pause", under=container)
    wait_for((dvc_project / "pausing").exists)
    with pytest.raises(UserError, match=r"`dvc repro two pause`.* of another container or machine"), claim("flow"):
        pass
    dvc.kill()

    def is_free() -> bool:
        with suppress(InUseError), claim("flow"):
            return True
        return False

    wait_for(is_free)


@pytest.fixture
def moved_clock(tmp_path: Path) -> tuple[list[str], Callable[[], None]]:
    """A command that runs another on a clock of its own, and a function that puts that clock forward by an hour.

    The kernel tells the clock to programs as the time of the machine's start.
    """
    told = tmp_path / "proc-stat"
    told.write_text(Path("/proc/stat").read_text())

    def forward() -> None:
        lines = told.read_text().splitlines()
        start = next(line for line in lines if line.startswith("btime "))
        lines[lines.index(start)] = f"btime {int(start.split()[1]) + 3600}"
        told.write_text("\n".join([*lines, ""]))

    mounted = ["sh", "-c", 'mount --bind "$0" /proc/stat && exec "$@"', str(told)]
    return [*namespace("--mount"), *mounted], forward


def test_a_clock_that_steps_ends_no_stage_and_opens_no_lock(
    start: Start, dvc_project: Path, moved_clock: tuple[list[str], Callable[[], None]]
) -> None:
    on_moved_clock, forward = moved_clock
    dvc = start("-m", "dvc", "repro", "one", under=on_moved_clock)
    stage = pid_in(dvc_project / "stage.pid")
    forward()
    time.sleep(3 * POLL_SECONDS)
    assert is_running(stage)
    second = start("stage.py", "end", under=on_moved_clock)
    assert f"is in use by `dvc repro one` (process {dvc.pid}, since" in second.communicate()[1]
    (dvc_project / "go").touch()
    assert dvc.wait() == 0
