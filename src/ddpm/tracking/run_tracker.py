"""One run in MLflow: parameters and tags are sent at once, metrics and pictures in the background."""

import base64
import io
import itertools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ddpm.redaction import redacted
from ddpm.tracker import Status
from ddpm.tracking.outbox import Outbox, Sender
from ddpm.tracking.store import answered, mlflow_errors, shown_uri, tracking_uri
from ddpm.tracking.system_metrics import SystemMetrics

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from PIL.Image import Image

SYSTEM_PREFIX = "system/"
SLASH = "~"
"""Stands for a slash in the name of a picture's file; MLflow's page puts the slash back."""
FLUSH_COUNT = 1000
"""MLflow takes at most this many metrics in one call."""
FLUSH_SECONDS = 5.0
END_SECONDS = {"FINISHED": 60.0, "FAILED": 4.0, "KILLED": 4.0}
"""How long the end of a run waits for a store that takes nothing, by status. After a signal the wait must be short."""


class MlflowTracker:
    """A `ddpm.tracker.Tracker` of one run. `finish` waits until the store has taken all metrics and pictures.

    `owner`: this process is the run's training, so it measures the system and sets the run's status at the end. A later
    stage that adds to the run is not the owner.
    `unsent`: the folder of entries that the store has not taken yet; the next process sends what a killed one left.
    """

    def __init__(self, client: "MlflowClient", run: "Run", *, owner: bool, unsent: Path | None = None) -> None:
        self.client = client
        self.run_id: str | None = run.info.run_id
        self.id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id
        self._owner = owner
        self._logged_until: dict[str, int] = {}
        self._pictured: set[tuple[str, int]] = set()
        self._system_step = 0
        self._system: SystemMetrics | None = None
        outbox = Outbox(unsent)
        for entry in outbox.all():
            self._note(entry)
        self._sender = Sender(outbox, self._send, where=f"MLflow at {shown_uri()}", every_seconds=FLUSH_SECONDS)

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters, without credentials. A parameter that the run already has keeps its value.

        A value too long for MLflow is the artifact `params/KEY.txt`; the parameter refers to it.
        """
        from mlflow.entities import Param
        from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_PARAMS_TAGS_PER_BATCH

        def send() -> None:
            entries, there = [], self.client.get_run(self.id).data.params
            for key, value in values.items():
                if key in there:
                    continue
                text = redacted(str(value))
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
        """Log metrics without waiting for the store."""
        new = {name: value for name, value in metrics.items() if images_seen > self._logged_until.get(name, -1)}
        self._put_metrics(new, step=images_seen)

    def image(self, name: str, image: "Image", *, images_seen: int) -> None:
        """Log a picture under `images/`, where MLflow's page has a slider over the steps; do not wait for the store.

        A run keeps one picture per name and step.
        """
        if (name, images_seen) in self._pictured:
            return
        from mlflow.tracking.multimedia import compress_image_size

        # Names and files as in MlflowClient.log_image, but the names stay the same when the files are sent again.
        file = f"{name.replace('/', SLASH)}+step+{images_seen}+timestamp+{int(time() * 1000)}+{uuid4()}"
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
        """Wait until the store has taken all metrics and pictures. Raise UserError if it stops taking them."""
        self._sender.settle(END_SECONDS["FINISHED"])

    def finish(self, status: Status = "FINISHED") -> None:
        """End the run. Raise UserError if the store does not answer; entries that it has not taken stay in `unsent`."""
        if self._system is not None:
            self._system.finish()
            self._system = None
        try:
            self._sender.settle(END_SECONDS[status])
        finally:
            self._sender.close()
        if self._owner:
            answered(lambda: self.client.set_terminated(self.id, status), seconds=END_SECONDS[status])

    def resume(self, run: "Run") -> None:
        """Continue the run of a killed process; metrics and pictures that the run already has are not sent again."""
        self._note({"metrics": [[m.key, m.value, m.timestamp, m.step] for m in run.data._metric_objs]})
        for file in self.client.list_artifacts(self.id, "images"):
            name, _, rest = Path(file.path).name.partition("+step+")
            if rest:
                self._note({"picture": name.replace(SLASH, "/"), "step": int(rest.partition("+")[0])})
        self.client.update_run(self.id, status="RUNNING")

    def measure_system(self) -> None:
        """Log the load of this machine until `finish`."""

        def log(metrics: Mapping[str, float]) -> None:
            named = {SYSTEM_PREFIX + name: value for name, value in metrics.items()}
            self._put_metrics(named, step=self._system_step)

        self._system = SystemMetrics(self.id, tracking_uri=tracking_uri(), log=log)

    def _put(self, entry: dict[str, Any]) -> None:
        self._note(entry)
        self._sender.put(entry)

    def _put_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        now = int(time() * 1000)
        if metrics:
            self._put({"metrics": [[name, float(value), now, step] for name, value in metrics.items()]})

    def _note(self, entry: dict[str, Any]) -> None:
        """Remember the entry's names and steps, so that they are not logged twice."""
        for name, _, _, step in entry.get("metrics", ()):
            if name.startswith(SYSTEM_PREFIX):
                self._system_step = max(self._system_step, step + 1)
            else:
                self._logged_until[name] = max(self._logged_until.get(name, -1), step)
        if "picture" in entry:
            self._pictured.add((entry["picture"], entry["step"]))

    def _send(self, entries: list[dict[str, Any]]) -> int:
        """Send the oldest picture, or the oldest metrics that fit in one call; return the number of entries sent."""
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
            rows: list[list[Any]] = []
            n = 0
            for entry in itertools.takewhile(lambda entry: "metrics" in entry, entries):
                if n and len(rows) + len(entry["metrics"]) > FLUSH_COUNT:
                    break
                rows += entry["metrics"]
                n += 1
            metrics = [Metric(name, value, when, step) for name, value, when, step in rows]
            for start in range(0, len(metrics), FLUSH_COUNT):
                self.client.log_batch(self.id, metrics=metrics[start : start + FLUSH_COUNT])
            return n


def _encoded(name: str, image: "Image") -> str:
    file = io.BytesIO()
    image.save(file, format=name.rpartition(".")[2])
    return base64.b64encode(file.getvalue()).decode()
