"""A small real DVC project, the project's own flows in it, and a real Prefect server and worker on 127.0.0.1."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
from waiting import HANG_SECONDS, wait_for

ROOT = Path(__file__).resolve().parents[1]
SCHEDULE = 'cron: "0 3 * * *"'

STAGE = """
import json, os, sys, time
from pathlib import Path
from ddpm.errors import UnreachableError, UserError
from ddpm.pipeline.workspace import run_stage

def main():
    said = Path("data/raw/said.txt").read_text().split()
    if sys.argv[1] == "validate":
        if "bad" in said:
            raise UserError("data/raw/said.txt says bad, expected good; write good")
        Path("reports/validation.json").write_text("{}")
        return
    from PIL import Image
    from tqdm import tqdm
    Path("stage.pid").write_text(str(os.getpid()))
    if "crash-once" in said and not Path(".state/crashed").exists():
        Path(".state/crashed").touch()
        raise RuntimeError("the device went away")
    print("training starts")
    while "held" in said and not Path("go").exists():
        time.sleep(0.05)
    for _ in tqdm(range(10**6 if "long" in said else 50 if "slow" in said else 10), desc="training"):
        time.sleep(0.1)
    if "unreachable" in said:
        raise UnreachableError("MLflow does not answer; start the server")
    if "broken" in said:
        raise UserError("data/raw/said.txt says broken, expected good; write good")
    print("the model is trained")
    Path("reports/metrics.json").write_text(json.dumps({"fid": 3.25, "floor": {"fid": 1.5}, "protocol": {}}))
    Image.new("L", (8, 8), 200).save("reports/samples.png")

run_stage(main)
"""
DVC_YAML = """
stages:
  validate:
    cmd: python stage.py validate
    deps: [data/raw]
    metrics: [reports/validation.json]
  train:
    cmd: python stage.py train
    deps: [data/raw, reports/validation.json]
    params: [train.images, sample]
    metrics: [reports/metrics.json]
    plots: [reports/samples.png]
"""


@dataclass(frozen=True)
class Project:
    """A DVC project whose two stages do what its data say; every process started in it carries a mark."""

    path: Path
    mark: str

    def say(self, words: str) -> None:
        """New data: good, bad, broken, slow, long (without end), held (until there is a file `go`), crash-once."""
        (self.path / "data/raw/said.txt").write_text(f"{words} {uuid.uuid4()}")

    def environment(self, **more: str) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "DVC_"))}
        venv = str(Path(sys.executable).parent)
        return clean | {"PATH": f"{venv}{os.pathsep}{clean['PATH']}", "DDPM_TEST_MARK": self.mark} | more

    def start(self, *command: str, log: Path, **more: str) -> subprocess.Popen[bytes]:
        with log.open("wb") as file:
            return subprocess.Popen(
                command,
                cwd=self.path,
                env=self.environment(**more),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # Where the tests run in the background of a shell, Ctrl-C is ignored, and by all that they start.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def run(self, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.path,
            env=self.environment(**more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=HANG_SECONDS,
        )

    def processes(self, *, word: str = "") -> list[psutil.Process]:
        """Those alive that were started in this project, whoever their parent is now."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                marked = process.environ().get("DDPM_TEST_MARK") == self.mark
                if marked and process.status() != psutil.STATUS_ZOMBIE and word in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def stage_is_running(self) -> bool:
        return bool(self.processes(word="stage.py train"))


def copy_deployments(path: Path) -> None:
    """Write prefect.yaml with the time of day twelve hours from now, so that no test meets the scheduled run."""
    text = (ROOT / "prefect.yaml").read_text()
    assert text.count(SCHEDULE) == 1
    far = datetime.now(UTC) + timedelta(hours=12)
    (path / "prefect.yaml").write_text(text.replace(SCHEDULE, f'cron: "{far.minute} {far.hour} * * *"'))


