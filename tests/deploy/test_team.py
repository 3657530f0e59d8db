"""A team's day on the servers of deploy/compose.yaml. Each test works on the registry that the ones before it left."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from started_team import team_of
from waiting import wait_for
from working_team import WorkingTeam, ask, set_values, small_project, start_all, upgrades

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


def test_a_person_with_an_account_returns_to_the_champion_before_and_the_account_that_serves_may_not(
    working: WorkingTeam,
) -> None:
    team = working.team
    made = team.run_as("accounts", "python", "/opt/accounts.py", "ann=ANNS", "--edit", "ddpm", ANNS="Ann's password")
    assert made.returncode == 0, made.stdout
    as_ann = {"MLFLOW_TRACKING_USERNAME": "ann", "MLFLOW_TRACKING_PASSWORD": "Ann's password"}
    back = team.run_as("worker", "ddpm", "rollback", "--reason", "blurred eights", **as_ann)
    assert (back.returncode, working.champion()) == (0, "1"), back.stdout
    as_serve = {"MLFLOW_TRACKING_USERNAME": "serve", "MLFLOW_TRACKING_PASSWORD": team.secrets["MLFLOW_SERVE_PASSWORD"]}
    refused = team.run_as("worker", "ddpm", "promote", "2", "--skip-canary", "--reason", "no", **as_serve)
    assert (refused.returncode, working.champion()) == (1, "1"), refused.stdout
    assert "Permission denied" in refused.stdout
    history = team.run_as("worker", "ddpm", "history").stdout
    assert all(word in history for word in ("Ann", "sharper", "blurred eights", "ann")), history


def test_the_champion_is_served_by_an_account_that_can_only_read(working: WorkingTeam) -> None:
    try:
        working.team.start("serve")
        status, said = ask(f"{working.team.address('5001')}/model")
        assert (status, json.loads(said)["model"]["version"]) == (200, working.champion())
    finally:
        working.team.stop("serve")


def test_an_event_starts_a_retraining_through_the_relay(working: WorkingTeam) -> None:
    set_values(working.project, {"retrain": {"event_wait_seconds": 1}})
    try:
        working.team.start("relay")
        thing = {"bucket": {"name": "pictures"}, "object": {"key": "1.png", "eTag": "e", "sequencer": "1"}}
        event = {"Records": [{"eventName": "s3:ObjectCreated:Put", "s3": thing}]}
        address = f"{working.team.address('4210')}/store"
        assert ask(address, body=event)[0] == 401
        status, said = ask(address, body=event, bearer=working.team.secrets["RELAY_STORE_TOKEN"])
        assert status == 202, said
        assert working.end_of(json.loads(said)["run"]).is_completed()
    finally:
        working.team.stop("relay")


def test_a_backup_becomes_new_servers_with_everything_which_are_upgraded_as_the_page_says(
    working: WorkingTeam, tmp_path: Path
) -> None:
    team = working.team
    backup = team.run("backup")
    assert backup.returncode == 0, backup.stdout
    [folder] = team.volume("backups").iterdir()
    refused = team.run("restore", folder.name)
    assert (refused.returncode, "a backup is restored into new servers only" in refused.stdout) == (1, True)
    runs = {run.id for run in working.all_flow_runs()}
    history, champion = team.run_as("worker", "ddpm", "history").stdout, working.champion()
    assert champion in history
    for name in ("worker", "prefect", "mlflow", "store", "postgres"):  # the machine is lost
        team.stop(name, kill=True)

    with team_of(team.project, known=dict(team.secrets)) as other:
        other.ports |= team.ports  # the addresses stay the same
        folder.rename(other.volume("backups") / folder.name)
        other.volume("store")
        other.start("postgres")
        restored = other.run("restore", folder.name)
        assert restored.returncode == 0, restored.stdout
        for service, words in upgrades():
            done = other.run_as(service, *words)
            assert done.returncode == 0, done.stdout
        other.start("store", "mlflow", "prefect", "worker")
        new = WorkingTeam(other)
        assert (new.champion(), other.run_as("worker", "ddpm", "history").stdout) == (champion, history)
        assert runs <= {run.id for run in new.all_flow_runs()}
        drawn = other.run_as("worker", "ddpm", "sample", "--number", "1", "--out", str(tmp_path / "one.png"))
        assert (drawn.returncode, (tmp_path / "one.png").exists()) == (0, True), drawn.stdout
        assert new.end_of(new.trigger()).name == "Completed: nothing changed", new.worker_log()
