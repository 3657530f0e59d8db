"""`python flows/NAME.py` where there is no Prefect server: a temporary one, which ends with the flow."""

import os
import re
import signal
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from conftest import Project, new_project
from waiting import HANG_SECONDS, wait_for


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """One project for all, because a new one makes Prefect's database first."""
    with new_project(tmp_path_factory.mktemp("here") / "a project") as made:
        yield made


def test_the_flow_runs_without_a_server_and_its_record_is_kept(used: Project) -> None:
    ran = used.run("python", "flows/pipeline.py")
    assert ran.returncode == 0, ran.stdout
    assert "the model is trained" in ran.stdout
    assert "Traceback" not in ran.stdout
    with sqlite3.connect(used.path / ".state/prefect.db") as database:
        tasks = dict(database.execute("select name, state_name from task_run"))
    assert tasks == {"validate": "Completed", "train": "Completed"}
    wait_for(lambda: not used.processes())


@pytest.mark.slow
def test_its_server_does_nothing_that_another_site_sends_and_ends_with_the_flow_by_sigterm(
    used: Project,
) -> None:
    used.say("long")
    flow = used.start("python", "flows/retrain.py", log=used.path / "log")
    wait_for(used.stage_is_running)
    address = re.search(r"Prefect: (http://127\.0\.0\.1:\d+) while", (used.path / "log").read_text())
    assert address is not None
    page = {"Origin": "http://another.example", "Content-Type": "text/plain"}
    planted = urllib.request.Request(f"{address[1]}/api/flows/", data=b'{"name": "planted"}', headers=page)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(planted, timeout=HANG_SECONDS)
    flow.send_signal(signal.SIGTERM)
    assert flow.wait(timeout=HANG_SECONDS) == 143
    wait_for(lambda: not used.processes())


@pytest.mark.parametrize(
    "how",
    [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGKILL],
    ids=lambda how: how.name,
)
def test_a_flow_that_is_ended_leaves_neither_a_stage_nor_a_server_behind(used: Project, how: signal.Signals) -> None:
    used.say("long")
    flow = used.start("python", "flows/retrain.py", log=used.path / "log")
    wait_for(used.stage_is_running)
    if how == signal.SIGINT:
        os.killpg(flow.pid, how)  # Ctrl-C reaches the whole group
    else:
        flow.send_signal(how)
    assert flow.wait(timeout=HANG_SECONDS) == (130 if how == signal.SIGINT else -how)
    wait_for(lambda: not used.processes())


@pytest.mark.slow
def test_what_dvc_would_wait_for_ends_the_flow_with_its_name(used: Project) -> None:
    os.mkfifo(used.path / "data/raw/pipe.png")
    ran = used.run("python", "flows/retrain.py")
    assert ran.returncode == 1
    assert "\nerror: data.path is data/raw, in which pipe.png (a pipe) cannot be data, since DVC" in ran.stdout
    (used.path / "data/raw/pipe.png").unlink()


def test_a_server_that_does_not_answer_is_named_with_what_to_do(used: Project) -> None:
    ran = used.run("python", "flows/pipeline.py", PREFECT_API_URL="http://127.0.0.1:9/api")
    assert ran.returncode == 1
    assert "\nerror: no Prefect server answers at http://127.0.0.1:9/api; start it with" in f"\n{ran.stdout}"
