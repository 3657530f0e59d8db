"""A team's day on the servers of deploy/compose.yaml. Each test works on the registry that the ones before it left."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from started_team import team_of
from waiting import wait_for
from working_team import WorkingTeam, ask, set_values, small_project, start_all

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkingTeam]:
    with team_of(small_project(tmp_path_factory.mktemp("team") / "a project")) as team:
        yield start_all(team)


def test_the_servers_refuse_who_has_no_account(working: WorkingTeam) -> None:
    team = working.team
    mlflow = f"{team.address('5000')}/api/2.0"
    experiments = f"{mlflow}/mlflow/experiments/search?max_results=1"
    assert ask(experiments)[0] == 401
    assert ask(experiments, user="admin", password="password")[0] == 401
    assert ask(f"{mlflow}/mlflow-artifacts/artifacts")[0] == 401
    assert ask(f"{team.address('4200')}/api/admin/version")[0] == 401
    assert ask(f"{team.address('9000')}/mlflow")[0] in (400, 403)
    for name in ("admin", "worker", "serve"):
        assert ask(experiments, user=name, password=team.secrets[f"MLFLOW_{name.upper()}_PASSWORD"])[0] == 200
    worker = {"user": "worker", "password": team.secrets["MLFLOW_WORKER_PASSWORD"]}
    eve = {"username": "eve", "password": "a long enough password"}
    assert ask(f"{mlflow}/mlflow/users/create", **worker, body=eve)[0] == 403, "only the administrator makes accounts"


def test_of_two_first_retrainings_at_once_one_makes_the_champion_and_the_other_is_refused(working: WorkingTeam) -> None:
    ends = [working.end_of(run) for run in [working.trigger(), working.trigger()]]
    names = sorted(end.name for end in ends)
    assert names == ["Completed: promoted", "Refused"], ([end.message for end in ends], working.worker_log())
    assert working.champion() == "1"
    assert working.weights() == [sha256(working.project / "models/model.safetensors")]
    assert set(working.tags("model_sha256")) <= {sha256(path) for path in working.stored("*.safetensors")}
    for name in ("mlflow.db", "mlartifacts", "mlruns", ".state/prefect.db"):
        assert not (working.project / name).exists(), name
    assert working.end_of(working.trigger()).name == "Completed: nothing changed"
    assert (working.open_runs(), len(working.weights())) == ([], 1)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_with_a_limit_the_second_retraining_waits_for_the_first_and_an_answer_does_not(working: WorkingTeam) -> None:
    limit = ("prefect", "work-queue", "set-concurrency-limit", "default", "1", "--pool", "ddpm")
    limited = working.team.run_as("worker", *limit)
    assert limited.returncode == 0, limited.stdout
    set_values(working.project, {"train": {"seed": 1}, "promote": {"approval": "ask"}})
    ends = [working.end_of(run) for run in [working.trigger(), working.trigger()]]
    names = sorted(end.name for end in ends)
    assert names == ["Completed: nothing changed", "Waiting for approval"], working.worker_log()
    assert (working.champion(), len(working.weights())) == ("1", 2)

    set_values(working.project, {"train": {"seed": 2, "images": 30000}})
    third = working.trigger()
    wait_for(lambda: working.stage_runs("train"), every=0.5)
    answer = {"version": 2, "answer": "approve", "who": "Ann", "reason": "sharper"}
    approved = working.end_of(working.trigger("approve/answer", **answer))
    assert (approved.name, working.champion()) == ("Completed: promoted", "2"), approved.message
    assert not working.state(third).is_final(), "the answer came while the retraining went on"
    assert working.end_of(third).name == "Waiting for approval", working.worker_log()
    answer = {"version": 3, "answer": "reject", "who": "Ann", "reason": "blurred"}
    rejected = working.end_of(working.trigger("approve/answer", **answer))
    assert (rejected.name, working.champion()) == ("Completed: rejected", "2"), rejected.message
    weights = working.weights()
    assert (working.open_runs(), len(weights), len(set(weights))) == ([], 3, 3)
