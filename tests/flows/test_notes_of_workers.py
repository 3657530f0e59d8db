"""The note of a worker that has ended stays while a run may wait that it took."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import stale_runs

from ddpm.files import write_json
from ddpm.pipeline.process_identity import ProcessIdentity


@pytest.fixture
def ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a worker that ended in this folder."""
    monkeypatch.chdir(tmp_path)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = ProcessIdentity.of(process.pid)
    write_json(stale_runs.WORKERS / f"{identity}.json", identity.record())
    process.communicate()
    return str(identity)


def test_workers_that_come_later_still_know_the_process_of_one_that_ended(ended: str) -> None:
    for _ in range(2):
        stale_runs.worker_name()
    behind = stale_runs._process_of({"prefect.worker.name": ended})
    assert behind is not None
    assert behind.fate() == "ended"


def test_a_month_later_only_the_notes_of_living_workers_are_kept(ended: str) -> None:
    lives = stale_runs.worker_name()
    month_ago = time.time() - 31 * 86400
    for path in stale_runs.WORKERS.iterdir():
        os.utime(path, (month_ago, month_ago))
    stale_runs.worker_name()
    assert [path.stem for path in stale_runs.WORKERS.iterdir()] == [lives]
