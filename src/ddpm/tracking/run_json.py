"""models/run.json: the run that made the model.

It identifies the run by its model's hash and not by its random id, so that the same training writes the same file.
"""

import json
from pathlib import Path

from ddpm.errors import UserError
from ddpm.tracking.experiment import require_artifact_folder
from ddpm.tracking.run_tracker import MlflowTracker
from ddpm.tracking.store import connect, mlflow_errors, shown_uri

_MADE = "model_sha256"
"""Tag of a run: the sha256 of the model file that its training wrote."""


def run_record(tracker: MlflowTracker, *, model_sha256: str) -> dict[str, str]:
    """Tag the run with the model's hash; return the content of models/run.json."""
    tracker.tags({_MADE: model_sha256})
    with mlflow_errors():
        experiment = tracker.client.get_experiment(tracker.experiment_id).name
    return {"experiment": experiment, "model_sha256": model_sha256, "tracking_uri": shown_uri()}


def read_run(run_json: Path) -> dict[str, str]:
    """Return the content of models/run.json. Raise UserError if it is missing or names no run."""
    try:
        record = json.loads(run_json.read_text())
        return {key: record[key] for key in ("experiment", "model_sha256", "tracking_uri")}
    except FileNotFoundError:
        raise UserError(f"{run_json} was not found; make it with `dvc repro train`") from None
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{run_json} does not name a run ({error}); run `dvc repro -f -s train`") from None


def attach(run_json: Path) -> MlflowTracker:
    """Return a tracker that adds to the run that made the model and does not change its status.

    The run is found by the model's hash, so this works for a model that DVC restored from its cache or pulled. If
    several trainings made the same model, the newest run is used. Raise UserError if the store has none.
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
        for run in runs:
            require_artifact_folder(client, run.info.experiment_id)
            return MlflowTracker(client, run, owner=False)
    raise UserError(
        f"no run in MLflow at {shown_uri()}, experiment {record['experiment']!r}, made the model of {run_json}: it was "
        f"made at {record['tracking_uri']}; set MLFLOW_TRACKING_URI to that store, or make a run here with "
        "`dvc repro -f -s train`"
    )
