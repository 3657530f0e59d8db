"""The address of the store, and the message if it does not answer."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from tracked_run import run_of, start, write_run

from ddpm.errors import UserError
from ddpm.promotion import commands, registry
from ddpm.tracker import finishing
from ddpm.tracking import store
from ddpm.tracking.logged_model import log_model
from ddpm.tracking.mlflow_registry import MlflowRegistry
from ddpm.tracking.run_json import attach

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
    "uri", ["http://127.0.0.1:9", "sqlite:////dev/null/mlflow.db", "nonsense://x", "postgresql://127.0.0.1:9/x"]
)
def test_a_store_that_does_not_answer_is_one_sentence(project: Path, monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI") as error:
        store.connect()
    assert "\n" not in str(error.value)


def test_a_project_that_was_moved_away_from_its_artifacts_is_told_so(project: Path) -> None:
    start().finish()
    (project / "mlartifacts").rename(project / "elsewhere")
    with pytest.raises(UserError, match="mlartifacts, which is missing"):
        start()
    assert not (project / "mlartifacts").exists()


def test_a_server_by_its_uri_holds_run_pictures_model_and_champion(
    server: str, project: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Callable[..., str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    (project / "mlflow.db").unlink()
    tracker = start()
    with finishing(tracker):
        tracker.log({"loss": 0.5}, images_seen=128)
        tracker.image("samples", Image.new("L", (16, 16)), images_seen=128)
        sha = tiny_model(project / "model.safetensors")
        model_id = log_model(tracker, project / "model.safetensors", model_sha256=sha)
        write_run(tracker, project / "run.json", sha)
    attached = attach(project / "run.json")
    attached.log({"fid": 3.5}, images_seen=1000)
    attached.finish()
    assert run_of(tracker).data.metrics["loss"] == 0.5
    assert len(tracker.client.list_artifacts(tracker.id, "images")) == 2

    version = REGISTRY.register(
        sha256=sha, model_id=model_id, run_id=tracker.id, record={"fid": 3.5, "floor": {}}, tags={}
    )
    assert version.number == "1"
    assert commands.promote(REGISTRY, "1", reason="first").version == "1"
    champion = registry.champion(REGISTRY)
    assert champion is not None
    assert REGISTRY.download(champion, project / "down").read_bytes() == (project / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="has no version 9 at http"):
        registry.version(REGISTRY, "9")
    for name in ("mlflow.db", "mlartifacts", ".state"):
        assert not (project / name).exists()
