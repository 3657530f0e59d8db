"""Find runs that Prefect shows as running although their process has ended, and close them with a sentence.

Each run names its process in its labels. `python flows/stale_runs.py` lists such runs, with `--mend` it closes them.
"""

import argparse
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

os.environ.setdefault("DO_NOT_TRACK", "1")  # prefect reads it when it is imported

import pages
import psutil
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Cancelled, Crashed
from prefect.types import KeyValueLabels

from ddpm.files import write_json
from ddpm.pipeline.process_identity import ProcessIdentity
from ddpm.redaction import redacted

_LABEL = "process."
_WORKER_LABEL = "prefect.worker.name"
WORKERS = Path(".state/workers")
"""Folder with the processes of the workers that were started in this folder, by their names."""
_KEPT_SECONDS = 30 * 86400
"""Age of the note of an ended worker when it is removed. A run that the worker took may be open long after its end: a
worker whose clock is ahead takes the runs of the days to come."""
_OPEN = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
_PAGE_LENGTH = 200
_GOES_ON = "the next run does the stages that are left, and a training that was interrupted continues"


@dataclass(frozen=True)
class Stale:
    """A run without a process, or one whose process cannot be looked up from here (`may_close` is false)."""

    run: FlowRun
    what: str
    """What happened, as a sentence without its end."""
    may_close: bool

    def __str__(self) -> str:
        return f"the run {self.run.name!r} was {self.run.state_name} in Prefect, but {self.what}"


def sign(run: UUID) -> None:
    """Write into the labels of a run that this process works on it."""
    labels: KeyValueLabels = {f"{_LABEL}{name}": value for name, value in ProcessIdentity.of().record().items()}
    with get_client(sync_client=True) as client:
        client.update_flow_run_labels(run, labels)


def worker_name() -> str:
    """Return a name for the worker that this process becomes, and note its process, which the worker's runs name."""
    own = ProcessIdentity.of()
    for path in WORKERS.glob("*.json"):
        noted, is_old = _noted(path.stem), time.time() - path.stat().st_mtime > _KEPT_SECONDS
        if noted is None or (is_old and noted.fate() in ("ended", "restarted")):
            path.unlink(missing_ok=True)
    write_json(WORKERS / f"{own}.json", own.record())
    return str(own)


def close_stale(report: Callable[[str], None]) -> None:
    """Close all runs on the server whose process has ended; `report` gets a sentence for each.

    Runs of living processes and of other machines are not touched.
    """
    with get_client(sync_client=True) as client:
        for stale in find(client):
            if stale.may_close:
                _close(client, stale.run, _end(stale.run, stale.what))
                report(f"closed: {stale}")


def find(client: SyncPrefectClient) -> list[Stale]:
    """Return the runs of this project's flows that are open on the server and have no process that is known to live."""
    found = [_judged(client, run) for run in _open_runs(client)]
    return [stale for stale in found if stale is not None]


def after_crash(flow: "Flow[..., Any]", flow_run: FlowRun, state: State) -> None:
    """Hook of a flow: say in words how its process ended, and close its tasks."""
    with get_client(sync_client=True) as client:
        _close(client, flow_run, Crashed(message=_sentence(how_it_ended(state.message or ""))))


def how_it_ended(message: str) -> str:
    """Return in words how the process of a crashed run ended, by the message that Prefect gives it."""
    code = re.search(r"exited with status code: (-?\d+)", message)
    if code is not None:
        what = "its process was killed (SIGKILL), by a person or by the system when memory ran out"
        what = what if code[1] in ("-9", "137") else f"its process ended with status {code[1]}, see the log"
    elif "interrupt signal" in message or "KeyboardInterrupt" in message:
        what = "a person stopped it with Ctrl-C"
    elif any(word in message for word in ("system exit", "SystemExit", "SIGTERM")) or "terminat" in message.lower():
        what = "its process was asked to end (SIGTERM)"
    else:
        what = message.rstrip(".")
    return what


def after_cancellation(flow: "Flow[..., Any]", flow_run: FlowRun, state: State) -> None:
    """Hook of a flow: say in words that it was cancelled, and close its tasks."""
    with get_client(sync_client=True) as client:
        _close(client, flow_run, Cancelled(message=_sentence("a person cancelled it")))


