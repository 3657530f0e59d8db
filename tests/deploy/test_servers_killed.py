"""Servers of a team are killed or restarted in the middle of stages; one retraining later nothing is lost or open.

FAULTS_ROWS=rows.jsonl pytest -m slow tests/deploy/test_servers_killed.py; python benchmarks/faults.py rows.jsonl
"""

import os
import random
from collections.abc import Iterator
from typing import Any

import pytest
from sweep import Moment, sweep
from team_retrainings import TeamRetrainings, team_with_a_champion

pytestmark = pytest.mark.slow

ALL = ("prepare", "train", "sample", "evaluate", "register")
MAIN = ("train", "register")
KILLED = {
    "SIGKILL of PostgreSQL": ("postgres", ALL),
}


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TeamRetrainings]:
    with team_with_a_champion(tmp_path_factory.mktemp("team")) as made:
        yield made


@pytest.fixture
def share() -> Any:
    """How much of a stage has passed at a fault: other values in each run, or those of FAULTS_SEED."""
    seed = int(os.environ.get("FAULTS_SEED", random.randrange(1 << 30)))
    print(f"FAULTS_SEED={seed}")
    moments = random.Random(seed)
    return lambda: moments.uniform(0.05, 0.4)


@pytest.mark.parametrize("name", KILLED)
def test_after_a_server_is_killed_in_a_stage_one_retraining_makes_everything_whole(
    there: TeamRetrainings, share: Any, name: str
) -> None:
    server, stages = KILLED[name]

    def kill(_: Moment) -> None:
        there.team.restart(server, kill=True)
        there.wait_for_servers()

    sweep(there, name, kill, stages, share=share)


def test_a_restart_of_each_server_while_a_retraining_works_loses_nothing(there: TeamRetrainings, share: Any) -> None:
    def restart(_: Moment) -> None:
        for server in ("postgres", "store", "mlflow", "prefect"):
            there.team.restart(server)
        there.wait_for_servers()

    sweep(there, "restart of each server of a team", restart, MAIN, share=share)
