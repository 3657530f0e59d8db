"""The logged model of a run: the files that MLflow serves, with the metrics of the model."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ddpm.serving.served_folder import save_served
from ddpm.tracking.run_tracker import MlflowTracker
from ddpm.tracking.store import mlflow_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel


def log_model(
    tracker: MlflowTracker,
    model_file: Path,
    *,
    model_sha256: str,
    metrics: Mapping[str, float] = MappingProxyType({}),
    bounds: Mapping[str, Any] | None = None,
) -> str:
    """Log the folder that MLflow serves (`served_folder`) with the model's metrics; return the model's id (`m-…`).

    The same file in the same run is logged once. `bounds` are the fields of `answering.Bounds`. If this is interrupted
    anywhere, the next call continues it: the model becomes `READY` last.
    """
    from mlflow.entities import LoggedModelOutput, Metric

    tracker.settle()  # detect a store that does not answer before sending large files
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
            model_type=run.data.params.get("method", "diffusion"),
        )
        with tempfile.TemporaryDirectory() as folder:
            save_served(
                Path(folder) / "model",
                model_file,
                run_id=tracker.id,
                model_id=made.model_id,
                location=made.artifact_location,
                bounds=bounds,
            )
            client.log_model_artifacts(made.model_id, f"{folder}/model")
        outputs = run.outputs.model_outputs if run.outputs else []
        if made.model_id not in [output.model_id for output in outputs]:
            client.log_outputs(tracker.id, [LoggedModelOutput(made.model_id, step=0)])
        # The same time in every repetition, so that MLflow keeps one value of each metric.
        when = made.creation_timestamp
        rows = [Metric(key, value, when, 0, model_id=made.model_id) for key, value in metrics.items()]
        if rows:
            client.log_batch(tracker.id, metrics=rows)
        client.finalize_logged_model(made.model_id, "READY")
    return made.model_id


def _logged(client: "MlflowClient", experiment_id: str, run_id: str, model_sha256: str) -> "LoggedModel | None":
    """Return the run's logged model of this file: one that is `READY`, else an interrupted one, else None."""
    found = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
    models = [model for model in found if model.tags.get("model_sha256") == model_sha256]
    return next((model for model in models if model.status == "READY"), models[0] if models else None)
