"""A power cut: Prefect's server, worker, flow and stage are killed at once, and one retraining mends it."""

import os
import signal
import time
from contextlib import suppress

import pytest
from conftest import Prefect, answers
from waiting import wait_for


def cut_the_power(prefect: Prefect) -> None:
    """Kill every process of the project, and start server and worker again."""
    left = prefect.project.processes()
    for process in left:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: not prefect.project.processes())
    port = prefect.address.rpartition(":")[2]
    log = prefect.project.path / "server after the power cut.log"
    prefect.project.start("prefect", "server", "start", "--port", port, log=log)
    wait_for(lambda: answers(f"{prefect.address}/api/health"))
    prefect.start_worker()


def open_states(prefect: Prefect) -> list[str]:
    with prefect.client() as client:
        runs = [*client.read_flow_runs(), *client.read_task_runs()]
    return [run.name for run in runs if run.state.type.value in ("RUNNING", "PENDING", "CANCELLING")]


@pytest.mark.slow
def test_after_a_power_cut_nothing_says_running_and_the_next_retraining_needs_no_hand(prefect: Prefect) -> None:
    project = prefect.project
    project.say("held")
    before = prefect.trigger()
    wait_for(project.stage_is_running)
    since = time.monotonic()
    cut_the_power(prefect)
    assert open_states(prefect) == [], "the worker's start closed what the power cut left"
    assert prefect.state(before).type.value == "CRASHED"
    (project.path / "go").touch()
    after = prefect.trigger()
    assert prefect.end_of(after).type.value == "COMPLETED"
    assert prefect.tasks(after)["validate"] == ("COMPLETED", "validate: nothing had changed")
    assert open_states(prefect) == []
    print(f"recovered after {time.monotonic() - since:.0f} s")
    doctor = project.run("ddpm", "doctor", **prefect.environment)
    assert doctor.stdout.endswith("nothing needs mending\n"), doctor.stdout
