"""How a flow ends while its Prefect server is away: the end is kept in a file, and told when the server is back."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
"""How long a flow that has ended waits for its server; a restart takes less."""
_POLL_SECONDS = 1.0
_RECORD_SECONDS = 10.0
_RECORD_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Page:
    """Markdown that a run leaves for people, as an artifact."""

    key: str
    text: str
    description: str


@dataclass(frozen=True)
class End:
    """How a flow run ended, what it leaves to see, and how its tasks ended, by name."""

    state: State
    pages: list[Page] = field(default_factory=list)
    tasks: Mapping[str, State] = field(default_factory=dict)


_around: list[tuple[UUID, Callable[[State], End]]] = []


@contextmanager
def within(end_of: Callable[[State], End]) -> Iterator[None]:
    """A flow that this one calls in the block may find the server gone: then this one ends as `end_of` its state."""
    _around.append((_this_run(), end_of))
    try:
        yield
    finally:
        _around.pop()


def conclude(end: End) -> State:
    """The state for the flow to return, once its pages are at the server.

    Where the server is away and does not come back within WAIT_SECONDS, the end is kept for `tell`, and this process
    ends: 0 if the flow completed, else 1. Prefect would try for minutes, and then fail though nothing else did.
    """
    if not comes_back():
        _keep(_this_run(), end)
        state = end.state
        for run, end_of in reversed(_around):
            outer = end_of(state)
            _keep(run, outer)
            state = outer.state
        _exit(state)
    for page in end.pages:
        create_markdown_artifact(page.text, key=page.key, description=page.description)
    if end.tasks:
        with get_client(sync_client=True) as client:
            _tell_tasks(client, _this_run(), end.tasks)
    return end.state


def comes_back() -> bool:
    """Whether the server answers, within WAIT_SECONDS."""
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
    """Whether the Prefect server is there, asked once as Prefect asks; whether we may use it, it says itself."""
    try:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as client:
            error = client.api_healthcheck()
    except Exception as raised:
        error = raised
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code < 500
    return not isinstance(error, httpx.TransportError)


def tell() -> None:
    """Tell the server how earlier runs of this folder ended while it was away; called at the start of a flow."""
    for path in sorted(FOLDER.glob("*.json")):
        kept = json.loads(path.read_text())
        with get_client(sync_client=True) as client:
            run = UUID(kept["run"])
            try:
                client.read_flow_run(run)
            except ObjectNotFound:
                if kept["api"] == _api():  # and not another server's
                    path.unlink()
                    get_run_logger().warning(f"run {run} ended while the server was away, which has lost its record")
                continue
            _tell_tasks(client, run, {name: State.model_validate(state) for name, state in kept["tasks"].items()})
            for page in kept["pages"]:
                artifact = {"key": page["key"], "data": page["text"], "description": page["description"]}
                client.create_artifact(ArtifactCreate(type="markdown", flow_run_id=run, **artifact))
            client.set_flow_run_state(run, State.model_validate(kept["state"]), force=True)
        path.unlink()
        get_run_logger().info(f"the server was away when run {run} ended, and knows it now: {kept['state']['message']}")


def _tell_tasks(client: SyncPrefectClient, run: UUID, ends: Mapping[str, State]) -> None:
    """The ends that the server does not know of: it writes them down a little later, if it was there to hear them."""
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
            "state": _told(end.state),
            "pages": [asdict(page) for page in end.pages],
            "tasks": {name: _told(state) for name, state in end.tasks.items()},
        },
    )


def _told(state: State) -> dict[str, Any]:
    return state.model_dump(mode="json", include={"type", "name", "message", "timestamp"})


def _exit(state: State) -> NoReturn:
    print(file=sys.stderr)  # Prefect's own words about the lost server may have ended without a line break
    gone = f"the Prefect server at {_api()} has gone; the next flow that finds it tells it so"
    if state.is_completed():
        print(f"{state.message}; {gone}")
    else:
        print(f"error: {state.message}; {gone}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    # Past Prefect, which on every other way out asks the server again for a minute at a time.
    os._exit(0 if state.is_completed() else 1)


def _this_run() -> UUID:
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    return context.flow_run.id


def _api() -> str:
    return redacted(PREFECT_API_URL.value() or "")
