"""The MLflow runs of a search: the search itself, and its trials, which are nested in it."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ddpm.measuring.metric_catalogue import CURVES
from ddpm.tracker import Status
from ddpm.tracking.experiment import experiment_id
from ddpm.tracking.run_tracker import MlflowTracker
from ddpm.tracking.store import answered, connect
from ddpm.tracking.training_run import TAGS_VARIABLE, knows

_PARENT = "mlflow.parentRunId"
TRIAL = "search.trial"
STATE = "search.state"


class SearchRun:
    """The run of a search. Raises UserError wherever the store does not answer."""

    def __init__(self, tracker: MlflowTracker) -> None:
        self._tracker = tracker
        self.id = tracker.id

    @contextmanager
    def of_trial(self, number: int) -> Iterator[None]:
        """Let trainings that start inside the block log to a run of this trial, nested in the search's."""
        with _tags({_PARENT: self.id, TRIAL: str(number)}):
            yield

    def fids(self, number: int) -> list[tuple[int, float]]:
        """Return the FIDs that the training of this trial has logged so far, each with the images seen."""
        found = []
        for run in self._runs(number):
            history = partial(self._tracker.client.get_metric_history, run, f"{CURVES}fid")
            found += [(each.step, each.value) for each in answered(history)]
        return sorted(found)

    def end_trial(self, number: int, state: str) -> None:
        """Tag the runs of the trial with its end; one whose training was stopped is ended."""
        client = self._tracker.client
        for run in self._runs(number):
            answered(partial(client.set_tag, run, STATE, state))
            if state != "measured":
                answered(partial(client.set_terminated, run, "KILLED" if state == "pruned" else "FAILED"))

    def log_best(self, value: float, *, trial: int) -> None:
        self._tracker.log({"best": value}, images_seen=trial)

    def artifact(self, file: Path) -> None:
        self._tracker.artifact(file)

    def end(self, status: Status) -> None:
        self._tracker.finish(status)

    def _runs(self, number: int) -> list[str]:
        wanted = f"tags.`{_PARENT}` = '{self.id}' and tags.`{TRIAL}` = '{number}'"
        search = self._tracker.client.search_runs
        return [run.info.run_id for run in answered(lambda: search([self._tracker.experiment_id], wanted))]


def begin(experiment: str, *, name: str, run_id: str | None, params: Mapping[str, Any]) -> SearchRun:
    """Return the run of a search, continued if the store knows `run_id`, or else a new one with these parameters."""
    client = connect(make=True)
    if run_id is not None and knows(run_id):
        run = answered(lambda: client.get_run(run_id))
        answered(lambda: client.update_run(run_id, status="RUNNING"))
        return SearchRun(MlflowTracker(client, run, owner=True))
    run = answered(lambda: client.create_run(experiment_id(client, experiment), run_name=name))
    tracker = MlflowTracker(client, run, owner=True)
    tracker.params(params)
    return SearchRun(tracker)


@contextmanager
def of_candidate(search: str) -> Iterator[None]:
    """Let the training that starts inside the block name the run of the search in the tag `search`."""
    with _tags({"search": search}):
        yield


@contextmanager
def _tags(tags: dict[str, str]) -> Iterator[None]:
    os.environ[TAGS_VARIABLE] = json.dumps(tags)
    try:
        yield
    finally:
        del os.environ[TAGS_VARIABLE]