def _open_runs(client: SyncPrefectClient) -> list[FlowRun]:
    runs: list[FlowRun] = []
    is_open = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_OPEN)))
    while True:
        page = client.read_flow_runs(flow_run_filter=is_open, limit=_PAGE_LENGTH, offset=len(runs))
        runs += page
        if len(page) < _PAGE_LENGTH:
            return runs


def _judged(client: SyncPrefectClient, run: FlowRun) -> Stale | None:
    behind = _process_of(run.labels)
    if behind is None:
        return None
    fate = behind.fate()
    if fate == "lives" or _has_process_here(run.id):
        return None
    if fate == "unknown":
        return Stale(run, f"its {behind} cannot be looked up from here; if that machine is gone, cancel the run", False)
    now = client.read_flow_run(run.id)  # the process may have reported its end before it ended
    if now.state_type not in _OPEN or _process_of(now.labels) != behind:
        return None
    if fate == "restarted":
        return Stale(now, f"its machine {behind.host} was restarted or lost power meanwhile ({behind})", True)
    return Stale(now, f"its process was killed or crashed ({behind})", True)


def _process_of(labels: Mapping[str, Any]) -> ProcessIdentity | None:
    """Return the process of a run: its own, or while it has none yet, the worker that starts it."""
    own = ProcessIdentity.read({name.removeprefix(_LABEL): value for name, value in labels.items()})
    return own if own is not None else _noted(str(labels.get(_WORKER_LABEL, "")))


def _noted(worker: str) -> ProcessIdentity | None:
    """Return the process of a worker that was started in this folder; None for other workers."""
    path = WORKERS / f"{worker}.json"
    try:
        return ProcessIdentity.read(json.loads(path.read_text())) if path.parent == WORKERS else None
    except (OSError, ValueError):
        return None


def _has_process_here(run: UUID) -> bool:
    """Return whether a process of this user on this machine was started for the run by a worker."""
    for process in psutil.process_iter():
        try:
            if process.environ().get("PREFECT__FLOW_RUN_ID") == str(run) and process.status() != psutil.STATUS_ZOMBIE:
                return True
        except psutil.Error:
            continue
    return False


def _end(run: FlowRun, what: str) -> State:
    sentence = _sentence(what)
    return Cancelled(message=sentence) if run.state_type == StateType.CANCELLING else Crashed(message=sentence)


def _sentence(what: str) -> str:
    return redacted(f"{what}; {_GOES_ON}")


def _close(client: SyncPrefectClient, run: FlowRun, end: State) -> None:
    """Set the end of a run and of its open tasks, and write it into its log and on its page."""
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
    for task in client.read_task_runs(flow_run_filter=of_run):
        if task.state is None or not task.state.is_final() or task.state.is_crashed():
            end_of_task = State(type=end.type, name=end.name, message=f"it ended with its run: {end.message}")
            client.set_task_run_state(task.id, end_of_task, force=True)
    entry = {
        "name": "prefect.flow_runs",
        "level": logging.ERROR,
        "message": f"the run ended: {end.message}",
        "timestamp": datetime.now(UTC).isoformat(),
        "flow_run_id": str(run.id),
    }
    client.create_logs([entry])
    title = "Cancelled" if end.is_cancelled() else "Ended without a result"
    text = f"## {title}\n\n{end.message}\n"
    client.create_artifact(
        ArtifactCreate(key=pages.KEY, type="markdown", data=text, description=title, flow_run_id=run.id)
    )
    client.set_flow_run_state(run.id, end, force=True)


def main() -> None:
    """List the stale runs, one per line; with --mend close those of this machine.

    The exit status is 3 if there is no server and no database of one.
    """
    import command_line

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mend", action="store_true", help="close them")
    mend = parser.parse_args().mend
    if not command_line.find_server():
        print("no server answers, so its runs were not looked at")
        sys.exit(3)
    if mend:
        close_stale(print)
    with get_client(sync_client=True) as client:
        for stale in find(client):
            print(stale)


if __name__ == "__main__":
    main()
