"""Retrainings on a team's servers, in a project whose stages take seconds, for the judgement of tests/faults."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from one_name import OneName
from retrainings import Retrainings
from small_pipeline import make_small
from started_team import team_of
from team import SEVERAL_FILES
from working_team import WorkingTeam, small_project, start_all

HOSTS = {"prefect": "127.0.0.2", "prefect-2": "127.0.0.3"}
"""Addresses of the servers of Prefect, if there are two."""


class TeamRetrainings(Retrainings):
    """Retrainings of the worker of a team."""

    def __init__(self, working: WorkingTeam) -> None:
        self.working, self.team = working, working.team
        self.path, self.mark = working.project, os.environ["DDPM_TEST_MARK"]
        self.seconds = {}

    def client(self) -> Any:
        """Servers that ended when another one was killed are started first, as Docker does."""
        self.team.revive()
        return self.working.prefect()

    def run(self, *command: str) -> CompletedProcess[str]:
        return self.team.run_as("worker", *command)

    def wait_for_servers(self) -> None:
        """Return when all that run have noticed that another one was gone and is back."""
        self.team.revive()
        for name in self.team.running:
            self.team.wait_healthy(name)


@contextmanager
def team_with_a_champion(folder: Path, *, several: bool = False) -> Iterator[TeamRetrainings]:
    """The servers of compose.yaml, or with those of compose.several.yaml, after a first retraining."""
    project = small_project(folder / "a project")
    make_small(project)
    files = SEVERAL_FILES if several else ()
    with team_of(project, *files) as team, pytest.MonkeyPatch.context() as patch:
        if several:
            team.hosts = HOSTS
            OneName("127.0.0.1", int(team.address("4200").rpartition(":")[2]), [*HOSTS.values()])
            working = start_all(team, "redis", "prefect", "prefect-2", "prefect-services", "worker")
        else:
            working = start_all(team)
        made = TeamRetrainings(working)
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
            patch.setenv(name, team.environment("worker")[name])
        patch.setenv("DVC_ROOT", str(project))
        first = made.trigger()
        state = made.end_of(first)
        assert state.name == "Completed: promoted", (state, working.worker_log())
        made.measure_stages(first)
        yield made
