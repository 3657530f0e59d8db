"""`ddpm page` and `ddpm serve` as commands: the browser is opened where there is a screen, and MLflow is followed."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from waiting import HANG_SECONDS, wait_for

from ddpm.promotion import commands
from ddpm.tracking import store
from ddpm.tracking.mlflow_registry import MlflowRegistry

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
REGISTRY = MlflowRegistry("ddpm")


@contextmanager
def started(folder: Path, *arguments: str, **environment: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """The running command, and the address of its page."""
    clean = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    process = subprocess.Popen(
        [Path(sys.executable).parent / "ddpm", *arguments, "--port", "0"],
        cwd=folder,
        env=clean | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield process, line.rpartition("its page is ")[2].strip()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(HANG_SECONDS)


def fetch(url: str, body: Any = None) -> bytes:
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, content, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=HANG_SECONDS) as answer:
        return answer.read()


@pytest.mark.parametrize("has_screen", [True, False])
def test_the_page_is_opened_in_the_browser_where_there_is_a_screen(
    tmp_path: Path, tiny_model: Callable[..., str], has_screen: bool
) -> None:
    tiny_model(tmp_path / "model.safetensors")
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > "{tmp_path}/opened"\n')
    browser.chmod(0o755)
    screen = {"DISPLAY": ":0"} if has_screen else {}
    with started(tmp_path, "page", "--model", "model.safetensors", BROWSER=f"{browser} %s", **screen) as (process, url):
        assert b"<h1>model.safetensors" in fetch(url)
        if has_screen:
            wait_for((tmp_path / "opened").exists, process=process)
            wait_for(lambda: (tmp_path / "opened").read_text().strip() == url, process=process)
    assert (tmp_path / "opened").exists() == has_screen


def register(project: Path, tiny_model: Callable[..., str], *, seed: int) -> None:
    client = store.connect()
    known = client.get_experiment_by_name("tests")
    location = (project / "mlartifacts").as_uri()
    experiment = known.experiment_id if known else client.create_experiment("tests", artifact_location=location)
    run = client.create_run(experiment).info.run_id
    sha = tiny_model(project / f"{seed}" / "artifacts" / "model.safetensors", seed=seed)
    model_id = client.create_logged_model(experiment, source_run_id=run).model_id
    client.log_model_artifacts(model_id, str(project / f"{seed}"))
    client.finalize_logged_model(model_id, "READY")
    REGISTRY.register(
        sha256=sha, model_id=model_id, run_id=run, record={"fid": 1.0, "floor": {}, "protocol": {}}, tags={}
    )


def test_a_running_server_follows_the_champion_in_mlflow_and_refuses_nobody_meanwhile(
    project: Path, tiny_model: Callable[..., str]
) -> None:
    (project / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    register(project, tiny_model, seed=1)
    register(project, tiny_model, seed=2)
    commands.promote(REGISTRY, "1", reason="first")
    with started(project, "serve") as (process, url):
        served: list[str] = []

        def post() -> bool:
            [answer] = json.loads(fetch(f"{url}invocations", {"inputs": [{"steps": 1}]}))["predictions"]
            served.append(answer["model"]["version"])
            return served[-1] == "2"

        assert not post()
        commands.promote(REGISTRY, "2", reason="better")
        wait_for(post, process=process)
        assert served == sorted(served)
        assert process.stdout is not None
        assert process.stdout.readline() == (
            "ddpm version 2 is the champion and answers from now on, in place of version 1\n"
        )
        (project / "mlflow.db").rename(project / "gone.db")
        wait_for(lambda: "did not answer" in (json.loads(fetch(f"{url}model"))["notice"] or ""), process=process)
        assert post()
