"""DVC's list of running stages, left by a real dvc that was killed: who removes it, and when nobody does."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import wait_for

from ddpm import cli
from ddpm.pipeline import running_list
from ddpm.pipeline.workspace import claim

DVC = [sys.executable, "-m", "dvc"]
DVC_YAML = """
stages:
  one:
    cmd: touch begun && sleep $(cat seconds) && touch made
    outs: [made]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC project, as the current folder, whose list names a dvc that was killed and a pid that lives."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_STAGE", raising=False)
    (tmp_path / "dvc.yaml").write_text(DVC_YAML)
    (tmp_path / "seconds").write_text("0")
    subprocess.run([*DVC, "init", "--no-scm", "-q"], check=True)
    listed = {"pid": os.getpid(), "cmd": "/usr/bin/dvc repro"}
    running_list.LIST.write_text(json.dumps({"write": {str(tmp_path / "made"): listed}}))
    return tmp_path


@pytest.fixture
def running_dvc(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One that runs a stage."""
    running_list.LIST.unlink()
    (folder / "seconds").write_text("3600")
    dvc = subprocess.Popen([*DVC, "repro"], start_new_session=True)
    wait_for((folder / "begun").exists, process=dvc)
    yield dvc
    os.killpg(dvc.pid, 9)
    dvc.wait()


def repro() -> subprocess.CompletedProcess[str]:
    return subprocess.run([*DVC, "repro"], capture_output=True, text=True)


def mended() -> list[str]:
    said: list[str] = []
    running_list.mend(said.append)
    return said


def test_dvc_itself_is_stopped_by_a_pid_that_means_another_process_until_a_command_mends_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is busy, it is being blocked by" in repro().stderr
    assert cli.main(["report"]) == 1, "there is nothing to report"
    assert capsys.readouterr().err.startswith(".dvc/tmp/rwlock names only stages whose dvc has ended; it was removed")
    assert repro().returncode == 0
    assert (folder / "made").exists()


def test_make_run_mends_before_dvc_starts() -> None:
    recipe = (Path(__file__).parents[2] / "Makefile").read_text()
    assert recipe.index("-m ddpm.pipeline.running_list") < recipe.index("dvc repro\n")


def test_the_list_of_a_dvc_that_runs_is_left_alone(folder: Path, running_dvc: subprocess.Popen[bytes]) -> None:
    before = running_list.LIST.read_text()
    assert str(running_dvc.pid) in before
    assert mended() == []
    assert running_list.LIST.read_text() == before


@pytest.mark.parametrize("left", ["", "[]", '{"write": {"data'])
def test_a_torn_list_is_left_alone_while_a_dvc_runs(
    folder: Path, running_dvc: subprocess.Popen[bytes], left: str
) -> None:
    running_list.LIST.write_text(left)
    assert mended() == []
    assert running_list.LIST.read_text() == left


def test_a_list_is_left_alone_while_somebody_owns_the_folder_or_dvc_holds_its_own_lock(folder: Path) -> None:
    program = (
        "import time\nfrom ddpm.pipeline.workspace import claim\nwith claim('flow'): print(flush=True); time.sleep(999)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as owner:
        owner.stdout.readline()  # type: ignore[union-attr]
        assert mended() == []
        owner.kill()
    holds = "import time, zc.lockfile\nlock = zc.lockfile.LockFile('.dvc/tmp/lock')\nprint(flush=True); time.sleep(999)"
    with subprocess.Popen([sys.executable, "-c", holds], stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()  # type: ignore[union-attr]
        assert mended() == []
        holder.kill()
    with claim("flow"):
        assert len(mended()) == 1, "the owner itself mends it"


def test_what_is_no_project_stays_untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert mended() == []
    assert list(tmp_path.iterdir()) == []
