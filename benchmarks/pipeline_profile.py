"""The whole pipeline, as `make run` runs it: for each process its seconds in all, and those spent importing."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_FOLDER_VARIABLE = "WHERE_TIME_GOES"

# Python runs a module of this name when it starts. An import within an import is part of the outer one.
_WATCH = """
import atexit, builtins, importlib, json, os, sys, threading, time
began, inside, importing = time.perf_counter(), False, 0.0

def watched(original):
    def run(*args, **kwargs):
        global inside, importing
        if inside or threading.current_thread() is not threading.main_thread():
            return original(*args, **kwargs)
        inside, start = True, time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            inside, importing = False, importing + time.perf_counter() - start
    return run

def tell():
    said = {"command": sys.orig_argv, "seconds": time.perf_counter() - began, "importing": importing}
    with open(os.path.join(os.environ["WHERE_TIME_GOES"], f"{os.getpid()}.json"), "w") as file:
        json.dump(said, file)

builtins.__import__, importlib.import_module = watched(builtins.__import__), watched(importlib.import_module)
atexit.register(tell)
"""


@dataclass(frozen=True)
class Part:
    """A stage, or what dvc does around them."""

    name: str
    seconds: float
    importing: float


def profile_pipeline(changes: dict[str, dict[str, Any]]) -> tuple[list[Part], float]:
    """The parts of one `dvc repro` from nothing and of `ddpm report`, and the seconds of both in all.

    `changes` of params.yaml, by section. The run is in a folder of its own; nothing of this project is touched.
    """
    with _project(changes) as (folder, told):
        began = time.perf_counter()
        for command in (["dvc", "repro"], ["ddpm", "report"]):
            _run(command, folder, told)
        seconds = time.perf_counter() - began
        processes = [json.loads(path.read_text()) for path in told.glob("*.json")]
    parts, dvc_seconds, dvc_importing = {}, 0.0, 0.0
    for process in processes:
        words = [Path(word).name for word in process["command"]]
        stage = next((word.rpartition(".")[2] for word in words if word.startswith("ddpm.stages.")), None)
        if stage and "-m" in words:
            parts[stage] = Part(stage, process["seconds"], process["importing"])
        elif "dvc" in words and "repro" in words:
            dvc_seconds, dvc_importing = process["seconds"], process["importing"]
        elif "ddpm" in words and "report" in words:
            parts["ddpm report"] = Part("ddpm report", process["seconds"], process["importing"])
    stages = [parts[name] for name in _stages() if name in parts]
    around = Part("dvc itself", dvc_seconds - sum(part.seconds for part in stages), dvc_importing)
    return [*stages, around, parts["ddpm report"]], seconds


def _stages() -> list[str]:
    from ruamel.yaml import YAML

    return list(YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"])


@contextmanager
def _project(changes: dict[str, dict[str, Any]]) -> Iterator[tuple[Path, Path]]:
    """A copy of the project from which nothing has been built, and the folder to which its processes report."""
    from ruamel.yaml import YAML

    with TemporaryDirectory() as temporary:
        folder, told, watch = (Path(temporary) / name for name in ("project", "told", "watch"))
        inputs = (folder / "data" / name for name in ("raw", "starts", "guides"))
        for path in (*inputs, folder / ".dvc", told, watch):
            path.mkdir(parents=True)
        shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        for name in ("dvc.yaml", ".dvcignore"):
            shutil.copy(ROOT / name, folder)
        (folder / ".dvc/config").write_text("[core]\n    no_scm = True\n    analytics = false\n")
        (watch / "sitecustomize.py").write_text(_WATCH)
        yaml = YAML()
        params = yaml.load(ROOT / "params.yaml")
        for section, values in ({"runtime": {"progress": False}} | changes).items():
            params[section].update(values)
        yaml.dump(params, folder / "params.yaml")
        # A first start compiles the byte code, once per installation and not once per run.
        environment = os.environ | {"PYTHONPATH": str(folder / "src")}
        subprocess.run([sys.executable, "-m", "compileall", "-q", "src"], cwd=folder, env=environment, check=True)
        yield folder, told


def _run(command: list[str], folder: Path, told: Path) -> None:
    programs = Path(sys.executable).parent
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_", "PREFECT_"))}
    environment = clean | {
        "PATH": f"{programs}{os.pathsep}{clean['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(told.parent / "watch"), str(folder / "src")]),
        "DVC_NO_ANALYTICS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        _FOLDER_VARIABLE: str(told),
    }
    done = subprocess.run([str(programs / command[0]), *command[1:]], cwd=folder, env=environment, capture_output=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {(done.stdout + done.stderr).decode()[-2000:]}")
