"""MLflow as the store of runs and logged models: where it is, and how a training speaks to it.

The server is MLFLOW_TRACKING_URI's. Without one, the runs are in the project: `mlflow.db` (SQLite) and `mlartifacts/`.
"""

import base64
import contextvars
import getpass
import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from time import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit
from uuid import uuid4

from ddpm.errors import UserError, not_installed
from ddpm.pipeline.dvc_lock import recorded_md5
from ddpm.redaction import redacted
from ddpm.tracker import Status, flat
from ddpm.tracking.outbox import Outbox, Sender
from ddpm.tracking.system_metrics import SystemMetrics

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, LoggedModel, Run
    from PIL.Image import Image

    from ddpm.data.reading.dataset import Facts

T = TypeVar("T")

SERVED_PACKAGES = ("mlflow", "torch", "numpy", "pillow", "safetensors", "tqdm", "pydantic")
"""What the served model imports, beside the copy of this package that travels with it."""

SYSTEM_PREFIX = "system/"
MADE = "model_sha256"
"""Tag of a run: the sha256 of the model file that its training wrote."""

KEY_TAG = "training"
FLUSH_COUNT = 1000
"""MLflow takes so many figures in one call."""
FLUSH_SECONDS = 5.0
ANSWER_SECONDS = 60.0
"""A store that has not answered a question for so long does not answer: MLflow itself waits for minutes."""
END_SECONDS = {"FINISHED": 60.0, "FAILED": 4.0, "KILLED": 4.0}
"""How long the end of a run waits for a store that takes nothing; whoever ends a process does not wait long."""


def project() -> Path:
    """The project's folder, also from within the temporary copies in which `dvc exp run --temp` and `--queue` work."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


def default_uri() -> str:
    return f"sqlite:///{project() / 'mlflow.db'}"


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or the store in the project. A server's is without user and password (see `connect`)."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or default_uri()
    return _without_user(uri)[0] if _is_server(uri) else uri


def shown_uri() -> str:
    """The store as a person may see it: without a password, and the project's own without this machine's path."""
    uri = tracking_uri()
    return "sqlite:///mlflow.db" if uri == default_uri() else redacted(uri)


def connect(*, make: bool = False) -> "MlflowClient":
    """A client of the store, which has answered.

    Raises UserError where it does not, where MLflow is not installed, and where the project has no store yet and none
    is to be made. Nothing global is set: MLflow's own default store stays as it was.
    """
    if find_spec("mlflow") is None:
        raise not_installed("mlflow")
    uri = tracking_uri()
    if uri == default_uri() and not make and not (project() / "mlflow.db").is_file():
        raise UserError(
            f"{project()} has no mlflow.db: run from the project's folder after `dvc repro`, "
            "or name a store in MLFLOW_TRACKING_URI"
        )
    _hand_over_user()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # MLflow's own 7 retries keep a training waiting for four minutes; figures that are not taken are kept here.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    import logging

    from mlflow import MlflowClient

    for chatty in ("mlflow", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)

    def look() -> MlflowClient:
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
        return client

    return answered(look)


def answered(ask: Callable[[], T], *, seconds: float | None = None) -> T:
    """What the store answers within so many seconds (ANSWER_SECONDS). Raises UserError where it does not, or refuses.

    It is asked in a thread, because no setting of MLflow's bounds a question over all its ways to a store.
    """
    answers: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with mlflow_errors():
                answers.append(ask())
        except BaseException as error:
            errors.append(error)

    limit = ANSWER_SECONDS if seconds is None else seconds
    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True)
    thread.start()
    thread.join(limit)
    if errors:
        raise errors[0]
    if not answers:
        raise UserError(
            f"MLflow at {shown_uri()} did not answer within {limit:g} s; start the server again, or correct or unset "
            "MLFLOW_TRACKING_URI"
        )
    return answers[0]


def _is_server(uri: str) -> bool:
    return urlsplit(uri).scheme.lower() in ("http", "https")


def _without_user(uri: str) -> tuple[str, str]:
    """The address, and what stood before its @."""
    parts = urlsplit(uri)
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=host)), user


def _hand_over_user() -> None:
    """User and password of a server's address go where MLflow keeps them apart from it: it quotes addresses."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if _is_server(uri) and (user := _without_user(uri)[1]):
        name, _, password = user.partition(":")
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(name)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(password)


