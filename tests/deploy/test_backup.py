"""backup.sh and restore.sh of deploy/ on a real PostgreSQL server and the files of the object store."""

import subprocess
from collections.abc import Iterator

import pytest
from started_team import team_of
from team import Team

ROWS = "create table kept as select k, md5(k::text) as value from generate_series(1, 1000) as k"
SUM = "select md5(string_agg(k || value, ',' order by k)) from kept"
pytestmark = pytest.mark.slow
DATABASES = ("mlflow", "mlflow_auth", "prefect")


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    with team_of(tmp_path_factory.mktemp("team") / "no project") as made:
        made.start("postgres")
        yield made


def sql(team: Team, database: str, command: str) -> str:
    """Run by the database's own user with its own password, as the servers connect."""
    user = "prefect" if database == "prefect" else "mlflow"
    password = team.secrets[f"{user.upper()}_DB_PASSWORD"]
    words = ("psql", "--no-psqlrc", "-qAtU", user, "-d", database, "-c", command)
    ran = team.run_as("backup", *words, PGPASSWORD=password)
    assert ran.returncode == 0, ran.stdout
    return ran.stdout.strip()


def backup(team: Team, script: str, *words: str) -> subprocess.CompletedProcess[str]:
    return team.run(script, *words)


def test_a_backup_gives_new_servers_every_row_and_object_and_is_refused_by_any_others(team: Team) -> None:
    for database in DATABASES:
        sql(team, database, ROWS)
    model = team.volume("store") / "mlflow/1/models/m-1/artifacts/model.safetensors"
    model.parent.mkdir(parents=True)
    model.write_bytes(bytes(range(256)) * 4096)
    made = backup(team, "backup")
    assert made.returncode == 0, made.stdout
    [folder] = team.volume("backups").iterdir()
    assert made.stdout.splitlines()[-1] == folder.name

    refused = backup(team, "restore", folder.name)
    assert refused.returncode == 1
    assert refused.stdout.startswith(
        "error: the database mlflow has 1 tables, but a backup is restored into new servers"
    )
    missing = backup(team, "restore", "2020-01-01T000000Z")
    assert missing.returncode == 1
    assert missing.stdout.startswith(
        f"error: there is no backup '2020-01-01T000000Z' in deploy/backups; name one of: {folder.name}"
    )

    with team_of(team.project, known=dict(team.secrets)) as other:
        other.start("postgres")
        folder.rename(other.volume("backups") / folder.name)
        stale = other.volume("store") / "mlflow/old"
        stale.parent.mkdir()
        stale.touch()
        full = backup(other, "restore", folder.name)
        assert full.stdout.startswith("error: the object store has files"), full.stdout
        stale.unlink()
        restored = backup(other, "restore", folder.name)
        assert restored.returncode == 0, restored.stdout
        for database in DATABASES:
            assert sql(other, database, SUM) == sql(team, database, SUM)
            sql(other, database, "insert into kept values (1001, 'a migration may change the tables')")
        copy = other.volume("store") / model.relative_to(team.volume("store"))
        assert copy.read_bytes() == model.read_bytes()


def test_no_user_reads_the_database_of_the_other_and_nobody_connects_without_a_password(team: Team) -> None:
    words = ("psql", "--no-psqlrc", "-w", "-d", "prefect", "-c", "select 1")
    other = team.run_as("backup", *words, "-U", "mlflow", PGPASSWORD=team.secrets["MLFLOW_DB_PASSWORD"])
    assert "permission denied for database" in other.stdout
    assert "no password supplied" in team.run_as("backup", *words, "-U", "prefect", PGPASSWORD="").stdout
    wrong = team.run_as("backup", *words, "-U", "prefect", PGPASSWORD="prefect")
    assert "password authentication failed" in wrong.stdout


def test_the_rows_outlive_a_crash_of_the_server(team: Team) -> None:
    sql(team, "mlflow", ROWS.replace("kept", "written"))
    before = sql(team, "mlflow", SUM.replace("kept", "written"))
    team.restart("postgres", kill=True)
    assert sql(team, "mlflow", SUM.replace("kept", "written")) == before
