"""MLflow as the store of runs and logged models: where it is, and how a training speaks to it.

The server is MLFLOW_TRACKING_URI's. Without one, the runs are in the project: `mlflow.db` (SQLite) and `mlartifacts/`.
"""

import getpass
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from time import monotonic, time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from ddpm.dvc_lock import recorded_md5
from ddpm.errors import UserError
from ddpm.tracking import Status, flat

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Metric, Run
    from PIL.Image import Image

    from ddpm.data.dataset import Facts

SERVED_PACKAGES = ("mlflow", "torch", "numpy", "pillow", "safetensors", "tqdm")
"""What the served model imports, beside the copy of this package that travels with it."""

FLUSH_COUNT = 1000
"""MLflow takes so many figures in one call."""
FLUSH_SECONDS = 5.0


def project() -> Path:
    """The project's folder, also from within the temporary copies in which `dvc exp run --temp` and `--queue` work."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


def default_uri() -> str:
    return f"sqlite:///{project() / 'mlflow.db'}"


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or the store in the project."""
    return os.environ.get("MLFLOW_TRACKING_URI") or default_uri()


def shown_uri() -> str:
    """The store as a person may see it: without a password, and the project's own without this machine's path."""
    uri = tracking_uri()
    if uri == default_uri():
        return "sqlite:///mlflow.db"
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def connect(*, make: bool = False) -> "MlflowClient":
    """A client of the store, which has answered.

    Raises UserError where it does not, and where the project has no store yet and none is to be made.
    Nothing global is set: MLflow's own default store stays as it was.
    """
    uri = tracking_uri()
    if uri == default_uri() and not make and not (project() / "mlflow.db").is_file():
        raise UserError(
            f"{project()} has no mlflow.db: run from the project's folder after `dvc repro`, "
            "or name a store in MLFLOW_TRACKING_URI"
        )
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # MLflow's own 7 retries keep a training waiting for four minutes; figures that are not taken are kept here.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    import logging

    from mlflow import MlflowClient

    for chatty in ("mlflow", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    with mlflow_errors():
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    return client


@contextmanager
def mlflow_errors() -> Iterator[None]:
    """An error of MLflow's as one sentence that names the store."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        said = " ".join(str(error).split())
        raise UserError(
            f"MLflow at {shown_uri()} refused or did not answer ({said[:400]}); "
            "start the server, or correct or unset MLFLOW_TRACKING_URI"
        ) from error


@contextmanager
def as_default_store() -> Iterator[None]:
    """MLflow's global default is the store, within the block: its SQL registry looks logged models up there."""
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(tracking_uri())
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


class MlflowTracker:
    """One run in MLflow. Figures are buffered and sent in batches: one by one they take forty times as long.

    `owner`: this process makes the run, so it measures the system and sets the run's status at the end.
    A stage that adds to a run that training made is no owner.
    """

    def __init__(self, client: "MlflowClient", run: "Run", *, owner: bool, model_id: str | None = None) -> None:
        self.client = client
        self.run_id: str | None = run.info.run_id
        self.id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id
        self.model_id = model_id
        self._owner = owner
        self._buffer: list[Metric] = []
        self._flushed = monotonic()
        self._logged_until: dict[str, int] = {}
        self._monitor: Any = None

    def params(self, values: Mapping[str, Any]) -> None:
        """A value too long for MLflow stands whole in the artifact `params/KEY.txt`, and the parameter says so."""
        from mlflow.entities import Param
        from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_PARAMS_TAGS_PER_BATCH

        entries = []
        with mlflow_errors():
            for key, value in values.items():
                text = str(value)
                if len(text) > MAX_PARAM_VAL_LENGTH:
                    file = f"params/{key}.txt"
                    self.client.log_text(self.id, text, file)
                    text = f"{len(text)} characters, see the artifact {file}"
                entries.append(Param(key, text))
            for start in range(0, len(entries), MAX_PARAMS_TAGS_PER_BATCH):
                self.client.log_batch(self.id, params=entries[start : start + MAX_PARAMS_TAGS_PER_BATCH])

    def tags(self, values: Mapping[str, str]) -> None:
        with mlflow_errors():
            for key, value in values.items():
                self.client.set_tag(self.id, key, value)

    def log(self, metrics: Mapping[str, float], *, images_seen: int) -> None:
        """A store that does not answer now gets the figures later; only `finish` insists."""
        from mlflow.entities import Metric

        now = int(time() * 1000)
        for name, value in metrics.items():
            if images_seen > self._logged_until.get(name, -1):
                self._buffer.append(Metric(name, float(value), now, images_seen, model_id=self.model_id))
        if len(self._buffer) >= FLUSH_COUNT or monotonic() - self._flushed >= FLUSH_SECONDS:
            try:
                self._flush()
            except UserError as error:
                print(f"{error}; {len(self._buffer)} figures wait here and are sent later", file=sys.stderr)

    def image(self, name: str, image: "Image", *, images_seen: int) -> None:
        """Under `images/`, where MLflow's page has a slider over the steps. A run keeps one per name and step."""
        try:
            with mlflow_errors():
                there = self.client.list_artifacts(self.id, "images")
                if not any(file.path.startswith(f"images/{name}+step+{images_seen}+") for file in there):
                    self.client.log_image(self.id, image, key=name, step=images_seen, synchronous=True)
        except UserError as error:
            print(f"{error}; the picture {name!r} at {images_seen} images is not in the run", file=sys.stderr)

    def artifact(self, path: Path, folder: str = "") -> None:
        with mlflow_errors():
            if path.is_dir():
                self.client.log_artifacts(self.id, str(path), folder or path.name)
            else:
                self.client.log_artifact(self.id, str(path), folder or None)

    def finish(self, status: Status = "FINISHED") -> None:
        if self._monitor is not None:
            self._monitor.finish()
            self._monitor = None
        self._flush()
        if self._owner:
            with mlflow_errors():
                self.client.set_terminated(self.id, status)

    def _flush(self) -> None:
        self._flushed = monotonic()
        while self._buffer:
            with mlflow_errors():
                self.client.log_batch(self.id, metrics=self._buffer[:FLUSH_COUNT])
            del self._buffer[:FLUSH_COUNT]

    def _resume(self, run: "Run") -> None:
        """Figures up to where the killed process came are in the run; the same ones, made again, are not sent again."""
        newest = run.data._metric_objs
        self._logged_until = {m.key: m.step for m in newest if not m.key.startswith("system/")}
        with mlflow_errors():
            self.client.update_run(self.id, status="RUNNING")

    def _measure_system(self, *, resumed: bool) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._monitor = SystemMetricsMonitor(self.id, resume_logging=resumed, tracking_uri=tracking_uri())
        self._monitor.start()


def start_run(
    *, experiment: str, name: str, facts: "Facts", prepared: Path, run_id: str | None = None
) -> MlflowTracker:
    """The run of a training: a new one with this name, or the one a killed training left, by its id.

    The data stand as its input, by content hash; so do commit, user and DVC's hash of `prepared` as tags, and
    the facts of the data as parameters. Where the store does not know `run_id` any more, a new run names it
    in the tag `continues`.
    """
    client = connect(make=True)
    previous = None if run_id is None else _find_run(client, run_id)
    if previous is not None:
        tracker = MlflowTracker(client, previous, owner=True)
        _require_artifact_folder(client, previous.info.experiment_id)
        tracker._resume(previous)
    else:
        with mlflow_errors():
            run = client.create_run(_experiment_id(client, experiment), tags=_origin(prepared, facts), run_name=name)
        tracker = MlflowTracker(client, run, owner=True)
        if run_id is not None:
            print(f"run {run_id} is not known to MLflow at {shown_uri()}; {tracker.id} continues it", file=sys.stderr)
            tracker.tags({"continues": run_id})
        tracker.params(flat(data=asdict(facts)))
        _log_dataset(tracker, facts)
    tracker._measure_system(resumed=previous is not None)
    return tracker


def knows(run_id: str | None) -> bool:
    """Whether the store has this run and nobody deleted it there. Raises UserError where the store does not answer."""
    return run_id is not None and _find_run(connect(make=True), run_id) is not None


def attach(run_json: Path) -> MlflowTracker:
    """The run that made the model, to add to it; its status stays as it is. Figures become the logged model's too.

    It is found by the model's hash, so a model that DVC restored from its cache, or pulled, names its run as well;
    of several trainings that made the same model, the newest. Raises UserError where the store knows none.
    """
    record = read_run(run_json)
    client = connect(make=True)
    with mlflow_errors():
        experiment = client.get_experiment_by_name(record["experiment"])
        runs = (
            []
            if experiment is None
            else client.search_runs(
                [experiment.experiment_id],
                f"tags.model_sha256 = '{record['model_sha256']}'",
                order_by=["attributes.start_time DESC"],
            )
        )
        for run in runs:
            model_id = _logged(client, run.info.experiment_id, run.info.run_id, record["model_sha256"])
            if model_id is not None:
                _require_artifact_folder(client, run.info.experiment_id)
                return MlflowTracker(client, run, owner=False, model_id=model_id)
    raise UserError(
        f"no run in MLflow at {shown_uri()}, experiment {record['experiment']!r}, made the model of {run_json}: it was "
        f"made at {record['tracking_uri']}; set MLFLOW_TRACKING_URI to that store, or make a run here with "
        "`dvc repro -f -s train`"
    )


def run_record(tracker: MlflowTracker, *, model_sha256: str) -> dict[str, str]:
    """What models/run.json holds: where the run that made the model is found.

    It names the run by its model's hash and not by its random id, so that the same training leaves the same file.
    """
    with mlflow_errors():
        experiment = tracker.client.get_experiment(tracker.experiment_id).name
    return {"experiment": experiment, "model_sha256": model_sha256, "tracking_uri": shown_uri()}


def read_run(run_json: Path) -> dict[str, str]:
    """models/run.json. Raises UserError where it is missing or none."""
    try:
        record = json.loads(run_json.read_text())
        return {key: record[key] for key in ("experiment", "model_sha256", "tracking_uri")}
    except FileNotFoundError:
        raise UserError(f"{run_json} was not found; `dvc repro train` makes it") from None
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{run_json} does not name a run ({error}); `dvc repro -f -s train` makes it again") from None


def _logged(client: "MlflowClient", experiment_id: str, run_id: str, model_sha256: str) -> str | None:
    """The id of the logged model of this run that holds this file."""
    for model in client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'"):
        if model.tags.get("model_sha256") == model_sha256 and model.status == "READY":
            return model.model_id
    return None


def log_model(tracker: MlflowTracker, model_file: Path, *, model_sha256: str) -> str:
    """The model as MLflow serves it; returns its id (`m-…`). The same file in the same run is logged once.

    The folder holds the safetensors file, the code that reads it, and nothing pickled.
    """
    from mlflow.entities import LoggedModelOutput

    import ddpm

    client = tracker.client
    with mlflow_errors():
        logged = _logged(client, tracker.experiment_id, tracker.id, model_sha256)
        if logged is not None:
            return logged
        made = client.create_logged_model(
            tracker.experiment_id,
            name="ddpm",
            source_run_id=tracker.id,
            tags={"model_sha256": model_sha256},
            params=client.get_run(tracker.id).data.params,
            model_type="diffusion",
        )
        with tempfile.TemporaryDirectory() as folder:
            save_served(
                Path(folder) / "model",
                model_file,
                package=Path(ddpm.__file__).parent,
                run_id=tracker.id,
                model_id=made.model_id,
                location=made.artifact_location,
            )
            client.log_model_artifacts(made.model_id, f"{folder}/model")
        client.finalize_logged_model(made.model_id, "READY")
        client.log_outputs(tracker.id, [LoggedModelOutput(made.model_id, step=0)])
        client.set_tag(tracker.id, "model_sha256", model_sha256)
    return made.model_id


def save_served(
    folder: Path, model_file: Path, *, package: Path, run_id: str | None, model_id: str | None, location: str | None
) -> None:
    """The folder that `mlflow models serve` reads: models-from-code, so that code is text and weights are numbers."""
    import warnings

    import mlflow.pyfunc
    from mlflow.models import Model

    def show_others(message: Warning | str, *rest: Any, **more: Any) -> None:
        # `predict` takes any value and says itself what is wrong with it, in better words. No filter helps:
        # MLflow sets its own before it warns.
        if "inferred as AnyType" not in str(message):
            show(message, *rest, **more)

    show = warnings.showwarning
    with warnings.catch_warnings():
        warnings.showwarning = show_others
        mlflow.pyfunc.save_model(
            path=str(folder),
            python_model=str(Path(__file__).with_name("pyfunc_model.py")),
            artifacts={"model": str(model_file.resolve())},
            code_paths=[str(package)],
            # A local part such as 2.9.0+cu130 names a build that registries do not hold.
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in SERVED_PACKAGES],
            mlflow_model=Model(artifact_path=location, run_id=run_id, model_id=model_id, model_uuid=model_id),
        )


