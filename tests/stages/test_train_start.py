"""The train stage that starts from the champion: killed after the champion has moved, it ends with the same model."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from safetensors import safe_open
from test_train_stage import ROOT, environment, model_hash, prepared, run_forked

from ddpm import model_file
from ddpm.exchange import diffusers_folder
from ddpm.promotion.commands import promote
from ddpm.tracking import store
from ddpm.tracking.logged_model import log_model
from ddpm.tracking.mlflow_registry import MlflowRegistry
from ddpm.tracking.run_json import attach

__all__ = ["prepared"]  # the fixture


def lineage(folder: Path) -> dict[str, Any]:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return json.loads(file.metadata()[model_file.FORMAT])["lineage"]


def crown(models: Path = Path()) -> str:
    """Register the model in the folder `models`, make it the champion, and return its version number."""
    run, sha256 = attach(models / "run.json"), model_hash(models)
    model_id = log_model(run, models / "model.safetensors", model_sha256=sha256)
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


@pytest.fixture
def project(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a project of its own with prepared digits."""
    folder = tmp_path / "project"
    shutil.copytree(prepared, folder)
    monkeypatch.chdir(folder)
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return folder


def set_train(**changes: Any) -> None:
    """Change section `train` of params.yaml in the working folder."""
    yaml = YAML(typ="safe")
    params = yaml.load(Path("params.yaml").read_text())
    params["train"] |= changes
    yaml.dump(params, Path("params.yaml"))


@pytest.mark.slow
def test_it_starts_from_nothing_then_from_the_champion_which_stays_the_same_when_it_is_killed(
    project: Path,
) -> None:
    folder = project
    set_train(start="champion", images=640, decay_images=320, lora={"rank": 4, "alpha": 4.0})
    output = finish(folder)
    assert "no champion at sqlite:///mlflow.db, so the training starts from untrained weights, and all are" in output
    assert lineage(folder)["start"]["sha256"] is None
    assert lineage(folder)["params"]["train"]["lora"]["rank"] == 0
    assert crown() == "1"
    champion = model_hash(folder)

    set_train(images=960, lora={"rank": 0, "alpha": 4.0})
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


@pytest.mark.slow
def test_it_starts_from_a_folder_of_diffusers(project: Path, tiny_model: Callable[..., str]) -> None:
    network = {"width": 8, "multipliers": [1, 2], "attention": [4], "head_channels": 8, "groups": 2}
    classes = [str(digit) for digit in range(10)]
    tiny_model(Path("theirs.safetensors"), classes=classes, schedule={"T": 1000}, network=network)
    theirs = Path("data/starts/theirs")
    theirs.parent.mkdir(exist_ok=True)
    diffusers_folder.export_model(model_file.load("theirs.safetensors"), theirs)
    set_train(start=str(theirs), images=320, warmup_images=64, decay_images=64, lr=1e-9)
    output = finish(project)
    assert f"starting from {theirs}: taken over " in output
    assert lineage(project)["start"]["name"] == str(theirs)
    original = model_file.load("theirs.safetensors").network.state_dict()
    for name, tensor in model_file.load("model.safetensors").network.state_dict().items():
        assert tensor.allclose(original[name], atol=1e-4), f"{name}, which so small a learning rate cannot change"


@pytest.mark.slow
def test_dvc_has_nothing_to_do_after_a_started_training_became_champion(project: Path) -> None:
    shutil.copytree(ROOT / "src", project / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in (".dvc", "data/starts", "models", "reports/data_docs"):
        Path(name).mkdir(parents=True)
    Path(".dvc/config").write_text("[core]\n    no_scm = True\n    analytics = false\n")
    for name in (
        "data/validated.json",
        "models/extractor_made.json",
        "reports/validation.json",
        "reports/data_docs/index.html",
    ):
        Path(name).write_text("{}")

    def repro() -> str:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        words = [sys.executable, "-m", "dvc", "repro", "-s", "train"]
        done = subprocess.run(words, env=environment() | {"PATH": path}, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    models = project / "models"
    set_train(start=None, images=320, decay_images=64)
    repro()
    assert crown(models) == "1"
    set_train(start="champion")
    assert "starting from ddpm version 1" in repro()
    assert crown(models) == "2"
    champion = model_hash(models)
    assert "Stage 'train' didn't change, skipping" in repro()
    assert model_hash(models) == champion
