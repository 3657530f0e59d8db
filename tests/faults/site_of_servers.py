"""The small pipeline with real servers that can be killed: Prefect's server, a worker, and MLflow's server.

Flows and stages reach both servers through proxies, the tests directly.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from mounts import mounted
from proxy import Proxy
from retrainings import Retrainings
from small_pipeline import fill
from small_project import Project, answers, free_port, new_project
from waiting import wait_for

DISK_MEGABYTES = 600


class Server:
    """A server's process behind a proxy: killed, and started again on the same port with the same files."""

    def __init__(self, project: Project, log: Path, command: list[str], *, port: int, health: str, **more: str) -> None:
        self._project, self._log, self._command, self._more = project, log, command, more
        self.direct = f"http://127.0.0.1:{port}"
        self._health = f"{self.direct}{health}"
        self.proxy = Proxy(port)
        self.address = f"http://127.0.0.1:{self.proxy.port}"
        self.start()

    def start(self) -> None:
        self.process = self._project.start(*self._command, log=self._log, **self._more)
        wait_for(lambda: answers(self._health), every=0.2, process=self.process)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Site(Retrainings):
    """The project, its servers and its worker."""

    def __init__(self, project: Project, *, has_own_disk: bool) -> None:
        self.project, self.path, self.mark, self.has_own_disk = project, project.path, project.mark, has_own_disk
        self.logs = project.path.parents[1]
        self.artifacts = self.logs / "artifacts"
        self.seconds = {}
        port = free_port()
        command = ["prefect", "server", "start", "--port", str(port)]
        home = str(self.logs / "prefect")
        self.prefect = Server(
            project, self.logs / "prefect.log", command, port=port, health="/api/health", PREFECT_HOME=home
        )
        self.mlflow = self._mlflow(free_port())
        self.environment = {
            "PREFECT_API_URL": f"{self.prefect.address}/api",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "COLUMNS": "500",
            "MLFLOW_TRACKING_URI": self.mlflow.address,
            "XDG_STATE_HOME": str(self.logs / "state"),
            "PYTHONPATH": str(self.path / "src"),
            "OMP_NUM_THREADS": "1",
        }
        self.start_worker()
        deployed = project.run("prefect", "--profile", "local", "--no-prompt", "deploy", "--all", **self.environment)
        assert deployed.returncode == 0, deployed.stdout

    def _mlflow(self, port: int) -> Server:
        words = f"--host 127.0.0.1 --port {port} --workers 1 --backend-store-uri sqlite:///{self.logs / 'mlflow.db'}"
        command = [sys.executable, "-m", "mlflow", "server", *words.split()]
        command += ["--artifacts-destination", str(self.artifacts)]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        return Server(self.project, self.logs / "mlflow.log", command, port=port, health="/health", **quiet)

    def start_worker(self, **more: str) -> None:
        log = self.logs / "worker.log"
        self.worker = self.project.start("python", "flows/worker.py", log=log, **(self.environment | more))
        wait_for(lambda: "started!" in log.read_text(), every=0.2, process=self.worker)

    def kill_worker(self) -> None:
        """Only the worker: the flows that it started are left."""
        self.worker.kill()
        self.worker.wait()

    def client(self) -> Any:
        from prefect.client.orchestration import SyncPrefectClient

        return SyncPrefectClient(f"{self.prefect.direct}/api")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return self.project.run(*command, **self.environment)


@contextmanager
def site(folder: Path) -> Iterator[Site]:
    """A site with a first champion, on a disk of its own where one may be mounted; nothing of it outlives the block."""
    with ExitStack() as stack:
        disk = folder / "disk"
        disk.mkdir()
        options = ["-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m", "tmpfs"]
        has_own_disk = stack.enter_context(mounted(disk, *options))
        project = stack.enter_context(new_project(disk / "a project"))
        fill(project.path)
        made = Site(project, has_own_disk=has_own_disk)
        first = made.trigger()
        state = made.end_of(first)
        assert state.name == "Completed: promoted", state
        made.measure_stages(first)
        yield made