@contextmanager
def mlflow_errors() -> Iterator[None]:
    """An error of MLflow's as one sentence that names the store."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        said = redacted(" ".join(str(error).split()))  # before it is cut, since half an address is not known as one
        raise UserError(
            f"MLflow at {shown_uri()} refused or did not answer ({said[:400]}); "
            "start the server, or correct or unset MLFLOW_TRACKING_URI"
        ) from None


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
    """One run in MLflow. Figures and pictures are sent in the background, in batches; `finish` waits for them.

    `owner`: this process makes the run, so it measures the system and sets the run's status at the end.
    A stage that adds to a run that training made is no owner.
    `unsent`: the folder of what was not taken yet, which a killed process leaves to the next.
    """

    def __init__(
        self,
        client: "MlflowClient",
        run: "Run",
        *,
        owner: bool,
        model_id: str | None = None,
        unsent: Path | None = None,
    ) -> None:
        self.client = client
        self.run_id: str | None = run.info.run_id
        self.id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id
        self.model_id = model_id
        self._owner = owner
        self._logged_until: dict[str, int] = {}
        self._pictured: set[tuple[str, int]] = set()
        self._system_step = 0
        self._system: SystemMetrics | None = None
        outbox = Outbox(unsent)
        for told in outbox.all():
            self._note(told)
        self._sender = Sender(outbox, self._send, where=f"MLflow at {shown_uri()}", every_seconds=FLUSH_SECONDS)

    def params(self, values: Mapping[str, Any]) -> None:
        """A value too long for MLflow stands whole in the artifact `params/KEY.txt`, and the parameter says so."""
        from mlflow.entities import Param
        from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_PARAMS_TAGS_PER_BATCH

        def send() -> None:
            entries = []
            for key, value in values.items():
                text = str(value)
                if len(text) > MAX_PARAM_VAL_LENGTH:
                    file = f"params/{key}.txt"
                    self.client.log_text(self.id, text, file)
                    text = f"{len(text)} characters, see the artifact {file}"
                entries.append(Param(key, text))
            for start in range(0, len(entries), MAX_PARAMS_TAGS_PER_BATCH):
                self.client.log_batch(self.id, params=entries[start : start + MAX_PARAMS_TAGS_PER_BATCH])

        answered(send)

    def tags(self, values: Mapping[str, str]) -> None:
        def send() -> None:
            for key, value in values.items():
                self.client.set_tag(self.id, key, value)

        answered(send)

    def log(self, metrics: Mapping[str, float], *, images_seen: int) -> None:
        """Never waits for the store."""
        new = {name: value for name, value in metrics.items() if images_seen > self._logged_until.get(name, -1)}
        self._put_figures(new, step=images_seen)

    def image(self, name: str, image: "Image", *, images_seen: int) -> None:
        """Under `images/`, where MLflow's page has a slider over the steps. A run keeps one per name and step.

        Never waits for the store.
        """
        if (name, images_seen) in self._pictured:
            return
        from mlflow.tracking.multimedia import compress_image_size

        # As MlflowClient.log_image names and makes them, but with names that stay the same when they are sent again.
        file = f"{name}+step+{images_seen}+timestamp+{int(time() * 1000)}+{uuid4()}"
        files = {f"{file}.png": image, f"{file}+compressed.webp": compress_image_size(image)}
        self._put({"picture": name, "step": images_seen, "files": {key: _encoded(key, files[key]) for key in files}})

    def artifact(self, path: Path, folder: str = "") -> None:
        self.settle()
        with mlflow_errors():
            if path.is_dir():
                self.client.log_artifacts(self.id, str(path), folder or path.name)
            else:
                self.client.log_artifact(self.id, str(path), folder or None)

    def settle(self) -> None:
        """Waits until the store has taken all figures and pictures. Raises UserError where it takes nothing more."""
        self._sender.settle(END_SECONDS["FINISHED"])

    def finish(self, status: Status = "FINISHED") -> None:
        """Raises UserError where the store does not answer; what it has not taken waits for the next process."""
        if self._system is not None:
            self._system.finish()
            self._system = None
        try:
            self._sender.settle(END_SECONDS[status])
        finally:
            self._sender.close()
        if self._owner:
            answered(lambda: self.client.set_terminated(self.id, status), seconds=END_SECONDS[status])

    def _put(self, told: dict[str, Any]) -> None:
        self._note(told)
        self._sender.put(told)

    def _put_figures(self, figures: Mapping[str, float], *, step: int) -> None:
        now = int(time() * 1000)
        if figures:
            self._put({"figures": [[name, float(value), now, step] for name, value in figures.items()]})

    def _note(self, told: dict[str, Any]) -> None:
        """This is in the run or will be, so it is not told again."""
        for name, _, _, step in told.get("figures", ()):
            if name.startswith(SYSTEM_PREFIX):
                self._system_step = max(self._system_step, step + 1)
            else:
                self._logged_until[name] = max(self._logged_until.get(name, -1), step)
        if "picture" in told:
            self._pictured.add((told["picture"], told["step"]))

    def _send(self, entries: list[dict[str, Any]]) -> int:
        """The oldest picture, or the oldest figures as far as MLflow takes them in one call."""
        from mlflow.entities import Metric
        from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_IMAGES

        with mlflow_errors():
            if "picture" in entries[0]:
                with tempfile.TemporaryDirectory() as folder:
                    for name, content in entries[0]["files"].items():
                        (Path(folder) / name).write_bytes(base64.b64decode(content))
                        self.client.log_artifact(self.id, f"{folder}/{name}", "images")
                self.client.set_tag(self.id, MLFLOW_LOGGED_IMAGES, True)
                return 1
            figures: list[list[Any]] = []
            n = 0
            for told in itertools.takewhile(lambda told: "figures" in told, entries):
                if n and len(figures) + len(told["figures"]) > FLUSH_COUNT:
                    break
                figures += told["figures"]
                n += 1
            metrics = [Metric(k, v, when, step, model_id=self.model_id) for k, v, when, step in figures]
            for start in range(0, len(metrics), FLUSH_COUNT):
                self.client.log_batch(self.id, metrics=metrics[start : start + FLUSH_COUNT])
            return n

    def _resume(self, run: "Run") -> None:
        """What the killed process logged is in the run; the same, made again, is not sent again."""
        self._note({"figures": [[m.key, m.value, m.timestamp, m.step] for m in run.data._metric_objs]})
        for file in self.client.list_artifacts(self.id, "images"):
            name, _, rest = Path(file.path).name.partition("+step+")
            if rest:
                self._note({"picture": name, "step": int(rest.partition("+")[0])})
        self.client.update_run(self.id, status="RUNNING")

    def _measure_system(self) -> None:
        def tell(figures: Mapping[str, float]) -> None:
            self._put_figures(figures, step=self._system_step)

        self._system = SystemMetrics(self.id, tracking_uri=tracking_uri(), tell=tell)


def _encoded(name: str, image: "Image") -> str:
    file = io.BytesIO()
    image.save(file, format=name.rpartition(".")[2])
    return base64.b64encode(file.getvalue()).decode()


def start_run(
    *,
    experiment: str,
    name: str,
    facts: "Facts",
    prepared: Path,
    run_id: str | None = None,
    kept: Path | None = None,
) -> MlflowTracker:
    """The run of a training: a new one with this name, or the one a killed training left, by its id.

    The data stand as its input, by content hash; so do commit, user and DVC's hash of `prepared` as tags, and
    the facts of the data as parameters. Where the store does not know `run_id` any more, a new run names it
    in the tag `continues`. `kept` is the folder in which one process leaves to the next what is not sent yet, and the
    key by which a run is found whose id never came back. Raises UserError where the store does not answer.
    """
    client = connect(make=True)
    unsent = None if kept is None else kept / "unsent"
    key, is_new = _key(kept)
    previous = _find_run(client, run_id) if run_id is not None else None
    if run_id is None and not is_new:
        previous = answered(lambda: _run_with(client, experiment, key))
    if previous is not None:
        found = previous
        answered(lambda: _require_artifact_folder(client, found.info.experiment_id))
        tracker = MlflowTracker(client, found, owner=True, unsent=unsent)
        answered(lambda: tracker._resume(found))
    else:
        tags = _origin(prepared, facts) | {KEY_TAG: key}
        run = answered(lambda: client.create_run(_experiment_id(client, experiment), tags=tags, run_name=name))
        tracker = MlflowTracker(client, run, owner=True, unsent=unsent)
        if run_id is not None:
            print(f"run {run_id} is not known to MLflow at {shown_uri()}; {tracker.id} continues it", file=sys.stderr)
            tracker.tags({"continues": run_id})
    if previous is None or run_id is None:
        tracker.params(flat(data=asdict(facts)))
        answered(lambda: _log_dataset(tracker, facts))
    tracker._measure_system()
    return tracker


def _key(kept: Path | None) -> tuple[str, bool]:
    """What a training's run is marked with, and whether it was made up now: it is written before a run is asked for."""
    path = None if kept is None else kept / "key"
    if path is not None and path.is_file() and (key := path.read_text().strip()).isalnum():
        return key, False
    key = uuid4().hex
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(key)
    return key, True