def _find_run(client: "MlflowClient", run_id: str) -> "Run | None":
    from mlflow.exceptions import MlflowException

    with mlflow_errors():
        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
    return run if run.info.lifecycle_stage == "active" else None


def _experiment_id(client: "MlflowClient", name: str) -> str:
    """The experiment's id; made where there is none, with its artifacts in the project unless a server keeps them."""
    experiment: Experiment | None = client.get_experiment_by_name(name)
    if experiment is None:
        location = None
        if urlsplit(tracking_uri()).scheme not in ("http", "https"):
            folder = project() / "mlartifacts"
            folder.mkdir(exist_ok=True)
            location = folder.as_uri()
        return client.create_experiment(name, artifact_location=location)
    if experiment.lifecycle_stage != "active":
        raise UserError(
            f"experiment {name!r} is deleted at {shown_uri()}; restore it, or choose another tracking.experiment"
        )
    _require_artifact_folder(client, experiment.experiment_id)
    return experiment.experiment_id


def _require_artifact_folder(client: "MlflowClient", experiment_id: str) -> None:
    """MLflow stores the artifact folder's absolute path, and would make it anew where a project was moved from."""
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    with mlflow_errors():
        experiment = client.get_experiment(experiment_id)
    if is_local_uri(experiment.artifact_location):
        folder = Path(local_file_uri_to_path(experiment.artifact_location))
        if not folder.is_dir():
            raise UserError(
                f"experiment {experiment.name!r} keeps its artifacts in {folder}, which is not there; put the folder "
                "(or the project) back, or set tracking.experiment to a new name"
            )


