"""Read from MLflow what a run took: time, speed and power."""

from datetime import UTC, datetime

from ddpm.reporting.report_page import Run
from ddpm.tracking.run_tracker import SYSTEM_PREFIX
from ddpm.tracking.store import connect, mlflow_errors


def summary_of(run_id: str) -> Run | None:
    """Return the times, speeds and tags of a run; None if MLflow has no such run, UserError if it does not answer."""
    from mlflow.exceptions import MlflowException

    client = connect(make=False)
    with mlflow_errors():
        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        means = []
        for name in run.data.metrics:
            if name.startswith(f"{SYSTEM_PREFIX}gpu_") and name.endswith("_power_usage_watts"):
                history = [metric.value for metric in client.get_metric_history(run_id, name)]
                means.append(sum(history) / len(history))
    return Run(
        run_id=run_id,
        began=datetime.fromtimestamp(run.info.start_time / 1000, UTC),
        ended=None if run.info.end_time is None else datetime.fromtimestamp(run.info.end_time / 1000, UTC),
        images_per_second=run.data.metrics.get("images_per_second"),
        sampling_images_per_second=run.data.metrics.get("sampling_images_per_second"),
        watts=sum(means) if means else None,
        tags=dict(run.data.tags),
    )
