"""prefect.yaml on a real server with a real worker, from nothing to scheduled retraining, and every way a run ends."""

import json
import re
import urllib.error
import urllib.request
from typing import Any

import psutil
import pytest
from conftest import Prefect
from waiting import HANG_SECONDS, wait_for


@pytest.fixture(autouse=True)
def idle(prefect: Prefect) -> None:
    wait_for(lambda: not prefect.project.stage_is_running())


def test_the_schedule_makes_runs(prefect: Prefect) -> None:
    def scheduled() -> list[str]:
        with prefect.client() as client:
            return [run.state.name for run in client.read_flow_runs() if run.auto_scheduled]

    wait_for(lambda: len(scheduled()) >= 3)
    assert set(scheduled()) == {"Scheduled"}


def test_the_first_run_is_live_and_leaves_what_a_person_wants_to_see(prefect: Prefect) -> None:
    prefect.project.say("crash-once held")
    run = prefect.trigger(retry_delay_seconds=0)
    wait_for(lambda: any("training starts" in line for line in prefect.logs()))  # while the stage is held
    (prefect.project.path / "go").touch()
    state = prefect.end_of(run)
    assert (state.name, state.message) == ("Completed", "ran validate, train")
    with prefect.client() as client:
        runs = {task.name: task.run_count for task in client.read_task_runs()}
    assert (runs["validate"], runs["train"]) == (1, 2), "only what crashed is tried again"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d first run", prefect.name(run))
    page = prefect.artifacts()["retraining"]
    assert page.startswith("# Completed\n\nran validate, train\n\n## Why it ran\n\n- first run\n")
    assert re.search(r"\| FID, lower is better \| 3\.25 \| 1\.5 \|", page)
    assert "](data:image/png;base64," in page
    assert "dvc metrics diff" in page
    wait_for(lambda: any("the model is trained" in line for line in prefect.logs()))


def test_without_new_data_nothing_is_done(prefect: Prefect) -> None:
    state = prefect.end_of(prefect.trigger())
    assert (state.name, state.type.value) == ("Completed: nothing changed", "COMPLETED")
    assert state.message == "nothing has changed, so nothing was done"
    assert prefect.artifacts()["retraining"].startswith("# Completed: nothing changed\n")


@pytest.mark.slow
def test_a_run_is_named_after_the_setting_that_changed_with_its_old_and_its_new_value(prefect: Prefect) -> None:
    params = prefect.project.path / "params.yaml"
    params.write_text(params.read_text().replace("  images: 60000 ", "  images: 70000 ", 2))
    run = prefect.trigger()
    assert prefect.end_of(run).message == "ran train"
    assert prefect.name(run).endswith(" train.images 60000 → 70000")
    assert "\n- train.images 60000 → 70000 (train)\n" in prefect.artifacts()["retraining"]


def test_a_failed_stage_gives_its_own_sentence_to_its_task_and_its_flow(prefect: Prefect) -> None:
    prefect.project.say("bad")
    run = prefect.trigger()
    sentence = "validate: data/raw/said.txt says bad, expected good; write good"
    state = prefect.end_of(run)
    assert (state.name, state.type.value, state.message) == ("Failed: validate", "FAILED", sentence)
    assert prefect.name(run).endswith(" data in data/raw modified")
    assert "- data in data/raw modified (validate, train)" in prefect.artifacts()["retraining"]
    with prefect.client() as client:
        tasks = [task for task in client.read_task_runs() if task.state.is_failed()]
        assert {task.state.message for task in tasks} == {sentence}
        assert next(task for task in tasks if task.name == "validate").run_count == 1, "not tried again"


@pytest.mark.slow
def test_a_run_is_started_from_the_command_line(prefect: Prefect) -> None:
    prefect.project.say("good")
    words = ("prefect", "--profile", "local", "deployment", "run", "retrain/nightly")
    started = prefect.project.run(*words, **prefect.environment)
    assert started.returncode == 0, started.stdout
    run = re.search(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", started.stdout)
    assert run is not None, started.stdout
    assert prefect.end_of(run[0]).message == "ran validate, train"


def ask(prefect: Prefect, path: str, *, method: str = "GET", **headers: str) -> tuple[int, str, dict[str, str]]:
    """Status, body and headers of the server's answer to what a browser may send for any page."""
    request = urllib.request.Request(
        f"{prefect.address}{path}",
        data=b'{"name": "planted"}' if method == "POST" else None,
        method=method,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )
    try:
        answer = urllib.request.urlopen(request, timeout=HANG_SECONDS)
    except urllib.error.HTTPError as refused:
        answer = refused
    return answer.status, answer.read().decode(), {name.lower(): value for name, value in answer.headers.items()}


FOREIGN = "http://another.example"


def test_a_page_of_another_site_may_not_ask_for_what_needs_to_be_allowed(prefect: Prefect) -> None:
    asked = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "prefect-csrf-token"}
    status, _, headers = ask(prefect, "/api/deployments/", method="OPTIONS", Origin=FOREIGN, **asked)
    assert status == 400
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("path", ["/api/csrf-token?client=page", "/api/admin/settings", "/api/deployments/name/a/b"])
def test_a_page_of_another_site_reads_nothing_and_so_gets_no_token(prefect: Prefect, path: str) -> None:
    _, _, headers = ask(prefect, path, Origin=FOREIGN)
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_what_a_page_may_send_without_being_allowed_to_is_refused(prefect: Prefect, kind: str) -> None:
    status, said, _ = ask(prefect, "/api/flows/", method="POST", Origin=FOREIGN, Content_Type=kind)
    assert (status, said) == (403, '{"detail":"Missing CSRF token."}')
    with prefect.client() as client:
        assert "planted" not in [flow.name for flow in client.read_flows()]


