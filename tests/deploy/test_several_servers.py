"""A retraining and automations continue when one of two Prefect servers (compose.several.yaml) is killed."""

import time
from collections.abc import Iterator

import pytest
from small_pipeline import train_anew
from sweep import add_rows
from team_retrainings import TeamRetrainings, team_with_a_champion
from waiting import wait_for
from whole import registered, what_is_lost

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TeamRetrainings]:
    with team_with_a_champion(tmp_path_factory.mktemp("team"), several=True) as made:
        yield made


@pytest.mark.parametrize("server", ["prefect", "prefect-2"])
def test_a_retraining_goes_on_when_one_of_two_servers_is_lost(there: TeamRetrainings, server: str) -> None:
    before, open_before = registered(), there.open_runs()
    train_anew(there.path)
    run = there.trigger()
    wait_for(lambda: there.stage("train"), every=0.2)
    there.team.stop(server, kill=True)
    since = time.monotonic()
    end = there.end_of(run)
    seconds = time.monotonic() - since
    assert end.name == "Completed: promoted", (end, there.working.worker_log())
    lost = what_is_lost(there, before, open_before)
    fault = "SIGKILL of one of two servers of Prefect"
    add_rows([{"fault": fault, "stage": "train", "seconds": seconds, "started again": 0, "lost": lost}])
    assert lost == []
    assert there.end_of(there.trigger()).name == "Completed: nothing changed", "with one server"
    there.team.start(server)


def test_an_overdue_retraining_is_started_by_the_process_for_automations(there: TeamRetrainings) -> None:
    there.team.stop("worker")  # what starts a run is looked at, not the run
    eleven_seconds = str(11 / 86400)
    switched = there.team.run_as("deployments", "python", "flows/overdue.py", "--days", eleven_seconds)
    assert switched.returncode == 0, switched.stdout
    wait_for(lambda: there.working.started_by("overdue"), every=0.5)
    off = there.team.run_as("deployments", "python", "flows/overdue.py", "--off")
    assert off.returncode == 0, off.stdout
