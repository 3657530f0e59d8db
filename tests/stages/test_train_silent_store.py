"""The train stage beside a server that answers nothing for a while: it trains, obeys, and loses no figure."""

import csv
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow_server import Server
from test_train_stage import COMMAND, environment, images_saved, model_hash, prepared, wait_for_checkpoint
from waiting import HANG_SECONDS

__all__ = ["prepared"]  # the fixture


def start(folder: Path, server: Server) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *COMMAND],
        cwd=folder,
        env=environment() | {"MLFLOW_TRACKING_URI": server.uri},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.mark.slow
def test_a_stage_beside_a_silent_server_trains_on_is_stopped_killed_and_ends_with_every_figure_once(
    prepared: Path, mlflow_server: Server
) -> None:
    for name in ("model.safetensors", "run.json"):
        (prepared / name).unlink(missing_ok=True)
    shutil.rmtree(prepared / ".state" / "train", ignore_errors=True)

    stage = start(prepared, mlflow_server)
    wait_for_checkpoint(prepared, stage, beyond=0)
    with mlflow_server.frozen():
        at = images_saved(prepared)[-1]
        wait_for_checkpoint(prepared, stage, beyond=at + 320)  # a row of the curves and its figures
        began = time.monotonic()
        stage.send_signal(signal.SIGTERM)
        output, _ = stage.communicate(timeout=HANG_SECONDS)
        assert stage.returncode == 128 + signal.SIGTERM, output
        assert time.monotonic() - began < 50, "four seconds, and what a slow machine takes to end a process"
        assert "the same command continues from there" in output

    stage = start(prepared, mlflow_server)
    wait_for_checkpoint(prepared, stage, beyond=images_saved(prepared)[-1])
    with mlflow_server.frozen():
        time.sleep(1.0)
        stage.kill()
        stage.communicate()

    stage = start(prepared, mlflow_server)
    wait_for_checkpoint(prepared, stage, beyond=images_saved(prepared)[-1])
    with mlflow_server.frozen():
        output, _ = stage.communicate(timeout=HANG_SECONDS)
        assert stage.returncode == 1, output
        said = output.splitlines()[-1]
        assert said.startswith(f"error: MLflow at {mlflow_server.uri} did not answer; in 60 s it took none of"), output
        assert said.endswith("the same command sends them")
        model = model_hash(prepared)
        assert not (prepared / "run.json").exists()

    stage = start(prepared, mlflow_server)
    output, _ = stage.communicate(timeout=HANG_SECONDS)
    assert stage.returncode == 0, output
    assert "continuing after 2560 images" in output
    assert model_hash(prepared) == model

    client = MlflowClient(tracking_uri=mlflow_server.uri, registry_uri=mlflow_server.uri)
    experiment = client.get_experiment_by_name("ddpm")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    rows = list(csv.DictReader((prepared / "curves.csv").open()))
    history = client.get_metric_history(run.info.run_id, "training/loss")
    assert [(figure.step, figure.value) for figure in history] == [
        (int(row["images_seen"]), float(row["loss"])) for row in rows
    ]
    pictures = [file.path for file in client.list_artifacts(run.info.run_id, "images") if file.path.endswith(".png")]
    assert len(pictures) == 1
    assert not list((prepared / ".state").rglob("unsent"))


@pytest.mark.slow
def test_a_stage_that_finds_a_silent_server_says_so_in_a_minute(prepared: Path, mlflow_server: Server) -> None:
    with mlflow_server.frozen():
        began = time.monotonic()
        output, _ = start(prepared, mlflow_server).communicate(timeout=HANG_SECONDS)
    assert time.monotonic() - began < 400, "a minute, and what a slow machine takes to begin"
    assert f"error: MLflow at {mlflow_server.uri} did not answer within 60 s" in output
