"""The experiment that holds a run, and the folder of its artifacts."""

from pathlib import Path
from typing import TYPE_CHECKING

from ddpm.errors import UserError
from ddpm.tracking import experiment_page
from ddpm.tracking.store import is_server, mlflow_errors, project, shown_uri, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment


def experiment_id(client: "MlflowClient", name: str) -> str:
    """Return the id of the experiment; create it if there is none of this name.

    Its page explains itself (`experiment_page`). A new experiment keeps its artifacts in the project, unless a server
    keeps them. Raises UserError if the experiment was deleted, or if its artifact folder is missing.
    """
    experiment: Experiment | None = client.get_experiment_by_name(name)
    if experiment is None:
        location = None
        if not is_server(tracking_uri()):
            folder = project() / "mlartifacts"
            folder.mkdir(exist_ok=True)
            location = folder.as_uri()
        made = client.create_experiment(name, artifact_location=location)
        experiment_page.present(client, client.get_experiment(made))
        return made
    if experiment.lifecycle_stage != "active":
        raise UserError(
            f"experiment {name!r} is deleted at {shown_uri()}; restore it, or choose another tracking.experiment"
        )
    require_artifact_folder(client, experiment.experiment_id)
    experiment_page.present(client, experiment)
    return experiment.experiment_id


def require_artifact_folder(client: "MlflowClient", experiment_id: str) -> None:
    """Raise UserError if the experiment's artifact folder is missing.

    MLflow stores the absolute path, so after a move of the project it would create the folder again at the old place.
    """
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    with mlflow_errors():
        experiment = client.get_experiment(experiment_id)
    if is_local_uri(experiment.artifact_location):
        folder = Path(local_file_uri_to_path(experiment.artifact_location))
        if not folder.is_dir():
            raise UserError(
                f"experiment {experiment.name!r} keeps its artifacts in {folder}, which is missing; put the folder "
                "(or the project) back, or set tracking.experiment to a new name"
            )