def test_the_page_of_the_server_itself_asks_with_a_token_and_where_it_came_from(prefect: Prefect) -> None:
    settings = json.loads(ask(prefect, "/ui-settings")[1])
    assert settings["csrf_enabled"]
    assert settings["api_url"] == "/api"
    token = json.loads(ask(prefect, "/api/csrf-token?client=page")[1])["token"]
    sent = {"Content_Type": "application/json", "Prefect_Csrf_Token": token, "Prefect_Csrf_Client": "page"}
    status, said, _ = ask(prefect, "/api/flows/count", method="POST", Origin=prefect.address, **sent)
    assert (status, json.loads(said)) == (200, 3), "retrain, approve and search"


def assert_said_everywhere(prefect: Prefect, run: Any, end: str, words: str) -> None:
    """The task that was stopped, the log and the page of the run say what happened; they come after the state."""
    wait_for(lambda: prefect.tasks(run)["train"][0] == end)
    assert f"it ended with its run: {words}" in prefect.tasks(run)["train"][1]
    wait_for(lambda: any(f"the run ended: {words}" in line for line in prefect.logs()))
    wait_for(lambda: words in prefect.artifacts()["retraining"])


def test_one_run_keeps_everybody_else_out_and_a_cancelled_one_leaves_nothing_running(prefect: Prefect) -> None:
    prefect.project.say("long")
    first = prefect.trigger()
    wait_for(prefect.project.stage_is_running)

    second = prefect.end_of(prefect.trigger())
    assert second.name == "Refused"
    assert re.search(r"/a project is in use by the flow retrain \(process \d+, since", second.message)
    by_hand = prefect.project.run("python", "flows/retrain.py", **prefect.environment)
    assert by_hand.returncode == 1
    assert re.search(r"\nerror: .*/a project is in use by the flow retrain \(process \d+, since", by_hand.stdout)

    from prefect.states import Cancelling

    with prefect.client() as client:
        client.set_flow_run_state(first, Cancelling())
    assert prefect.end_of(first).name == "Cancelled"
    assert_said_everywhere(
        prefect, first, "CANCELLED", "a person cancelled it; the next run does the stages that are left"
    )
    assert not prefect.project.stage_is_running()
    assert not prefect.project.processes(word="dvc")


def test_a_killed_flow_leaves_no_stage_running(prefect: Prefect) -> None:
    prefect.project.say("long")
    run = prefect.trigger()
    wait_for(prefect.project.stage_is_running)
    owner = json.loads((prefect.project.path / ".state/pipeline.lock").read_text())["pid"]
    psutil.Process(owner).kill()
    wait_for(lambda: not prefect.project.stage_is_running())
    wait_for(lambda: not prefect.project.processes(word="dvc"))
    assert prefect.end_of(run).type.value == "CRASHED"
    assert_said_everywhere(prefect, run, "CRASHED", "its process was killed (SIGKILL), by a person or by the system")
    wait_for(lambda: "(SIGKILL), by a person" in prefect.state(run).message)


def killed(prefect: Prefect, what: str) -> psutil.Process:
    """One of the three processes that do a stage's work."""
    if what == "flow":
        return psutil.Process(json.loads((prefect.project.path / ".state/pipeline.lock").read_text())["pid"])
    stage = psutil.Process(int((prefect.project.path / "stage.pid").read_text()))
    return stage if what == "stage" else next(each for each in stage.parents() if "dvc" in each.cmdline())


@pytest.mark.slow
@pytest.mark.parametrize("what", ["stage", "dvc", "flow"])
def test_after_a_kill_in_the_middle_of_a_stage_the_next_retraining_needs_no_hand_and_nothing_says_running(
    prefect: Prefect, what: str
) -> None:
    """The same with real stages and servers, and for all other faults: tests/faults."""
    go, stage = prefect.project.path / "go", prefect.project.path / "stage.pid"
    for path in (go, stage):
        path.unlink(missing_ok=True)
    prefect.project.say("held")
    before = prefect.trigger(retry_delay_seconds=0)
    wait_for(lambda: stage.exists() and stage.read_text())
    killed(prefect, what).kill()
    go.touch()
    assert prefect.end_of(before).type.value == ("CRASHED" if what == "flow" else "COMPLETED")
    after = prefect.trigger()
    assert prefect.end_of(after).type.value == "COMPLETED"
    assert prefect.tasks(after).get("train", ("COMPLETED",))[0] == "COMPLETED"
    with prefect.client() as client:
        runs = [*client.read_flow_runs(), *client.read_task_runs()]
    assert {run.state.type.value for run in runs} <= {"SCHEDULED", "COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
