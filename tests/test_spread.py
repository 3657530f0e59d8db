"""`ddpm spread` trains a recipe again with other seeds, continues after a kill, and leaves the workspace alone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from waiting import wait_for

from ddpm import cli
from ddpm.reporting import training_again
from ddpm.tracking import store

ROOT = Path(__file__).parents[1]
SMALL: dict[str, dict[str, Any]] = {
    "features": {"images": 640},
    "network": {"width": 8, "head_channels": 8},
    "train": {"images": 2560, "warmup_images": 64, "decay_images": 64},
    "sample": {"steps": 2, "images": 200},
    "evaluate": {"kid_subsets": 2},
    "runtime": {"progress": False, "checkpoint_seconds": 0.001},
}
ENVIRONMENT = {"DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def small(project: Path) -> Path:
    """A project whose stages before the training have run, with the least training there can be."""
    for name in ("data/raw", "data/guides", "data/starts"):
        (project / name).mkdir(parents=True)
    shutil.copy(ROOT / "dvc.yaml", project)
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    for section, values in SMALL.items():
        params[section].update(values)
    yaml.dump(params, project / "params.yaml")
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    for stage in ("configure", "prepare", "validate", "features"):
        command = [sys.executable, *stages[stage]["cmd"].split()[1:]]
        done = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return project


def files(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for name in ("models", "reports", "data")
        for path in (folder / name).rglob("*")
        if path.is_file()
    }


def begun() -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-c",
        "import sys; from ddpm.cli import main; sys.exit(main())",
        "spread",
        "--seeds",
        "2",
    ]
    return subprocess.Popen(
        command, env=os.environ | ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.slow
def test_a_spread_that_was_killed_continues_and_touches_only_its_own_files(small: Path) -> None:
    before = files(small)
    killed = begun()
    wait_for(lambda: list(small.glob(".state/spread/*/seed-1/train.done")) or killed.poll() is not None)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    (trained,) = small.glob(".state/spread/*/seed-1/models/model.safetensors")
    weights = trained.stat().st_mtime_ns
    time.sleep(1)
    done = begun()
    text, _ = done.communicate()
    assert done.returncode == 0, text
    assert "ddpm spread: 2 x " in text
    assert trained.stat().st_mtime_ns == weights, "a training that had ended was trained again"

    written = json.loads((small / "reports/spread.json").read_text())
    assert written["trainings"] == 2
    assert written["details"][0]["seeds"] == [1, 2]
    assert written["spread"]["fid"]["std"] > 0
    assert written["spread"]["fid"]["drawing"] > 0
    after = files(small)
    del after["reports/spread.json"]
    assert after == before
    assert not (small / "dvc.lock").exists()

    client = store.connect()
    assert client.get_experiment_by_name("ddpm") is None, "a training again is among the candidates' runs"
    experiment = client.get_experiment_by_name("ddpm training again")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.data.tags["training_again.seed"] for run in runs} == {"1", "2"}
    assert client.search_registered_models() == []

    again = training_again.read()
    assert again is not None
    assert again.recipe["train.images"] == 2560
    assert "train.seed" not in again.recipe


@pytest.mark.slow
def test_a_training_with_params_that_were_edited_meanwhile_is_not_counted(small: Path) -> None:
    running = begun()
    wait_for(lambda: list(small.glob(".state/spread/*/seed-1/train.done")) or running.poll() is not None)
    params = small / "params.yaml"
    params.write_text(params.read_text().replace("decay_images: 64", "decay_images: 65"))
    text, _ = running.communicate()
    assert running.returncode == 1
    assert "one of another recipe and was removed" in text
    (recipe,) = small.glob(".state/spread/*")
    assert [folder.name for folder in recipe.iterdir()] == ["seed-1"]
    assert not (small / "reports/spread.json").exists()


def test_a_folder_without_data_and_a_single_training_are_refused(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, project)
    assert cli.main(["spread"]) == 1
    assert "data/prepared/dataset.json was not found" in capsys.readouterr().err
    assert cli.main(["spread", "--seeds", "1"]) == 1
    assert "needs at least 2 trainings" in capsys.readouterr().err
