"""The versions of a registered model, as MLflow stores them: read, and tagged."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from ddpm.promotion.registry import Version
from ddpm.tracking import documents

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


def versions(client: "MlflowClient", name: str) -> list[Version]:
    """Return the versions, newest first; none if nothing is registered under the name."""
    holders = aliases(client, name)
    found = [_version(each, holders) for each in client.search_model_versions(f"name = '{name}'")]
    return sorted(found, key=lambda version: int(version.number), reverse=True)


def aliases(client: "MlflowClient", name: str) -> dict[str, str]:
    """Map each alias to its version. MLflow's search for versions returns them without aliases."""
    model = registered(client, name)
    return {} if model is None else {alias: str(number) for alias, number in model.aliases.items()}


def set_tags(client: "MlflowClient", name: str, number: str, tags: Mapping[str, str]) -> None:
    """Set tags of a version, one by one because MLflow has no call for several."""
    for key, value in tags.items():
        client.set_model_version_tag(name, number, key, value)


def registered(client: "MlflowClient", name: str) -> Any:
    """Return the registered model as MLflow's client returns it; None if there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _version(found: "ModelVersion", holders: Mapping[str, str]) -> Version:
    number = str(found.version)
    return Version(
        name=found.name,
        number=number,
        aliases=tuple(sorted(alias for alias, holder in holders.items() if holder == number)),
        tags=found.tags,
        run_id=found.run_id,
        created=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC),
        read=partial(documents.read, found.name, number),
    )
