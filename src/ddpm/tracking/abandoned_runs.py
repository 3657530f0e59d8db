"""MLflow runs that are RUNNING although the process of their training has ended: found, and given the status KILLED."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddpm.pipeline.process_identity import ProcessIdentity
from ddpm.tracking.store import connect, mlflow_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from ddpm.tracking.run_tracker import MlflowTracker

PROCESS_TAG = "process"
"""Tag with the process that trains, as JSON."""


@dataclass(frozen=True)
class Abandoned:
    """A run without a process, or one whose process cannot be looked up from here (`may_end` is false)."""

    run: "Run"
    what: str
    may_end: bool

    def __str__(self) -> str:
        return f"the run {self.run.info.run_name!r} ({self.run.info.run_id}) was RUNNING in MLflow, but {self.what}"


def sign(tracker: "MlflowTracker") -> None:
    """Write into a run's tag that this process trains."""
    tracker.tags({PROCESS_TAG: json.dumps(ProcessIdentity.of().record())})


def find(experiment: str) -> list[Abandoned]:
    """Return the experiment's runs that are RUNNING and whose process is not known to live.

    Raises UserError if the store does not answer.
    """
    with mlflow_errors():
        client = connect()
        return list(_find(client, experiment))


def end(found: Abandoned) -> None:
    """Give the run the status KILLED. A training that continues it later sets it to RUNNING again."""
    with mlflow_errors():
        connect().set_terminated(found.run.info.run_id, "KILLED")


def _find(client: "MlflowClient", experiment: str) -> Iterator[Abandoned]:
    there = client.get_experiment_by_name(experiment)
    if there is None:
        return
    for run in client.search_runs([there.experiment_id], "attributes.status = 'RUNNING'"):
        process = _process_of(run)
        fate = None if process is None else process.fate()
        if fate == "lives":
            continue
        now = client.get_run(run.info.run_id)  # the process may have ended its run before it ended
        if now.info.status != "RUNNING" or _process_of(now) != process:
            continue
        if process is None:
            yield Abandoned(now, "it names no process; end it in MLflow if no training works on it", False)
        elif fate == "unknown":
            yield Abandoned(now, f"its {process} cannot be looked up from here; end it in MLflow if it is gone", False)
        else:
            yield Abandoned(now, f"its {process} was killed, or its machine was restarted", True)


def _process_of(run: "Run") -> ProcessIdentity | None:
    try:
        return ProcessIdentity.read(json.loads(run.data.tags[PROCESS_TAG]))
    except (KeyError, ValueError, TypeError):
        return None
