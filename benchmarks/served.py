"""How long the served champion takes to answer: the real `mlflow models serve`, asked over HTTP for one image."""

import base64
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ddpm import model_file
from ddpm.data.reading.dataset import Facts
from ddpm.errors import UserError
from ddpm.generation.recipe import Recipe
from ddpm.settings import as_dict

STARTS_WITHIN = 300.0
"""Seconds; importing alone takes some of them."""


@dataclass(frozen=True)
class Answers:
    """Seconds until the server was ready, then of every answer in turn."""

    start: float
    asked: list[float]
    size: int
    """Pixels of the image that was answered."""


def ask_for_images(model: Path, *, recipe: Recipe, requests: int, threads: int) -> Answers:
    """Registers the model with the recipe in a store of its own, serves it as champion with so many threads, and asks
    for one image.

    Raises UserError where the server does not start, with what it said.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        read, served = model_file.load(model), Path(folder) / "model.safetensors"
        model_file.save(served, network=read.network, spec=read.spec, lineage=read.lineage, recipe=as_dict(recipe))
        uri = _promoted(served, Path(folder))
        with _server(uri, Path(folder), threads) as (url, start):
            asked, size = [], 0
            for seed in range(requests):
                began = time.monotonic()
                answer = _post(url, {"inputs": [{"number": 1, "seed": seed}]})
                asked.append(time.monotonic() - began)
                size = _pixels(answer)
    return Answers(start, asked, size)


def _promoted(model: Path, project: Path) -> str:
    """The store in the folder, in which the model is champion of the name `ddpm`."""
    from ddpm.promotion import commands
    from ddpm.tracking import store
    from ddpm.tracking.mlflow_registry import MlflowRegistry

    told = {name: os.environ.pop(name, None) for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT")}
    try:
        registered(model, project)
        commands.promote(MlflowRegistry("ddpm"), "1", reason="to be served")
        return store.tracking_uri()
    finally:
        os.environ.update({name: value for name, value in told.items() if value is not None})


def registered(model: Path, project: Path) -> None:
    """Registers the model under the name `ddpm` in the store of the working folder."""
    from ddpm.tracking import logged_model, training_run
    from ddpm.tracking.mlflow_registry import MlflowRegistry

    read = model_file.load(model)
    facts = Facts(
        name="benchmark",
        source="folder",
        channels=read.spec.channels,
        size=read.spec.size,
        classes=tuple(read.spec.classes),
        train=0,
        test=0,
        found=0,
        kept=0,
        rejected={},
        content_hash="0" * 64,
    )
    tracker = training_run.start_run(experiment="benchmark", name="served", facts=facts, prepared=project)
    model_id = logged_model.log_model(tracker, model, model_sha256=read.sha256)
    tracker.finish()
    record = {"fid": None, "floor": {}, "protocol": {}}
    registry = MlflowRegistry("ddpm")
    registry.register(sha256=read.sha256, model_id=model_id, run_id=tracker.id, record=record, tags={})


@contextlib.contextmanager
def _server(uri: str, folder: Path, threads: int) -> Iterator[tuple[str, float]]:
    """Its address for requests, and the seconds until it answered; it is ended after the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    programs = str(Path(sys.executable).parent)
    told = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": str(threads)}
    log = folder / "server.log"
    began = time.monotonic()
    with log.open("wb") as said:
        process = subprocess.Popen(
            ["mlflow", "models", "serve", "-m", "models:/ddpm@champion", "--env-manager", "local", "--port", str(port)],
            env=os.environ | told | {"PATH": f"{programs}:{os.environ['PATH']}"},
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        while not _ready(f"http://127.0.0.1:{port}/ping"):
            if process.poll() is not None or time.monotonic() - began > STARTS_WITHIN:
                last = " ".join(log.read_text(errors="replace").split())[-400:]
                raise UserError(f"`mlflow models serve` did not start within {STARTS_WITHIN:g} s; it said: {last}")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/invocations", time.monotonic() - began
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """The server and its workers, which are a process group of their own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
            return


def _ready(url: str) -> bool:
    try:
        return urllib.request.urlopen(url, timeout=5).status == 200
    except OSError:
        return False


def _post(url: str, body: object) -> dict:
    asked = urllib.request.Request(url, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=120) as answer:
        return json.load(answer)


def _pixels(answer: dict) -> int:
    """Width of the one image of an answer."""
    from PIL import Image

    (text,) = answer["predictions"][0]["images"]
    return Image.open(io.BytesIO(base64.b64decode(text))).width