def _run_with(client: "MlflowClient", experiment: str, key: str) -> "Run | None":
    found = client.get_experiment_by_name(experiment)
    runs = client.search_runs([found.experiment_id], f"tags.{KEY_TAG} = '{key}'", max_results=1) if found else []
    return runs[0] if runs else None


def knows(run_id: str | None) -> bool:
    """Whether the store has this run and nobody deleted it there. Raises UserError where the store does not answer."""
    return run_id is not None and _find_run(connect(make=True), run_id) is not None


def attach(run_json: Path) -> MlflowTracker:
    """The run that made the model, to add to it; its status stays as it is.

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
                f"tags.{MADE} = '{record['model_sha256']}'",
                order_by=["attributes.start_time DESC"],
            )
        )
        for run in runs:
            _require_artifact_folder(client, run.info.experiment_id)
            return MlflowTracker(client, run, owner=False)
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


def _logged(client: "MlflowClient", experiment_id: str, run_id: str, model_sha256: str) -> "LoggedModel | None":
    """The logged model of this run that holds this file, or, where none is `READY`, that was to hold it."""
    found = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
    models = [model for model in found if model.tags.get("model_sha256") == model_sha256]
    return next((model for model in models if model.status == "READY"), models[0] if models else None)


def log_model(
    tracker: MlflowTracker,
    model_file: Path,
    *,
    model_sha256: str,
    figures: Mapping[str, float] = MappingProxyType({}),
    bounds: Mapping[str, Any] | None = None,
) -> str:
    """The model as MLflow serves it, with its figures; returns its id (`m-…`).

    The same file in the same run is logged once. `bounds` are those of answering.Bounds, within which it works for
    others.

    The folder holds the safetensors file, the code that reads it, and nothing pickled. Cut off anywhere, it goes on
    when it is called again: the model becomes `READY` last.
    """
    from mlflow.entities import LoggedModelOutput, Metric

    import ddpm

    tracker.settle()  # so that a store that does not answer is known before the large files
    client = tracker.client
    with mlflow_errors():
        run = client.get_run(tracker.id)
        model = _logged(client, tracker.experiment_id, tracker.id, model_sha256)
        if model is not None and model.status == "READY":
            return model.model_id
        made = model or client.create_logged_model(
            tracker.experiment_id,
            name="ddpm",
            source_run_id=tracker.id,
            tags={"model_sha256": model_sha256},
            params=run.data.params,
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
                bounds=bounds,
            )
            client.log_model_artifacts(made.model_id, f"{folder}/model")
        outputs = run.outputs.model_outputs if run.outputs else []
        if made.model_id not in [output.model_id for output in outputs]:
            client.log_outputs(tracker.id, [LoggedModelOutput(made.model_id, step=0)])
        # The same time whenever it is repeated, so that MLflow keeps one of each figure.
        when = made.creation_timestamp
        metrics = [Metric(key, value, when, 0, model_id=made.model_id) for key, value in figures.items()]
        if metrics:
            client.log_batch(tracker.id, metrics=metrics)
        client.finalize_logged_model(made.model_id, "READY")
    return made.model_id


def save_served(
    folder: Path,
    model_file: Path,
    *,
    package: Path,
    run_id: str | None,
    model_id: str | None,
    location: str | None,
    bounds: Mapping[str, Any] | None = None,
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
            python_model=str(Path(__file__).parents[1] / "serving" / "pyfunc_model.py"),
            artifacts={"model": str(model_file.resolve())},
            code_paths=[str(package)],
            model_config=None if bounds is None else dict(bounds),
            # A local part such as 2.9.0+cu130 names a build that registries do not hold.
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in SERVED_PACKAGES],
            mlflow_model=Model(artifact_path=location, run_id=run_id, model_id=model_id, model_uuid=model_id),
        )


def _find_run(client: "MlflowClient", run_id: str) -> "Run | None":
    from mlflow.exceptions import MlflowException

    def look() -> "Run | None":
        try:
            return client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    run = answered(look)
    return run if run is not None and run.info.lifecycle_stage == "active" else None


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
