"""The address of the store, and the message if it does not answer."""

import os
from pathlib import Path

import pytest
from tracked_run import start

from ddpm.errors import UnreachableError, UserError
from ddpm.tracking import store
from ddpm.tracking.mlflow_registry import MlflowRegistry

REGISTRY = MlflowRegistry("ddpm")


def test_by_default_runs_and_their_files_are_in_the_project(project: Path) -> None:
    tracker = start()
    (project / "note.txt").write_text("hello")
    tracker.artifact(project / "note.txt", "notes")
    tracker.finish()
    stored = list((project / "mlartifacts").rglob("note.txt"))
    assert [file.read_text() for file in stored] == ["hello"]
    assert stored[0].parent.name == "notes"
    assert not (project / "mlruns").exists()


def test_in_a_temporary_copy_of_dvc_the_store_is_still_the_project_s(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(project))
    (tmp_path / "copy").mkdir()
    monkeypatch.chdir(tmp_path / "copy")
    start().finish()
    assert list((tmp_path / "copy").iterdir()) == []
    assert (project / "mlartifacts").is_dir()


def test_nothing_of_mlflow_s_global_state_is_touched(project: Path) -> None:
    start().finish()
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_a_folder_that_is_no_project_is_not_made_one_by_looking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    with pytest.raises(UserError, match=r"has no mlflow\.db"):
        store.connect()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        ("http://127.0.0.1:9", UnreachableError),
        ("sqlite:////dev/null/mlflow.db", UnreachableError),
        ("nonsense://x", UserError),
        ("postgresql://127.0.0.1:9/x", UnreachableError),
    ],
)
def test_a_store_that_does_not_answer_is_one_sentence(
    project: Path, monkeypatch: pytest.MonkeyPatch, uri: str, kind: type[UserError]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(kind, match="MLFLOW_TRACKING_URI") as error:
        store.connect()
    assert "\n" not in str(error.value)
    assert type(error.value) is kind


def test_a_request_that_mlflow_refuses_is_no_store_that_does_not_answer(project: Path) -> None:
    client = store.connect(make=True)
    with pytest.raises(UserError, match=r"refused the request \(.*nothing.*not found") as error, store.mlflow_errors():
        client.get_run("nothing")
    assert not isinstance(error.value, UnreachableError), "no flow tries it again"


def test_a_project_that_was_moved_away_from_its_artifacts_is_told_so(project: Path) -> None:
    start().finish()
    (project / "mlartifacts").rename(project / "elsewhere")
    with pytest.raises(UserError, match="mlartifacts, which is missing"):
        start()
    assert not (project / "mlartifacts").exists()


def test_a_person_is_named_by_the_account_of_the_server_where_it_has_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("USER", "somebody")
    monkeypatch.setenv("LOGNAME", "somebody")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example")
    assert store.user() == "ann"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert store.user() == "somebody"
