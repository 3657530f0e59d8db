"""The registered model in MLflow: its versions, with their decisions as tags and their metrics and origin as files."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm.errors import UserError
from ddpm.promotion.registry import (
    CANARY,
    DECISION,
    KEPT,
    ORIGIN,
    RECORDS,
    SHADOW,
    SIGNATURE,
    WATCHED,
    Version,
    version,
)
from ddpm.promotion.succession import Move, Ruling
from ddpm.reporting import model_card
from ddpm.signing.signature import KEY_VARIABLE, PrivateKey, private_key, sign
from ddpm.tracking import champion_alias, descriptions, documents, registry_lock, signatures, stored_versions
from ddpm.tracking.champion_alias import AliasChange
from ddpm.tracking.store import as_default_store, connect, mlflow_errors, shown_uri, user
from ddpm.tracking.stored_versions import set_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from ddpm.model_file import Model
    from ddpm.tracking.run_tracker import MlflowTracker

_MAX_TAG = 4000
"""Characters; a tag of a version holds 5,000 in an SQL store."""


class MlflowRegistry:
    """A `promotion.registry.Registry` of the registered model with this name.

    Each method reads the store anew. A method that changes something can be called again after a failure and then
    finishes its work.
    """

    def __init__(self, name: str, *, verify_key: Path | None = None) -> None:
        """With `verify_key`, a public key, only versions that its owner has signed are given out by `download`."""
        self.name, self._verify_key = name, verify_key

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
            return stored_versions.versions(client, self.name)

    def history(self) -> list[Move]:
        """Return every move of the alias `champion`, oldest first."""
        client = connect()
        with mlflow_errors():
            return champion_alias.history(client, self.name)

    def rulings(self) -> list[Ruling]:
        """Return every decision that moved no alias and belongs to the history, oldest first."""
        client = connect()
        with mlflow_errors():
            return champion_alias.rulings(client, self.name)

    @contextmanager
    def alone(self) -> Iterator[AliasChange]:
        client = connect()
        with registry_lock.alone() as note, mlflow_errors():
            yield AliasChange(client, self.name, note)

    def register(
        self,
        *,
        sha256: str,
        model_id: str,
        run_id: str,
        record: Mapping[str, Any],
        tags: Mapping[str, str],
        origin: Mapping[str, Any] | None = None,
        picture: Path | None = None,
    ) -> Version:
        """Return the version of the model file with this sha256; create it if needed.

        Its metrics become this record, its first one; records by other protocols stay. `origin` is what `origin`
        returns, `picture` a grid of its samples. Its model card and its description are written anew.
        """
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
            before = version(self, number)
            stored = dict(tags) | {RECORDS: self._with_record(client, before, record, first=True)}
            stored |= {} if origin is None else {ORIGIN: documents.write(client, before.tags["model_id"], origin)}
            stored |= {} if picture is None else {"picture": descriptions.PICTURE}
            self._write_card(client, replace(before, tags={**before.tags, **stored}), picture)
            set_tags(client, self.name, number, stored)
            history = champion_alias.history(client, self.name), champion_alias.rulings(client, self.name)
            descriptions.write(client, self.name, {number}, *history)
        return version(self, number)

    def keep_record(self, number: str, record: Mapping[str, Any]) -> None:
        client = connect()
        with mlflow_errors():
            records = self._with_record(client, version(self, number), record, first=False)
            set_tags(client, self.name, number, {RECORDS: records})

    def keep_decision(self, number: str, decision: Mapping[str, Any]) -> None:
        client = connect()
        with mlflow_errors():
            name = documents.write(client, version(self, number).tags["model_id"], decision)
            set_tags(client, self.name, number, {DECISION: name})

    def keep_canary(self, number: str, result: Mapping[str, Any]) -> None:
        client = connect()
        with mlflow_errors():
            name = documents.write(client, version(self, number).tags["model_id"], result)
            set_tags(client, self.name, number, {CANARY: name})

    def keep_crossing(self, number: str, sentence: str) -> None:
        client = connect()
        with mlflow_errors():
            set_tags(client, self.name, number, {WATCHED: f"{champion_alias.now()}: {sentence}"[:_MAX_TAG]})

    def keep_shadow(self, number: str, figures: Mapping[str, Any]) -> None:
        client = connect()
        with mlflow_errors():
            name = documents.write(client, version(self, number).tags["model_id"], figures)
            set_tags(client, self.name, number, {SHADOW: name})

    def keep_file(self, number: str, file: Path) -> None:
        client = connect()
        with mlflow_errors():
            name = documents.write_file(client, version(self, number).tags["model_id"], file)
            set_tags(client, self.name, number, {KEPT: name})

    def kept_file(self, number: str, folder: Path) -> Path | None:
        tags = version(self, number).tags
        return documents.read_file(self.name, number, tags[KEPT], folder) if KEPT in tags else None

    def sign(self, number: str, key: PrivateKey) -> list[str]:
        """Sign a version as it is stored now, in place of an earlier signature; return what the signature covers.

        Raise UserError if its model file is not the one that was registered, or if the key cannot be used.
        """
        found, client = version(self, number), connect()
        with mlflow_errors(), tempfile.TemporaryDirectory() as folder:
            covered = signatures.covered_files(client, found, Path(folder) / "covered", checked=True)
            _registered_file(found, covered / signatures.MODEL)
            signature = Path(folder) / signatures.FILE
            names = sign(covered, signature, key)
            stored = documents.write_file(client, found.tags["model_id"], signature)
            set_tags(client, self.name, number, {SIGNATURE: stored})
            return names

    def sign_again(self, number: str) -> None:
        """Sign with the key of the environment; without one, say if an earlier signature may not hold any more."""
        key = private_key()
        if key is not None:
            self.sign(number, key)
        elif SIGNATURE in version(self, number).tags:
            print(
                f"version {number} was signed before and what was signed is written anew, but {KEY_VARIABLE} is not "
                f"set; `ddpm verify {number}` says whether its signature still holds, and "
                f"`ddpm sign {number}` renews it"
            )

    def verify(self, version: Version, key: Path) -> list[str]:
        """Return what the owner of this public key signed of a version. Raise UserError if anything differs."""
        client = connect()
        with mlflow_errors(), tempfile.TemporaryDirectory() as folder:
            return signatures.verified(client, version, key, Path(folder))[1]

    @staticmethod
    def _with_record(client: "MlflowClient", to: Version, record: Mapping[str, Any], *, first: bool) -> str:
        """Store the record; return the names of all records of the version, without an older one of its protocol."""
        name = documents.write(client, to.tags["model_id"], record)
        known, others = to.tags.get(RECORDS, "").split(), []
        if not first and name in known:
            return " ".join(known)  # the order stays, because a signature covers the first one
        for other in known:
            try:
                replaced = other == name or to.read(other)["protocol"] == record["protocol"]
            except UserError:  # lost or damaged
                replaced = True
            if not replaced:
                others.append(other)
        return " ".join([name, *others] if first else [*others, name])

    @staticmethod
    def _write_card(client: "MlflowClient", of: Version, picture: Path | None) -> None:
        """Write the model card, and the picture that it shows in two sizes, beside the model file."""
        with tempfile.TemporaryDirectory() as folder:
            if picture is not None:
                from PIL import Image

                shutil.copyfile(picture, Path(folder) / descriptions.PICTURE)
                with Image.open(picture) as grid:
                    grid.thumbnail((descriptions.SMALL_PIXELS, descriptions.SMALL_PIXELS))
                    grid.save(Path(folder) / descriptions.SMALL_PICTURE)
            card = model_card.of_version(of, picture=descriptions.PICTURE if "picture" in of.tags else None)
            (Path(folder) / model_card.FILE).write_text(card, encoding="utf-8")
            client.log_model_artifacts(of.tags["model_id"], folder)

    def download(self, version: Version, folder: Path) -> Path:
        """Return the path of the version's model file: in `folder`, or in the store if its files are on this machine.

        A file whose signature was verified is in `folder`. Raise UserError if the file was lost or changed.
        """
        client = connect()
        with mlflow_errors():
            if self._verify_key is not None:
                here = signatures.verified(client, version, self._verify_key, folder)[0]
            else:
                location = client.get_model_version_download_uri(version.name, version.number)
                here = documents.artifact(f"{location}/{signatures.MODEL}", folder)
        return _registered_file(version, here)


def _registered_file(version: Version, here: Path) -> Path:
    """Return the one model file in this folder. Raise UserError unless it is the one that was registered."""
    called = f"version {version.number} of {version.name}"
    files = sorted(here.glob("*.safetensors"))
    if len(files) != 1:
        raise UserError(
            f"{called} has {len(files)} model files in {here}, expected one; "
            "restore the artifacts, or choose another version of `ddpm versions`"
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


def origin(
    model: "Model", run: "MlflowTracker", known: Iterable[Version], facts: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the origin of a model: the lineage of its file, the commit, the shape of its images and the data's facts.

    `known` are the registered versions, one of which may be the file that the training started from.
    """
    with mlflow_errors():
        commit = run.client.get_run(run.id).data.tags.get("mlflow.source.git.commit")
    found: dict[str, Any] = dict(model.lineage) | {
        "git_commit": commit,
        "facts": None if facts is None else dict(facts),
    }
    found |= {"channels": model.spec.channels, "size": model.spec.size, "classes": list(model.asked.classes)}
    start = model.lineage.get("start", {})
    if (sha256 := start.get("sha256")) is not None and "version" not in start:
        numbers = [v.number for v in known if sha256 in (v.tags.get("model_sha256"), v.tags.get("weights_sha256"))]
        found["start"] = start | ({"version": numbers[-1]} if numbers else {})
    return found


def start_tags(start: Mapping[str, Any]) -> dict[str, str]:
    """Return tags for the model that a training started from, from `training.start.Start.record`; none without one."""
    numbers = {"taken_over": f"{start['taken_over']} of {start['tensors']} tensors"} if "tensors" in start else {}
    values = {key: value for key, value in start.items() if isinstance(value, str)} | numbers
    return {f"start.{key}": value for key, value in values.items()}


def contents(model: "Model") -> dict[str, str]:
    """Return the tags by which a version is found and compared: hash of its weights, method, shape of its images."""
    return {
        "weights_sha256": model.sha256,
        "method": model.spec.method,
        "channels": str(model.spec.channels),
        "size": str(model.spec.size),
    }


def _ensure_model(client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
