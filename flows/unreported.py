"""The end of a flow while its Prefect server does not answer: stored in a file and sent when the server is back."""

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from ddpm.files import write_json
from ddpm.redaction import redacted

FOLDER = Path(".state/unreported")
WAIT_SECONDS = 60.0
"""Time that a finished flow waits for its server; a restart of the server takes less."""
_POLL_SECONDS = 1.0
_RECORD_SECONDS = 10.0
_RECORD_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Page:
    """A page in Markdown, which the server shows as an artifact of the run."""

    key: str
    text: str
    description: str


@dataclass(frozen=True)
class End:
    """The end of a flow run: its state, its pages, and the states of its tasks by name."""

    state: State
    pages: list[Page] = field(default_factory=list)
    tasks: Mapping[str, State] = field(default_factory=dict)


def conclude(end: End) -> State:
    """Send the pages and the states of the tasks to the server, and return the state that the flow returns.

    If the server does not answer within WAIT_SECONDS, store the end for `report_earlier_runs` and exit the process:
    with 0 if the flow completed, otherwise 1. Prefect would retry for minutes and then mark a completed flow as failed.
    """
    if not comes_back():
        _keep(this_run(), end)
        _exit(end.state)
    for page in end.pages:
        create_markdown_artifact(page.text, key=page.key, description=page.description)
    if end.tasks:
        with get_client(sync_client=True) as client:
            _send_task_states(client, this_run(), end.tasks)
    return end.state


def comes_back() -> bool:
    """Return whether the server answers within WAIT_SECONDS."""
    end = time.monotonic() + WAIT_SECONDS
    if answers():
        return True
    print(f"the Prefect server at {_api()} does not answer; waiting up to {WAIT_SECONDS:g} seconds for it", flush=True)
    while time.monotonic() < end:
        time.sleep(_POLL_SECONDS)
        if answers():
            return True
    return False


def answers() -> bool:
    """Return whether the Prefect server answers one request; a refusal (401, 403) counts as an answer."""
    try:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as client:
            error = client.api_healthcheck()
    except Exception as raised:
        error = raised
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code < 500
    return not isinstance(error, httpx.TransportError)


def report_earlier_runs() -> None:
    """Send the ends of earlier runs in this folder that the server missed. Called at the start of a flow."""
    for path in sorted(FOLDER.glob("*.json")):
        stored = json.loads(path.read_text())
        with get_client(sync_client=True) as client:
            run = UUID(stored["run"])
            try:
                client.read_flow_run(run)
            except ObjectNotFound:
                if stored["api"] == _api():  # a run of another server stays stored
                    path.unlink()
                    get_run_logger().warning(
                        f"run {run} ended while the server did not answer, and the server has no record of it any more"
                    )
                continue
            _send_task_states(client, run, {name: State.model_validate(end) for name, end in stored["tasks"].items()})
            for page in stored["pages"]:
                artifact = {"key": page["key"], "data": page["text"], "description": page["description"]}
                client.create_artifact(ArtifactCreate(type="markdown", flow_run_id=run, **artifact))
            client.set_flow_run_state(run, State.model_validate(stored["state"]), force=True)
        path.unlink()
        message = stored["state"]["message"]
        get_run_logger().info(f"reported the end of run {run}, which the server had missed: {message}")


def _send_task_states(client: SyncPrefectClient, run: UUID, ends: Mapping[str, State]) -> None:
    """Set the states of the tasks whose end the server missed.

    The server stores an end that it received with a delay, so this waits up to _RECORD_SECONDS before it sends one.
    """
    stop = time.monotonic() + _RECORD_SECONDS
    while True:
        found = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run])))
        unknown = [task for task in found if task.name in ends and not (task.state and task.state.is_final())]
        if not unknown:
            return
        if time.monotonic() > stop:
            break
        time.sleep(_RECORD_POLL_SECONDS)
    for task in unknown:
        client.set_task_run_state(task.id, ends[task.name], force=True)


def _keep(run: UUID, end: End) -> None:
    write_json(
        FOLDER / f"{run}.json",
        {
            "api": _api(),
            "run": str(run),
            "state": _as_json(end.state),
            "pages": [asdict(page) for page in end.pages],
            "tasks": {name: _as_json(state) for name, state in end.tasks.items()},
        },
    )


def _as_json(state: State) -> dict[str, Any]:
    return state.model_dump(mode="json", include={"type", "name", "message", "timestamp"})


def _exit(state: State) -> NoReturn:
    print(file=sys.stderr)  # Prefect's messages about the lost server may not end with a line break
    note = f"the Prefect server at {_api()} does not answer; the next flow that reaches it reports this end"
    if state.is_completed():
        print(f"{state.message}; {note}")
    else:
        print(f"error: {state.message}; {note}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    # Skips Prefect's exit handlers, each of which asks the server again for a minute.
    os._exit(0 if state.is_completed() else 1)


def this_run() -> UUID:
    """Return the id of the flow run that calls this."""
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    return context.flow_run.id


def _api() -> str:
    return redacted(PREFECT_API_URL.value() or "")
