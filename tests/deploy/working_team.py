"""A team's servers and a small project whose worker uses them, and how a person and a program ask them."""

import base64
import json
import re
import shlex
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from small_project import copy_deployments
from team import ROOT, Team
from waiting import HANG_SECONDS, wait_for

SMALL: dict[str, dict[str, Any]] = {
    "features": {"images": 2000},
    "network": {"width": 16, "head_channels": 16},
    "train": {"images": 3000, "warmup_images": 500, "decay_images": 1000},
    "sample": {"steps": 5, "images": 200},
    "evaluate": {"kid_subsets": 5, "during": 0},
    "tracking": {"log_every_images": 128},
    "promote": {"rules": [{"figure": "memorized_share", "at_most": 1.0}]},
    "canary": {"images": 16, "max_distance": 1000.0, "max_seconds": HANG_SECONDS},
}
"""Changes of params.yaml: as little work as there can be, and a gate that lets every model through."""


def small_project(path: Path) -> Path:
    """This repository's pipeline without git, with SMALL."""
    for name in ("src", "flows"):
        shutil.copytree(ROOT / name, path / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("raw", "guides", "starts"):
        (path / "data" / name).mkdir(parents=True)
    for name in ("dvc.yaml", ".dvcignore", "params.yaml", "prefect.toml"):
        shutil.copy(ROOT / name, path / name)
    copy_deployments(path)
    (path / ".dvc").mkdir()  # what `dvc init --no-scm` makes
    (path / ".dvc/config").write_text("[core]\n    no_scm = True\n    analytics = false\n")
    set_values(path, SMALL)
    return path


def start_all(team: Team, *prefect: str) -> "WorkingTeam":
    """Start the servers in the order in which compose does, and wait until a retraining can be started.

    `prefect` names the services of Prefect, if they are more than its server and a worker.
    """
    team.start("postgres", "store", "mlflow")
    for _ in range(2):  # it runs again at each start of the services
        accounts = team.run("accounts")
        assert accounts.returncode == 0, accounts.stdout
    team.start(*(prefect or ("prefect", "worker")))
    deployed = team.run("deployments")
    assert deployed.returncode == 0, deployed.stdout
    return WorkingTeam(team)


def upgrades() -> list[tuple[str, list[str]]]:
    """The commands of docs/team.md that migrate databases, each with its service."""
    section = (ROOT / "docs/team.md").read_text().partition("## Upgrades")[2]
    lines = re.findall(r"^docker compose \S+ \S+ run --rm (.+)$", section, re.MULTILINE)
    assert len(lines) == 3
    return [(words[0], words[1:]) for words in map(shlex.split, lines)]


def set_values(project: Path, changes: dict[str, dict[str, Any]]) -> None:
    from ruamel.yaml import YAML

    yaml = YAML()
    values = yaml.load(project / "params.yaml")
    for section, own in changes.items():
        values[section].update(own)
    yaml.dump(values, project / "params.yaml")


def ask(address: str, *, user: str = "", password: str = "", bearer: str = "", body: Any = None) -> tuple[int, str]:
    """Status and body of an answer; `body` is sent as JSON."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{address}", data=data)
    request.add_header("Content-Type", "application/json")
    if user:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
    if bearer:
        request.add_header("Authorization", f"Bearer {bearer}")
    try:
        with urllib.request.urlopen(request, timeout=HANG_SECONDS) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


@dataclass(frozen=True)
class WorkingTeam:
    """The servers of a team that are started, and what people and programs ask them."""

    team: Team

    @property
    def project(self) -> Path:
        return self.team.project

    @contextmanager
    def prefect(self) -> Iterator[Any]:
        from prefect.client.orchestration import SyncPrefectClient

        auth = f"team:{self.team.secrets['PREFECT_PASSWORD']}"
        with SyncPrefectClient(f"http://{self.team.address('4200')}/api", auth_string=auth) as client:
            yield client

    def trigger(self, deployment: str = "retrain/nightly", **parameters: Any) -> Any:
        """The id of a run of the deployment, as the button on Prefect's page makes it."""
        with self.prefect() as client:
            found = client.read_deployment_by_name(deployment)
            return client.create_flow_run_from_deployment(found.id, parameters=parameters).id

    def state(self, run: Any) -> Any:
        with self.prefect() as client:
            return client.read_flow_run(run).state

    def end_of(self, run: Any) -> Any:
        """Its final state."""

        def ended() -> bool:
            self.team.revive()
            return bool(self.state(run).is_final())

        wait_for(ended, every=1.0)
        return self.state(run)

    def tasks(self, run: Any) -> dict[str, str]:
        """The type of the state of each task of a run."""
        from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

        with self.prefect() as client:
            found = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run])))
        return {task.name: task.state.type.value for task in found}

    def all_flow_runs(self) -> list[Any]:
        with self.prefect() as client:
            found: list[Any] = client.read_flow_runs()
            return found

    def started_by(self, trigger: str) -> list[Any]:
        """The runs that say that this started them."""
        return [run for run in self.all_flow_runs() if run.parameters.get("trigger") == trigger]

    def flow_runs(self) -> bool:
        """Whether a process of a flow run works in the project."""
        return any(
            process.info["environ"].get("PREFECT__FLOW_RUN_ID") and process.info["cwd"] == str(self.project)
            for process in psutil.process_iter(["environ", "cwd"])
            if process.info["environ"]
        )

    def open_runs(self) -> list[str]:
        """Runs and tasks of Prefect, and runs of MLflow, that say they go on."""
        with self.prefect() as client:
            found = [*client.read_flow_runs(), *client.read_task_runs()]
            names = [f"{run.name}: {run.state.name}" for run in found if run.state is None or run.state.is_running()]
        experiments = [one["experiment_id"] for one in self.mlflow("experiments/search?max_results=100")["experiments"]]
        runs = self.mlflow("runs/search", {"experiment_ids": experiments, "filter": "attributes.status = 'RUNNING'"})
        return names + [run["info"]["run_name"] for run in runs.get("runs", [])]

    def stage_runs(self, name: str) -> bool:
        """Whether a process of this stage works in the project."""
        own = f"ddpm.stages.{name}"
        return any(
            own in process.info["cmdline"] and process.info["cwd"] == str(self.project)
            for process in psutil.process_iter(["cmdline", "cwd"])
            if process.info["cmdline"]
        )

    def mlflow(self, path: str, body: Any = None, *, user: str = "worker") -> Any:
        password = self.team.secrets[f"MLFLOW_{user.upper()}_PASSWORD"]
        address = f"{self.team.address('5000')}/api/2.0/mlflow/{path}"
        status, said = ask(address, user=user, password=password, body=body)
        assert status == 200, said
        return json.loads(said)

    def champion(self) -> str:
        found = self.mlflow("registered-models/get?name=ddpm")["registered_model"]
        return {alias["alias"]: str(alias["version"]) for alias in found["aliases"]}["champion"]

    def weights(self) -> list[str]:
        """The hash of the weights of each version, by the registry."""
        return self.tags("weights_sha256")

    def tags(self, name: str) -> list[str]:
        """This tag of each version."""
        found = self.mlflow("model-versions/search?filter=name%3D%27ddpm%27&max_results=1000")
        return [
            next(tag["value"] for tag in version["tags"] if tag["key"] == name)
            for version in found.get("model_versions", [])
        ]

    def stored(self, pattern: str) -> list[Path]:
        """The objects of the store whose name is like this."""
        return [path for path in self.team.volume("store").rglob(pattern) if path.is_file()]

    def worker_log(self) -> str:
        return self.team.log("worker")[-5000:]
