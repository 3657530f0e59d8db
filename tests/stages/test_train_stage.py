"""The train stage as DVC runs it: killed at any moment it goes on where it was, and ends with the same model."""

import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from safetensors import safe_open

from ddpm import model_file

ROOT = Path(__file__).parents[2]
COMMAND = (
    "-m ddpm.stages.train --prepared data/prepared --validation validation.json --docs docs --model model.safetensors "
    "--run run.json --curves curves.csv --report train.json --state .state/train"
).split()
TINY = {
    "network": {"width": 8, "multipliers": [1, 2], "blocks": 1, "attention": [4], "head_channels": 8},
    "train": {"images": 2560, "batch_size": 32, "warmup_images": 64, "decay_images": 640, "ema_halflife_images": 200},
    "runtime": {"checkpoint_seconds": 0.2},
    "tracking": {"log_every_images": 320, "grid_every_images": 10_000},
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder with the embedded digits prepared, and small parameters."""
    folder = tmp_path_factory.mktemp("project")
    yaml = YAML(typ="safe")
    params = yaml.load((ROOT / "params.yaml").read_text())
    for section, changes in TINY.items():
        params[section] |= changes
    yaml.dump(params, folder / "params.yaml")
    (folder / "data" / "raw").mkdir(parents=True)
    (folder / "docs").mkdir()
    (folder / "docs" / "index.html").write_text("<p>docs</p>")
    (folder / "validation.json").write_text("{}")
    prepare = "-m ddpm.stages.prepare --prepared data/prepared --state .state/prepare".split()
    subprocess.run([sys.executable, *prepare], cwd=folder, check=True, capture_output=True)
    return folder


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "DVC_ROOT")}


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *COMMAND],
        cwd=folder,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def wait_for_checkpoint(folder: Path, process: subprocess.Popen[str], *, beyond: int) -> None:
    """Until a checkpoint after more than `beyond` images is there."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stdout.read()  # type: ignore[union-attr]
        names = [path.stem for path in (folder / ".state").rglob("checkpoint-*.safetensors")]
        if any(int(name.split("-")[1]) > beyond for name in names):
            return
        time.sleep(0.02)
    raise AssertionError("no checkpoint within two minutes")


def finish(folder: Path) -> str:
    process = start(folder)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def model_hash(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def undisturbed(prepared: Path) -> str:
    """The model file's sha256."""
    finish(prepared)
    return model_hash(prepared)


def test_stopped_while_it_imports_then_killed_twice_and_stopped_once_it_ends_with_bitwise_the_same_model(
    prepared: Path, undisturbed: str
) -> None:
    curves = (prepared / "curves.csv").read_text()
    for seconds in (0.1, 0.7):
        process = start(prepared)
        time.sleep(seconds)
        process.terminate()
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGTERM
        assert (prepared / "model.safetensors").exists(), "the model of before stays until there is another"
    beyond = 0
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        process = start(prepared)
        wait_for_checkpoint(prepared, process, beyond=beyond)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
        if number == signal.SIGTERM:
            assert process.returncode == 128 + signal.SIGTERM
            assert "the same command goes on from there" in output
        names = [path.stem for path in (prepared / ".state").rglob("checkpoint-*.safetensors")]
        beyond = max(int(name.split("-")[1]) for name in names)
    assert "going on after" in finish(prepared)
    assert model_hash(prepared) == undisturbed
    assert (prepared / "curves.csv").read_text() == curves
    assert not list((prepared / ".state").rglob("checkpoint-*")), "a finished training leaves no checkpoints"
    with sqlite3.connect(prepared / "mlflow.db") as store:
        runs = store.execute("select status from runs").fetchall()
    assert runs == [("FINISHED",), ("FINISHED",)], "the undisturbed training and, through all its starts, the other"


def test_the_file_says_how_to_rebuild_the_model_and_where_it_came_from(prepared: Path, undisturbed: str) -> None:
    with safe_open(prepared / "model.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()[model_file.FORMAT])
    lineage = header["lineage"]
    facts = json.loads((prepared / "data" / "prepared" / "dataset.json").read_text())
    assert lineage["data_hash"] == facts["content_hash"]
    assert lineage["params"]["train"]["images"] == 2560
    assert {"code_hash", "mlflow_run"} <= set(lineage)
    assert {"device", "torch", "instructions", "threads", "precision"} <= set(lineage["machine"])
    spec = header["spec"]
    assert (spec["channels"], spec["size"], len(spec["classes"])) == (1, 8, 10)
