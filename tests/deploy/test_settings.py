"""The variables and the commands of the compose files are ones that these versions of MLflow and Prefect know."""

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from started_team import team_of
from team import SEVERAL_FILES, Team, services

VARIABLES = sorted({key for one in services(*SEVERAL_FILES).values() for key in one.get("environment", {})})


def test_prefect_knows_every_variable_that_is_meant_for_it() -> None:
    from prefect.settings.models.root import Settings

    ours = {name for name in VARIABLES if name.startswith("PREFECT_") and not name.startswith("PREFECT_DB_")}
    of_redis = {"PREFECT_REDIS_MESSAGING_URL"}
    assert len(ours) > 10
    assert sorted(ours - of_redis - names(Settings)) == []


def names(settings: type) -> set[str]:
    """Every environment variable that Prefect reads: of these settings, of the ones within, and other spellings."""
    found = set()
    prefix = settings.model_config.get("env_prefix", "PREFECT_")  # type: ignore[attr-defined]
    for key, field in settings.model_fields.items():  # type: ignore[attr-defined]
        inner = field.annotation
        if hasattr(inner, "model_fields"):
            found |= names(inner)
        found.add(f"{prefix}{key}".upper())
        found |= {str(alias).upper() for alias in getattr(field.validation_alias, "choices", ())}
    return found


def test_mlflow_knows_every_variable_that_is_meant_for_it() -> None:
    spec = find_spec("mlflow")
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    known = "\n".join(path.read_text() for path in [root / "environment_variables.py", *(root / "cli").glob("*.py")])
    own = {"MLFLOW_DB_PASSWORD", "MLFLOW_WORKER_PASSWORD", "MLFLOW_SERVE_PASSWORD"}  # read by our scripts
    meant = {name for name in VARIABLES if name.startswith("MLFLOW_")} - own
    assert len(meant) > 8
    assert [name for name in sorted(meant) if not re.search(rf"\"{name}\"", known)] == []


@pytest.fixture
def team(tmp_path: Path) -> Iterator[Team]:
    with team_of(tmp_path / "no project", *SEVERAL_FILES) as made:
        yield made


@pytest.mark.slow
def test_redis_keeps_what_it_has_and_answers_nobody_without_the_password(team: Team) -> None:
    team.start("redis")
    port = team.address("6379").rpartition(":")[2]
    ask = ("redis-cli", "-p", port)
    assert "NOAUTH" in team.run_as("redis", *ask, "get", "one").stdout
    secret = {"REDISCLI_AUTH": team.secrets["REDIS_PASSWORD"]}
    assert team.run_as("redis", *ask, "set", "one", "kept", **secret).stdout == "OK\n"
    team.restart("redis")
    assert team.run_as("redis", *ask, "get", "one", **secret).stdout == "kept\n"
    assert team.secrets["REDIS_PASSWORD"] not in " ".join(map(str, team.running["redis"].args))  # type: ignore[arg-type]
