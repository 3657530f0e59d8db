"""Retrainings of a small project on real servers, as Prefect and the processes of this machine show them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import psutil
from waiting import HANG_SECONDS, wait_for

RETRAINING_SECONDS = 3 * HANG_SECONDS
"""Longest time of a retraining, which has 25 processes to start."""


class Retrainings(ABC):
    """A project whose worker retrains. Every process that is started for it has the mark in its environment.

    `seconds` has how long each stage took in a retraining without a fault.
    """

    path: Path
    mark: str
    seconds: dict[str, float]

    @abstractmethod
    def client(self) -> Any:
        """A client of Prefect's server, not through the network that faults change."""

    @abstractmethod
    def run(self, *command: str) -> CompletedProcess[str]:
        """Run a command in the project, with the environment of its worker."""

    def trigger(self) -> Any:
        """Start a retraining as the schedule does, but a stage that was killed is tried again after a second."""
        with self.client() as client:
            deployment = client.read_deployment_by_name("retrain/nightly")
            return client.create_flow_run_from_deployment(deployment.id, parameters={"retry_delay_seconds": 1}).id

    def state(self, run: Any) -> Any:
        with self.client() as client:
            return client.read_flow_run(run).state

    def end_of(self, run: Any) -> Any:
        """Its final state."""
        wait_for(lambda: self.state(run).is_final(), every=1.0, seconds=RETRAINING_SECONDS)
        return self.state(run)

    def open_runs(self) -> set[str]:
        """Runs and tasks that Prefect shows as if somebody worked on them.

        A run of a later time that a process waits with is none: a worker whose clock is ahead takes it too early.
        """
        with self.client() as client:
            runs, tasks = client.read_flow_runs(), client.read_task_runs()
        soon = datetime.now(UTC) + timedelta(hours=1)
        due = [run for run in runs if run.expected_start_time < soon or self.flow(run.id) is None]
        return {
            f"{run.name} {run.state.name}"
            for run in [*due, *tasks]
            if run.state is None or run.state.type.value in ("RUNNING", "PENDING", "CANCELLING")
        }

    def goes_on(self, run: Any) -> bool:
        """Whether a run has not ended: it waits for the worker, or it has a process."""
        state = self.state(run)
        waits = state.type.value in ("SCHEDULED", "PENDING")
        return not state.is_final() and (waits or self.flow(run) is not None)

    def flow(self, run: Any) -> psutil.Process | None:
        """The process of a run."""
        found = self._with_word("prefect.engine")
        return next((each for each in found if each.environ().get("PREFECT__FLOW_RUN_ID") == str(run)), None)

    def stage(self, name: str) -> psutil.Process | None:
        """The process that runs a stage."""
        words = f"ddpm.stages.{name}"
        return next((each for each in self._with_word(words) if words in each.cmdline()[:3]), None)

    def _with_word(self, word: str) -> Iterator[psutil.Process]:
        """The project's processes with this word in their command line; cheap enough to be asked often."""
        for entry in Path("/proc").iterdir():
            with suppress(OSError, psutil.Error):
                if entry.name.isdigit() and word in (entry / "cmdline").read_text():
                    process = psutil.Process(int(entry.name))
                    if process.environ().get("DDPM_TEST_MARK") == self.mark and process.cmdline():
                        yield process

    def measure_stages(self, run: Any) -> None:
        """Fill `seconds` by the tasks of a run that has ended."""
        from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

        of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run]))
        with self.client() as client:
            tasks = client.read_task_runs(flow_run_filter=of_run)
        self.seconds = {task.name: task.total_run_time.total_seconds() for task in tasks}
