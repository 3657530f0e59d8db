"""The signature of a version: the files that it covers, copied into one folder, and their verification."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ddpm.errors import UserError
from ddpm.promotion.registry import KEPT, ORIGIN, RECORDS, SIGNATURE, Version
from ddpm.reporting import model_card
from ddpm.signing.signature import require_signed
from ddpm.tracking import documents

if TYPE_CHECKING:
    from mlflow import MlflowClient

FILE = "model.sig"
"""The signature's file, before it is stored under a name of its content."""
MODEL = "artifacts"
"""Folder of the model file, in MLflow and in the signature."""
IDENTITY = "version.json"
"""File that only the signature has, with the version's name and number, so that it fits no other version."""


def verified(client: "MlflowClient", version: Version, key: Path, folder: Path) -> tuple[Path, list[str]]:
    """Return the folder with the version's model file, a copy in `folder`, and the names of all that was signed.

    Raises UserError unless the owner of this public key signed this version as it is.
    """
    called = f"version {version.number} of {version.name}"
    if SIGNATURE not in version.tags:
        raise UserError(
            f"{called} has no signature, but signing.verify_key or --key asks for one; "
            f"sign it with `ddpm sign {version.number}`"
        )
    stored = documents.read_file(version.name, version.number, version.tags[SIGNATURE], folder)
    signature = Path(shutil.copyfile(stored, folder / FILE))
    covered = covered_files(client, version, folder / "covered")
    return covered / MODEL, require_signed(covered, signature, key, called=called)


def covered_files(client: "MlflowClient", version: Version, folder: Path, *, checked: bool = False) -> Path:
    """Copy the files that a signature covers into this new folder: model file, card, metrics, origin, kept pictures.

    What the version lacks is left out. They are copies, also where the store is on this machine, so that what is
    verified is what is loaded. With `checked`, each document must be the one whose hash its name has.
    Raises UserError if the model file is lost, or if a document is another one.
    """
    called = f"version {version.number} of {version.name}"
    location = client.get_model_version_download_uri(version.name, version.number)
    tags = version.tags
    names = {
        model_card.FILE: model_card.FILE,
        "metrics.json": _document(tags.get(RECORDS, "").partition(" ")[0]),
        "origin.json": _document(tags.get(ORIGIN, "")),
        "kept.safetensors": f"{documents.FOLDER}/{tags[KEPT]}" if KEPT in tags else None,
    }
    folder.mkdir(parents=True)
    fetched = folder.with_name("fetched")
    fetched.mkdir()
    files = _fetched(f"{location}/{MODEL}", fetched)
    if files is None:
        raise UserError(
            f"{called} has lost its model file; restore the artifacts, or choose another of `ddpm versions`"
        )
    (shutil.move if files.is_relative_to(fetched) else shutil.copytree)(files, folder / MODEL)
    for name, stored in names.items():
        if stored is None or (file := _fetched(f"{location}/{stored}", fetched)) is None:
            continue
        shutil.copyfile(file, folder / name)
        if checked and name != model_card.FILE and not documents.is_whole(folder / name, stored):
            raise UserError(f"{name} of {called} is damaged; write it again with `dvc repro -f -s register`")
    shutil.rmtree(fetched)
    (folder / IDENTITY).write_text(json.dumps({"name": version.name, "version": version.number}))
    return folder


def _fetched(location: str, folder: Path) -> Path | None:
    """Return the path of an artifact as `documents.artifact`; None if the store has none there."""
    from mlflow.exceptions import MlflowException

    try:
        path = documents.artifact(location, folder)
    except FileNotFoundError:
        return None
    except MlflowException as error:
        if "404" in str(error):
            return None
        raise
    return path if path.exists() else None


def _document(name: str) -> str | None:
    return f"{documents.FOLDER}/{name}.json" if name else None
