"""The registered model in MLflow: its versions, with their metrics, lineage and decisions as tags."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ddpm.errors import UserError
from ddpm.promotion.judge import as_text
from ddpm.promotion.registry import Version, version
from ddpm.promotion.succession import Move
from ddpm.tracking import champion_alias, registry_lock
from ddpm.tracking.champion_alias import AliasChange, set_tags
from ddpm.tracking.store import as_default_store, connect, mlflow_errors, shown_uri, tracking_uri, user

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from ddpm.model_file import Model
    from ddpm.tracking.run_tracker import MlflowTracker


class MlflowRegistry:
    """A `promotion.registry.Registry` of the registered model with this name.

    Each method reads the store anew. A method that changes something can be called again after a failure and then
    finishes its work.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def place(self) -> str:
        return shown_uri()

    @property
    def user(self) -> str:
        return user()

    def versions(self) -> list[Version]:
        """Return the versions, newest first; none if nothing is registered under the name."""
        client = connect()
        with mlflow_errors():
            aliases = champion_alias.aliases(client, self.name)
            found = [_version(v, aliases) for v in client.search_model_versions(f"name = '{self.name}'")]
        return sorted(found, key=lambda version: int(version.number), reverse=True)

    def history(self) -> list[Move]:
        """Return every move of the alias `champion`, oldest first."""
        client = connect()
        with mlflow_errors():
            return champion_alias.history(client, self.name)

    @contextmanager
    def alone(self) -> Iterator[AliasChange]:
        client = connect()
        with registry_lock.alone() as note, mlflow_errors():
            yield AliasChange(client, self.name, note)

    def register(
        self, *, sha256: str, model_id: str, run_id: str, record: Mapping[str, Any], tags: Mapping[str, str]
    ) -> Version:
        """Return the version of the model file with this sha256, with these metrics and tags; create it if needed."""
        client = connect()
        with registry_lock.alone(), mlflow_errors():
            _ensure_model(client, self.name)
            there = client.search_model_versions(f"name = '{self.name}' and tags.model_sha256 = '{sha256}'")
            if there:
                number = str(there[0].version)
            else:
                with as_default_store():
                    made = client.create_model_version(
                        self.name,
                        f"models:/{model_id}",
                        run_id=run_id,
                        model_id=model_id,
                        tags={"model_sha256": sha256, "model_id": model_id},
                    )
                number = str(made.version)
            metrics = _metrics(record) | {f"floor.{key}": value for key, value in _metrics(record["floor"]).items()}
            set_tags(client, self.name, number, {**tags, **metrics, "record": json.dumps(record)})
        return version(self, number)

    def keep_record(self, number: str, record: Mapping[str, Any]) -> None:
        client = connect()
        with mlflow_errors():
            set_tags(client, self.name, number, {"record_again": json.dumps(record)})

    def download(self, version: Version, folder: Path) -> Path:
        """Return the path of the version's model file: in `folder`, or in the store if its files are on this machine.

        Raise UserError if the file was lost or changed.
        """
        import mlflow.artifacts

        called = f"version {version.number} of {version.name}"
        client = connect()
        with mlflow_errors():
            location = client.get_model_version_download_uri(version.name, version.number)
            if urlsplit(location).scheme not in ("", "file"):
                here = mlflow.artifacts.download_artifacts(
                    artifact_uri=f"{location}/artifacts", dst_path=str(folder), tracking_uri=tracking_uri()
                )
            else:
                from mlflow.utils.file_utils import local_file_uri_to_path

                here = f"{local_file_uri_to_path(location)}/artifacts"
        files = sorted(Path(here).glob("*.safetensors"))
        if len(files) != 1:
            raise UserError(
                f"{called} has {len(files)} model files in {here}, expected one; "
                "restore the artifacts, or promote another version with `ddpm promote`"
            )
        with open(files[0], "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        expected = version.tags["model_sha256"]
        if digest != expected:
            raise UserError(
                f"{files[0]} is not the file that was registered as {called} "
                f"(sha256 {digest[:12]}…, expected {expected[:12]}…); restore it from a backup"
            )
        return files[0]


def origin(model: "Model", run: "MlflowTracker", known: Iterable[Version]) -> dict[str, str]:
    """Return tags for a model's origin (data, parameters, code, start) and the shape of its images.

    `known` are the registered versions, one of which may be the file that the training started from.
    """
    with mlflow_errors():
        commit = run.client.get_run(run.id).data.tags.get("mlflow.source.git.commit", "none")
    tags = {"channels": model.spec.channels, "size": model.spec.size, "classes": len(model.spec.classes)}
    lineage = {k: v if isinstance(v, str) else json.dumps(v) for k, v in model.lineage.items() if k != "start"}
    lineage |= start_tags(model.lineage.get("start", {}))
    if (sha256 := lineage.get("start.sha256")) is not None:
        found = [v.number for v in known if sha256 in (v.tags.get("model_sha256"), v.tags.get("weights_sha256"))]
        lineage = ({"start.version": found[-1]} if found else {}) | lineage
    return lineage | {key: str(value) for key, value in tags.items()} | {"git.commit": commit}


def start_tags(start: Mapping[str, Any]) -> dict[str, str]:
    """Return tags for the model that a training started from, from `training.start.Start.record`; none without one."""
    numbers = {"taken_over": f"{start['taken_over']} of {start['tensors']} tensors"} if "tensors" in start else {}
    values = {key: value for key, value in start.items() if isinstance(value, str)} | numbers
    return {f"start.{key}": value for key, value in values.items()}


def contents(weights_sha256: str, sampling: Mapping[str, Any]) -> dict[str, str]:
    """Return tags for a version's content: the hash of its model file, and its sampling settings (`sampling`)."""
    return {"weights_sha256": weights_sha256} | {f"sample.{key}": str(value) for key, value in sampling.items()}


def _metrics(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the numbers of a record as tags."""
    return {k: as_text(v) for k, v in record.items() if v is None or isinstance(v, int | float)}


def _ensure_model(client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _version(found: "ModelVersion", aliases: Mapping[str, str]) -> Version:
    number = str(found.version)
    return Version(
        name=found.name,
        number=number,
        aliases=tuple(sorted(alias for alias, holder in aliases.items() if holder == number)),
        tags=found.tags,
        run_id=found.run_id,
        created=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC),
    )
