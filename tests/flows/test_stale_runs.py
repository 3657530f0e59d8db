"""Runs whose process was killed: the next start of a flow or of a worker closes them, and never those of others."""

import json
import os
import signal
from typing import Any

import pytest
from conftest import Prefect
from waiting import wait_for


def killed_with_its_worker(prefect: Prefect) -> Any:
    """A retraining that was killed in the middle of `train` together with its worker, as by a power cut."""
    (prefect.project.path / "go").unlink(missing_ok=True)
    prefect.project.say("held")
    run = prefect.trigger()
    wait_for(prefect.project.stage_is_running)
    prefect.worker.send_signal(signal.SIGKILL)
    os.kill(json.loads((prefect.project.path / ".state/pipeline.lock").read_text())["pid"], signal.SIGKILL)
    wait_for(lambda: not prefect.project.stage_is_running())
    return run


def slots(prefect: Prefect) -> int:
    with prefect.client() as client:
        deployment = client.read_deployment_by_name("retrain/nightly")
        return int(deployment.global_concurrency_limit.active_slots)


@pytest.mark.slow
def test_the_next_worker_closes_what_a_power_cut_left_frees_the_slot_and_says_so(prefect: Prefect) -> None:
    from prefect.client.schemas.actions import DeploymentUpdate

    with prefect.client() as client:
        deployment = client.read_deployment_by_name("retrain/nightly")
        client.update_deployment(deployment.id, DeploymentUpdate(concurrency_limit=1))
    run = killed_with_its_worker(prefect)
    assert prefect.state(run).type.value == "RUNNING"
    assert slots(prefect) == 1
    listed = prefect.project.run("python", "flows/stale_runs.py", **prefect.environment)
    assert listed.stdout.count("its process was killed or crashed") == 1, listed.stdout
    assert prefect.state(run).type.value == "RUNNING", "a list changes nothing"

    prefect.start_worker()
    state = prefect.state(run)
    assert state.type.value == "CRASHED"
    assert "its process was killed or crashed (process " in state.message
    assert prefect.tasks(run)["train"] == ("CRASHED", f"it ended with its run: {state.message}")
    assert prefect.tasks(run)["validate"] == ("COMPLETED", "validate: done")
    assert slots(prefect) == 0
    assert f"closed: the run '{prefect.name(run)}' was Running in Prefect, but" in prefect.worker_log()
    wait_for(lambda: f"the run ended: {state.message}" in prefect.logs())
    assert state.message in prefect.artifacts()["retraining"]


@pytest.mark.slow
def test_a_living_run_and_one_of_another_machine_are_left_alone_and_a_restart_is_named(prefect: Prefect) -> None:
    from prefect import flow
    from prefect.states import Running

    from ddpm.pipeline.process_identity import ProcessIdentity, place

    own = {name: str(value) for name, value in ProcessIdentity.of().record().items()}
    namespace = place().partition(" ")[2]
    signed = {
        "lives": own,
        "elsewhere": own | {"host": "another", "machine": "another", "place": "boot pid:[1]"},
        "before": own | {"place": f"earlier-boot {namespace}"},
        "unsigned": {},
    }
    made = {}
    with prefect.client() as client:
        for name, process in signed.items():
            made[name] = client.create_flow_run(flow(lambda: None, name="other"), name=name, state=Running()).id
            labels = {f"process.{key}": value for key, value in process.items()}
            client.update_flow_run_labels(made[name], labels)
    mended = prefect.project.run("python", "flows/stale_runs.py", "--mend", **prefect.environment)
    assert mended.returncode == 0, mended.stdout
    types = {name: prefect.state(run).type.value for name, run in made.items()}
    restarted = own["machine"] and namespace == "pid:[4026531836]"
    assert types == {
        "lives": "RUNNING",
        "elsewhere": "RUNNING",
        "before": "CRASHED" if restarted else "RUNNING",
        "unsigned": "RUNNING",
    }
    assert "'elsewhere' was Running in Prefect, but its process" in mended.stdout
    assert "on another, started" in mended.stdout
    assert "'lives'" not in mended.stdout
    if restarted:
        assert "restarted or lost power" in prefect.state(made["before"]).message


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (SystemExit(1), "its process was asked to end (SIGTERM)"),
        (KeyboardInterrupt(), "a person stopped it with Ctrl-C"),
    ],
)
def test_an_end_that_prefect_reports_itself_is_said_as_the_operations_page_has_it(
    error: BaseException, says: str
) -> None:
    import asyncio

    import stale_runs
    from prefect.states import exception_to_crashed_state

    message = asyncio.run(exception_to_crashed_state(error)).message
    assert stale_runs.how_it_ended(message) == says
