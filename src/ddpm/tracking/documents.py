"""The documents of a version, as files beside its model file, most of them JSON: its records of metrics, its origin, …

A document is named by the hash of its content and written before the tag that names it, so a tag never names a document
that is not complete.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ddpm.errors import UserError
from ddpm.tracking.store import connect, mlflow_errors, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

FOLDER = "documents"
_NAME_CHARACTERS = 16


def write(client: "MlflowClient", model_id: str, document: Mapping[str, Any]) -> str:
    """Write a document into the logged model; return its name, which is the same for the same content."""
    content = json.dumps(document, indent=1, ensure_ascii=False).encode()
    name = hashlib.sha256(content).hexdigest()[:_NAME_CHARACTERS]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.json"
        file.write_bytes(content)
        client.log_model_artifact(model_id, str(file), FOLDER)
    return name


def write_file(client: "MlflowClient", model_id: str, file: Path) -> str:
    """Write a copy of a file into the logged model; return its name, which is the same for the same content."""
    name = hashlib.sha256(file.read_bytes()).hexdigest()[:_NAME_CHARACTERS] + file.suffix
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / name
        shutil.copyfile(file, copy)
        client.log_model_artifact(model_id, str(copy), FOLDER)
    return name


def read_file(model: str, number: str, name: str, folder: Path) -> Path:
    """Return the path of a file of a version, in `folder` or in the store. Raise UserError if it is lost or damaged."""
    client = connect()
    called = f"file {name} of version {number} of {model}"
    with mlflow_errors():
        location = client.get_model_version_download_uri(model, number)
        try:
            path = artifact(f"{location}/{FOLDER}/{name}", folder)
            content = path.read_bytes()
        except FileNotFoundError:
            raise UserError(f"{called} is lost; write it again with `dvc repro -f -s register`") from None
    if not _is_of(content, name):
        raise UserError(f"{called} is damaged; write it again with `dvc repro -f -s register`")
    return path


def read(model: str, number: str, name: str) -> dict[str, Any]:
    """Return a document of a version. Raise UserError if it is lost or damaged."""
    return json.loads(_content(tracking_uri(), model, number, name))


@lru_cache(maxsize=1024)
def _content(store: str, model: str, number: str, name: str) -> bytes:
    """Return the content of a document, which never changes. `store` is part of the key only."""
    client = connect()
    called = f"document {name}.json of version {number} of {model}"
    with mlflow_errors(), tempfile.TemporaryDirectory() as folder:
        location = client.get_model_version_download_uri(model, number)
        try:
            content = artifact(f"{location}/{FOLDER}/{name}.json", Path(folder)).read_bytes()
        except FileNotFoundError:
            raise UserError(f"{called} is lost; write it again with `dvc repro -f -s register`") from None
    if not _is_of(content, name):
        raise UserError(f"{called} is damaged; write it again with `dvc repro -f -s register`")
    return content


def is_whole(file: Path, name: str) -> bool:
    """Whether this is the file whose hash the name has, which may have a folder and a suffix."""
    return _is_of(file.read_bytes(), name.rpartition("/")[2])


def _is_of(content: bytes, name: str) -> bool:
    return hashlib.sha256(content).hexdigest().startswith(name.partition(".")[0])


def artifact(location: str, folder: Path) -> Path:
    """Return the path of an artifact: in `folder`, or in the store if its files are on this machine."""
    import mlflow.artifacts

    if urlsplit(location).scheme in ("", "file"):
        from mlflow.utils.file_utils import local_file_uri_to_path

        return Path(local_file_uri_to_path(location))
    return Path(
        mlflow.artifacts.download_artifacts(artifact_uri=location, dst_path=str(folder), tracking_uri=tracking_uri())
    )
