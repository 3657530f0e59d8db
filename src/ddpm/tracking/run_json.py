"""models/run.json: the run that made the model, and the record by which another store gets this run.

It identifies the run by its model's hash and not by its random id, so that the same training writes the same file.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ddpm.errors import UserError
from ddpm.reporting.run_names import name_of
from ddpm.tracking import recorded_run
from ddpm.tracking.experiment import require_artifact_folder
from ddpm.tracking.recorded_run import Record
from ddpm.tracking.run_tracker import MlflowTracker
from ddpm.tracking.store import connect, mlflow_errors, shown_uri
from ddpm.tracking.training_run import KEY_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_MADE = recorded_run.MADE

TRAINED_BY = "trained_by"
"""Tag of a run that only measured a model: the run of the training that made it."""


def run_record(tracker: MlflowTracker, *, model_sha256: str, record: Record | None = None) -> dict[str, Any]:
    """Tag the run with the model's hash; return the content of models/run.json.

    `record` is what `attach` makes a run of in a store that does not have it.
    """
    tracker.tags({_MADE: model_sha256})
    with mlflow_errors():
        experiment = tracker.client.get_experiment(tracker.experiment_id).name
    content = {"experiment": experiment, "model_sha256": model_sha256, "tracking_uri": shown_uri()}
    return content | ({} if record is None else {"record": record.to_json()})


def read_run(run_json: Path) -> dict[str, str]:
    """Return the content of models/run.json. Raise UserError if it is missing or names no run."""
    try:
        record = json.loads(run_json.read_text())
        return {key: record[key] for key in ("experiment", "model_sha256", "tracking_uri")}
    except FileNotFoundError:
        raise UserError(f"{run_json} was not found; make it with `dvc repro train`") from None
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{run_json} does not name a run ({error}); run `dvc repro -f -s train`") from None


def has_record(run_json: Path) -> bool:
    """Return whether another store can get the run of this file. Raise UserError if it is missing or names no run."""
    read_run(run_json)
    return "record" in json.loads(run_json.read_text())


def attach(run_json: Path, settings: Mapping[str, Any] = MappingProxyType({})) -> MlflowTracker:
    """Return a tracker that adds to the run that made the model and does not change its status.

    The run is found by the model's hash, so this works for a model that DVC restored from its cache or pulled. If
    several trainings made the same model, the newest run is used. `settings` are the flat parameters by which the model
    is sampled and measured. A run with others would have wrong parameters for its metrics, so a new run, without
    curves, is made for them. A store that has no run of this model gets it from the record, which is printed. Raise
    UserError if there is no record.
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
                f"tags.{_MADE} = '{record['model_sha256']}'",
                order_by=["attributes.start_time DESC"],
            )
        )
        if runs:
            require_artifact_folder(client, runs[0].info.experiment_id)
            fitting = next((run for run in runs if not _differing(run, settings)), None)
            return MlflowTracker(client, fitting or _measured_again(client, runs[0], settings), owner=False)
    if (known := Record.read(json.loads(run_json.read_text()).get("record"))) is not None:
        made = recorded_run.make(client, known, settings, experiment=record["experiment"], model=record["model_sha256"])
        print(f"MLflow at {shown_uri()} had no run of the model of {run_json}; it got one from the record in that file")
        return MlflowTracker(client, made, owner=False)
    raise UserError(
        f"no run in MLflow at {shown_uri()}, experiment {record['experiment']!r}, made the model of {run_json}: it was "
        f"made at {record['tracking_uri']}; set MLFLOW_TRACKING_URI to that store, or make a run here with "
        "`dvc repro -f -s train`"
    )


def _differing(run: "Run", settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings of which the run has another value, as text."""
    there = run.data.params
    return {key: str(value) for key, value in settings.items() if key in there and there[key] != str(value)}


def _measured_again(client: "MlflowClient", trained: "Run", settings: Mapping[str, Any]) -> "Run":
    """Make a finished run for the model of the run `trained`, with these settings in place of its own."""
    from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_IMAGES, MLFLOW_RUN_NAME, MLFLOW_RUN_NOTE

    differing = _differing(trained, settings)
    left = (MLFLOW_RUN_NAME, MLFLOW_RUN_NOTE, MLFLOW_LOGGED_IMAGES, KEY_TAG, "decision")
    tags = {key: value for key, value in trained.data.tags.items() if key not in left}
    params = trained.data.params | differing
    name = name_of(params, trained.data.params)
    run = client.create_run(trained.info.experiment_id, run_name=name, tags=tags | {TRAINED_BY: trained.info.run_id})
    tracker = MlflowTracker(client, run, owner=False)
    tracker.params(params)
    if trained.inputs is not None and trained.inputs.dataset_inputs:
        client.log_inputs(tracker.id, datasets=trained.inputs.dataset_inputs)
    client.set_terminated(tracker.id)
    tracker.finish()
    return client.get_run(tracker.id)
