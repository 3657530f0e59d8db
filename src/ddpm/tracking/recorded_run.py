"""The record of a training's run in models/run.json, and the run that another store gets from it.

A model that was pulled, or whose store was lost, has no run in the store of this folder. The record holds what the
training alone determines: no times, no names that depend on a champion, and no settings of later stages.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm.pipeline.process_identity import ProcessIdentity
from ddpm.reporting.run_names import name_of
from ddpm.tracker import metrics_of
from ddpm.tracking.abandoned_runs import PROCESS_TAG
from ddpm.tracking.experiment import experiment_id
from ddpm.tracking.run_tracker import MlflowTracker
from ddpm.tracking.store import mlflow_errors, user
from ddpm.tracking.training_run import code_tags, dataset_input

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from ddpm.data.reading.dataset import Facts

MADE = "model_sha256"
"""Tag of a run: the sha256 of the model file that its training wrote."""
FROM_RECORD = "from_record"
"""Tag of a run that was made from the record, in a store other than that of the training."""


@dataclass(frozen=True)
class Record:
    """What a training determines of its run."""

    params: dict[str, str]
    """Settings that determine the model, as `section.key`."""
    tags: dict[str, str]
    dataset: dict[str, Any]
    """The facts of the data."""

    @staticmethod
    def of(settings: Mapping[str, Any], tags: Mapping[str, str], facts: "Facts") -> "Record":
        """Return the record of a training with these flat settings, tags and data."""
        return Record({key: str(value) for key, value in settings.items()}, dict(tags), asdict(facts))

    @staticmethod
    def read(values: Any) -> "Record | None":
        """Return the record that `to_json` gave; None if there is none, as in a file of an older version."""
        try:
            record = Record(dict(values["params"]), dict(values["tags"]), dict(values["dataset"]))
            return record if {"name", "content_hash", "source"} <= set(record.dataset) else None
        except (KeyError, TypeError, ValueError):
            return None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def make(client: "MlflowClient", record: Record, settings: Mapping[str, Any], *, experiment: str, model: str) -> "Run":
    """Make the finished run of the model with this sha256 in the store, and return it.

    `settings` are the flat parameters by which the model is sampled and measured. The run gets its tag MADE last: one
    that is interrupted is never found as that of the model.
    """
    params = record.params | {key: str(value) for key, value in settings.items()}
    origin = {"mlflow.user": user(), FROM_RECORD: "true", PROCESS_TAG: json.dumps(ProcessIdentity.of().record())}
    with mlflow_errors():
        run = client.create_run(
            experiment_id(client, experiment), tags=record.tags | code_tags() | origin, run_name=name_of(params, None)
        )
    tracker = MlflowTracker(client, run, owner=False)
    tracker.params(params | {f"dataset.{key}": value for key, value in record.dataset.items()})
    with mlflow_errors():
        client.log_inputs(tracker.id, datasets=[dataset_input(record.dataset)])
        client.set_terminated(tracker.id)
    tracker.tags({MADE: model})
    tracker.finish()
    with mlflow_errors():
        return client.get_run(tracker.id)


def complete(tracker: MlflowTracker, curves: Iterable[Mapping[str, float]], artifacts: Mapping[Path, str]) -> None:
    """Give a run that was made from the record what else the training logs; do nothing for every other run.

    `curves` are the rows of reports/curves.csv, `artifacts` files and folders with the folder that each is logged to.
    """
    with mlflow_errors():
        run = tracker.client.get_run(tracker.id)
    if FROM_RECORD not in run.data.tags:
        return
    logged = run.data.metrics
    for row in curves:
        new = {name: value for name, value in metrics_of(row).items() if name not in logged}
        tracker.log(new, images_seen=int(row["images_seen"]))
    for path, folder in artifacts.items():
        tracker.artifact(path, folder)