@contextmanager
def new_project(path: Path) -> Iterator[Project]:
    """The project; nothing that was started in it outlives the block."""
    for folder in ("data/raw", "reports"):
        (path / folder).mkdir(parents=True)
    (path / "stage.py").write_text(STAGE)
    (path / "dvc.yaml").write_text(DVC_YAML)
    shutil.copytree(ROOT / "flows", path / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("prefect.toml", "params.yaml"):
        shutil.copy(ROOT / name, path / name)
    copy_deployments(path)
    project = Project(path, mark=uuid.uuid4().hex)
    project.say("good")
    (path / ".dvc").mkdir()  # what `dvc init --no-scm` makes
    (path / ".dvc/config").write_text("[core]\n    no_scm = True\n    analytics = false\n")
    try:
        yield project
    finally:
        left = project.processes()
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=HANG_SECONDS)


class Prefect:
    """A server, a worker and the deployment of prefect.yaml, made by the three commands of README.md.

    Those speak to port 4200; here the port is a free one, which PREFECT_API_URL says.
    """

    def __init__(self, project: Project, logs: Path) -> None:
        self.project = project
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        self.environment = {
            "PREFECT_API_URL": f"{self.address}/api",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "COLUMNS": "500",
        }
        project.start("prefect", "server", "start", "--port", str(port), log=logs / "server.log")
        wait_for(lambda: answers(f"{self.address}/api/health"))
        self._logs = logs
        self.start_worker()
        deployed = project.run("prefect", "--profile", "local", "--no-prompt", "deploy", "--all", **self.environment)
        assert deployed.returncode == 0, deployed.stdout

    @cached_property
    def _open_client(self) -> Any:
        from prefect.client.orchestration import SyncPrefectClient

        return SyncPrefectClient(self.environment["PREFECT_API_URL"]).__enter__()

    def client(self) -> Any:
        """The one client, for a `with`, which leaves it open: a new one makes two more requests before its first."""
        return self._open_client

    def start_worker(self) -> None:
        log = self._logs / "worker.log"
        self.worker = self.project.start("python", "flows/worker.py", log=log, **self.environment)
        wait_for(lambda: "started!" in self.worker_log(), process=self.worker)

    def worker_log(self) -> str:
        return (self._logs / "worker.log").read_text()

    def trigger(self, **parameters: Any) -> Any:
        """A run of the deployment, as the button in Prefect's UI makes it."""
        with self.client() as client:
            deployment = client.read_deployment_by_name("retrain/nightly")
            return client.create_flow_run_from_deployment(deployment.id, parameters=parameters).id

    def end_of(self, flow_run: Any) -> Any:
        """Its final state."""
        wait_for(lambda: self.state(flow_run).is_final(), every=0.2)
        return self.state(flow_run)

    def state(self, flow_run: Any) -> Any:
        with self.client() as client:
            return client.read_flow_run(flow_run).state

    def tasks(self, flow_run: Any) -> dict[str, tuple[str, str]]:
        """Type and message of the states of its tasks, by name."""
        from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

        of_run = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run]))
        with self.client() as client:
            found = client.read_task_runs(flow_run_filter=of_run)
            return {task.name: (task.state.type.value, task.state.message or "") for task in found}

    def name(self, flow_run: Any) -> str:
        with self.client() as client:
            return str(client.read_flow_run(flow_run).name)

    def logs(self) -> list[str]:
        """Of all runs, the oldest first."""
        from prefect.client.schemas.sorting import LogSort

        with self.client() as client:
            read = client.read_logs(limit=200, sort=LogSort.TIMESTAMP_DESC)
            return [each.message for each in reversed(read)]

    def artifacts(self) -> dict[str, str]:
        """The newest of each key."""
        from prefect.client.schemas.sorting import ArtifactSort

        with self.client() as client:
            return {each.key: each.data for each in client.read_artifacts(sort=ArtifactSort.CREATED_DESC)[::-1]}


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def answers(url: str) -> bool:
    with suppress(OSError):
        return bool(urllib.request.urlopen(url, timeout=HANG_SECONDS).status == 200)
    return False
