"""The train stage as DVC runs it: killed at any moment it goes on where it was, and ends with the same model."""

import argparse
import hashlib
import itertools
import json
import os
import runpy
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import pytest
from ruamel.yaml import YAML
from safetensors import safe_open
from waiting import HANG_SECONDS, wait_for

from ddpm import model_file
from ddpm.stages import prepare
from ddpm.stages.stage import Stage
from ddpm.training import session

ROOT = Path(__file__).parents[2]
COMMAND = (
    "-m ddpm.stages.train --prepared data/prepared --latents data/latents --autoencoder autoencoder.safetensors "
    "--starts data/starts --extractor extractor.safetensors --validation validation.json --docs docs "
    "--model model.safetensors --run run.json --curves curves.csv --report train.json --state .state/train"
).split()
TINY: dict[str, dict[str, Any]] = {
    "network": {"width": 8, "multipliers": [1, 2], "blocks": 1, "attention": [4], "head_channels": 8},
    "train": {"images": 2560, "batch_size": 32, "warmup_images": 64, "decay_images": 640, "ema_halflife_images": 200},
    "runtime": {"checkpoint_seconds": 0.2},
    "tracking": {"log_every_images": 320, "grid_every_images": 10_000},
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A project folder with the embedded digits prepared, an empty store, and small parameters."""
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
    shutil.copy(empty_store, folder / "mlflow.db")
    shutil.copy(ROOT / "dvc.yaml", folder)  # the list of the code that a training depends on
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        paths = {"prepared": Path("data/prepared"), "state": Path(".state/prepare")}
        prepare.main(Stage(argparse.Namespace(**paths)))
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
    wait_for(lambda: any(images > beyond for images in images_saved(folder)), every=0.02, process=process)


def finish(folder: Path) -> str:
    """Run the stage to its end, as DVC does, and return its output."""
    process = start(folder)
    output, _ = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == 0, output
    return output


def images_saved(folder: Path) -> list[int]:
    """By the checkpoints that are there, in order."""
    return sorted(int(path.stem.split("-")[1]) for path in (folder / ".state").rglob("checkpoint-*.safetensors"))


def statuses(folder: Path) -> list[str]:
    """Of all runs in MLflow, in order."""
    with sqlite3.connect(folder / "mlflow.db") as store:
        return [status for (status,) in store.execute("select status from runs order by start_time")]


def kill_when(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    wait_for(condition, every=0.002, process=process)
    process.kill()
    process.communicate()


def model_hash(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def run_forked(folder: Path, *, end: signal.Signals | None = None) -> tuple[int | None, str]:
    """Run the stage in a process that has its libraries; it gets the signal `end` after it has saved three times.

    Returns the exit status and the output.
    """
    log = folder.parent / "log"
    log.unlink(missing_ok=True)
    process = forked.start(stage_that_ends, folder, end, log=log, environment=environment())
    process.join()
    return process.exitcode, log.read_text()


def stage_that_ends(folder: Path, end: signal.Signals | None) -> None:
    os.chdir(folder)
    sys.argv = COMMAND[1:]
    save, saves = session.Training.save, itertools.count(1)

    def save_and_end(training: session.Training, *, wait: bool = False) -> None:
        save(training, wait=True)
        if end is not None and next(saves) == 3:
            os.kill(os.getpid(), end)

    session.Training.save = save_and_end
    runpy.run_module(COMMAND[1], run_name="__main__", alter_sys=True)


def save_every(folder: Path, seconds: float) -> None:
    yaml = YAML(typ="safe")
    params = yaml.load((folder / "params.yaml").read_text())
    params["runtime"]["checkpoint_seconds"] = seconds
    yaml.dump(params, folder / "params.yaml")


@pytest.fixture(scope="module")
def undisturbed(prepared: Path) -> str:
    """The model file's sha256."""
    status, output = run_forked(prepared)
    assert status == 0, output
    return model_hash(prepared)


def test_stopped_while_it_imports_then_killed_twice_and_stopped_once_it_ends_with_bitwise_the_same_model(
    prepared: Path, undisturbed: str
) -> None:
    curves = (prepared / "curves.csv").read_text()
    shutil.rmtree(prepared / ".state" / "train")
    runs = len(statuses(prepared))
    for seconds in (0.1, 0.7):
        process = start(prepared)
        time.sleep(seconds)
        process.terminate()
        process.communicate(timeout=HANG_SECONDS)
        assert process.returncode == -signal.SIGTERM
        assert (prepared / "model.safetensors").exists(), "the model of before stays until there is another"
    save_every(prepared, 1e-9)
    saved = 0
    for end in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        status, output = run_forked(prepared, end=end)
        if end == signal.SIGTERM:
            assert status == 128 + signal.SIGTERM, output
            assert "the same command continues from there" in output
        else:
            assert status == -end, output
        assert images_saved(prepared)[-1] > saved
        saved = images_saved(prepared)[-1]
    save_every(prepared, TINY["runtime"]["checkpoint_seconds"])
    status, output = run_forked(prepared)
    assert status == 0, output
    assert f"continuing after {saved} images" in output
    assert model_hash(prepared) == undisturbed
    assert (prepared / "curves.csv").read_text() == curves
    assert images_saved(prepared) == [2560], "until DVC has recorded the model"
    assert statuses(prepared)[runs:] == ["FINISHED"], "one run, through all its starts"


@pytest.mark.slow
def test_killed_after_its_last_step_it_trains_nothing_again_and_stays_one_run(prepared: Path, undisturbed: str) -> None:
    shutil.rmtree(prepared / ".state" / "train")
    for name in ("model.safetensors", "run.json"):
        (prepared / name).unlink()
    runs = len(statuses(prepared))

    kill_when(lambda: images_saved(prepared)[-1:] == [2560], start(prepared))
    kill_when((prepared / "model.safetensors").exists, start(prepared))
    assert "continuing after 2560 images" in finish(prepared)
    # It has ended, and dvc, which would have recorded the model now, was killed.
    (prepared / "model.safetensors").unlink()
    assert "continuing after 2560 images" in finish(prepared)

    assert model_hash(prepared) == undisturbed
    assert statuses(prepared)[runs:] == ["FINISHED"]


PIPELINE = """
stages:
  train:
    cmd: python {command} && touch ended && sleep {seconds}
    deps: {deps}
    outs: [model.safetensors, run.json]
"""


@pytest.mark.slow
def test_what_dvc_has_recorded_is_trained_anew_when_asked_for_and_what_it_has_not_is_not(
    prepared: Path, undisturbed: str
) -> None:
    folder = prepared.parent / "with dvc"
    shutil.copytree(prepared, folder, ignore=shutil.ignore_patterns(".state"))
    shutil.rmtree(folder / "mlartifacts")
    (folder / "mlflow.db").unlink()
    shutil.copytree(ROOT / "src" / "ddpm", folder / "src" / "ddpm", ignore=shutil.ignore_patterns("__pycache__"))
    declared = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]["train"]["deps"]
    deps = ["data/prepared", *(dep for dep in declared if dep.startswith("src/"))]

    def dvc(*words: str, wait: int = 0) -> subprocess.Popen[str]:
        (folder / "dvc.yaml").write_text(PIPELINE.format(command=" ".join(COMMAND), seconds=wait, deps=deps))
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        command = [sys.executable, "-m", "dvc", *words]
        outlet = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(
            command, cwd=folder, env=environment() | {"PATH": path}, text=True, start_new_session=True, **outlet
        )

    def done(process: subprocess.Popen[str]) -> str:
        output, _ = process.communicate(timeout=HANG_SECONDS)
        assert process.returncode == 0, output
        return output

    def kill_after_the_stage(*words: str) -> None:
        (folder / "ended").unlink(missing_ok=True)
        process = dvc("repro", *words, wait=3600)
        wait_for((folder / "ended").exists, process=process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()

    done(dvc("init", "--no-scm"))
    kill_after_the_stage()
    assert "continuing after 2560 images" in done(dvc("repro"))
    assert model_hash(folder) == undisturbed
    assert statuses(folder) == ["FINISHED"]

    assert "continuing after" not in done(dvc("repro", "--force"))
    assert statuses(folder) == ["FINISHED"] * 2
    kill_after_the_stage("--force")  # which makes the model that dvc.lock names already
    assert "continuing after 2560 images" in done(dvc("repro", "--force"))
    assert statuses(folder) == ["FINISHED"] * 3
    assert images_saved(folder) == [2560]

    # In another store the run is not known: the model is not trained again for it.
    (folder / "mlflow.db").unlink()
    assert "continuing after 2560 images" in done(dvc("repro", "--force"))
    assert statuses(folder) == ["FINISHED"]


def test_the_file_says_how_to_rebuild_the_model_and_where_it_came_from(prepared: Path, undisturbed: str) -> None:
    with safe_open(prepared / "model.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()[model_file.FORMAT])
    lineage = header["lineage"]
    facts = json.loads((prepared / "data" / "prepared" / "dataset.json").read_text())
    assert lineage["data_hash"] == facts["content_hash"]
    assert lineage["params"]["train"]["images"] == 2560
    assert {"code_hash", "fingerprint"} <= set(lineage)
    assert {"device", "torch", "instructions", "threads", "precision"} <= set(lineage["machine"])
    spec = header["spec"]
    assert (spec["channels"], spec["size"], len(spec["classes"])) == (1, 8, 10)