def _log_dataset(tracker: MlflowTracker, facts: "Facts") -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.utils.validation import MAX_DATASET_DIGEST_SIZE

    shape = {"channels": facts.channels, "size": facts.size, "classes": len(facts.classes)}
    dataset = Dataset(
        name=facts.name,
        digest=facts.content_hash[:MAX_DATASET_DIGEST_SIZE],
        source_type="local",
        source=json.dumps({"uri": facts.source}),
        profile=json.dumps({"train": facts.train, "test": facts.test, "rejected": facts.rejected, **shape}),
    )
    with mlflow_errors():
        tracker.client.log_inputs(
            tracker.id, datasets=[DatasetInput(dataset, tags=[InputTag("mlflow.data.context", "training")])]
        )


def _origin(prepared: Path, facts: "Facts") -> dict[str, str]:
    """Who, from which code, on which data."""
    tags = {"mlflow.source.type": "LOCAL", "mlflow.source.name": Path(sys.argv[0]).name, "mlflow.user": user()}
    commit = _git("rev-parse", "HEAD")
    if commit:
        tags["mlflow.source.git.commit"] = commit
        tags["git.dirty"] = str(bool(_git("status", "--porcelain", "--untracked-files=no"))).lower()
    tags["data.content_hash"] = facts.content_hash
    if (dvc := recorded_md5(prepared)) is not None:
        tags["data.dvc_hash"] = dvc
    return tags


def user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return str(os.getuid())


def _git(*words: str) -> str:
    try:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
