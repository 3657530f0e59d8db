"""The train stage that starts from the champion: killed after the champion has moved, it ends with the same model."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from safetensors import safe_open
from test_train_stage import model_hash, prepared, run_forked

from ddpm import model_file
from ddpm.promotion.commands import promote
from ddpm.tracking import store
from ddpm.tracking.logged_model import log_model
from ddpm.tracking.mlflow_registry import MlflowRegistry
from ddpm.tracking.run_json import attach

__all__ = ["prepared"]  # the fixture


def lineage(folder: Path) -> dict[str, Any]:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return json.loads(file.metadata()[model_file.FORMAT])["lineage"]


def crown() -> str:
    """Register the model in the working folder, make it the champion, and return its number."""
    run, sha256 = attach(Path("run.json")), model_hash(Path())
    model_id = log_model(run, Path("model.safetensors"), model_sha256=sha256)
    record = {"fid": 1.0, "floor": {}, "protocol": {}}
    registry = MlflowRegistry("ddpm")
    version = registry.register(sha256=sha256, model_id=model_id, run_id=run.id, record=record, tags={})
    promote(registry, version.number, reason="a test")
    return version.number


def finish(folder: Path) -> str:
    """Run the stage to its end and return its output."""
    status, output = run_forked(folder)
    assert status == 0, output
    return output


@pytest.mark.slow
def test_it_starts_from_nothing_then_from_the_champion_which_stays_the_same_when_it_is_killed(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "project"
    shutil.copytree(prepared, folder)
    monkeypatch.chdir(folder)
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    yaml = YAML(typ="safe")
    params = yaml.load(Path("params.yaml").read_text())

    def set_train(**changes: Any) -> None:
        params["train"] |= {"start": "champion"} | changes
        yaml.dump(params, Path("params.yaml"))

    set_train(images=640, decay_images=320)
    output = finish(folder)
    assert "ddpm has no champion at sqlite:///mlflow.db, so the training starts from untrained weights" in output
    assert lineage(folder)["start"]["sha256"] is None
    assert crown() == "1"
    champion = model_hash(folder)

    set_train(images=960)
    output = finish(folder)
    assert (
        "starting from ddpm version 1: taken over 145 of 145 tensors, into the network and into its average" in output
    )
    began = lineage(folder)["start"]
    facts = json.loads(Path("data/prepared/dataset.json").read_text())
    assert (began["sha256"], began["version"], began["data_hash"]) == (champion, "1", facts["content_hash"])
    first_loss = float(Path("curves.csv").read_text().splitlines()[1].split(",")[1])
    undisturbed = model_hash(folder)
    run = attach(Path("run.json"))
    assert run.client.get_run(run.id).data.tags["start.name"] == "ddpm version 1"

    shutil.rmtree(".state/train")
    status, _ = run_forked(folder, end=signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert crown() == "2"
    output = finish(folder)
    assert "continuing after" in output
    assert "starting from" not in output
    assert model_hash(folder) == undisturbed

    shutil.rmtree(".state/train")
    assert "starting from ddpm version 2" in finish(folder)
    assert lineage(folder)["start"]["sha256"] == undisturbed
    assert float(Path("curves.csv").read_text().splitlines()[1].split(",")[1]) < first_loss
    assert store.tracking_uri() == f"sqlite:///{folder}/mlflow.db"
