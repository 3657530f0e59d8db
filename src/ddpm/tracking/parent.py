"""The model that a training starts from (`train.start`): the champion, a model file, or a folder of diffusers."""

import json
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Any

from ddpm import model_file
from ddpm.compute.processes import any_of, leads, restarted, together
from ddpm.errors import UserError
from ddpm.exchange import diffusers_folder
from ddpm.files import flush, require_inside, write_json
from ddpm.model_file import Model
from ddpm.promotion.registry import CHAMPION, champion
from ddpm.tracking.mlflow_registry import MlflowRegistry
from ddpm.tracking.store import connect
from ddpm.training import finished
from ddpm.training.sharding import require_same
from ddpm.training.start import Parent

_NOTE = "parent.json"
_FILE = "model.safetensors"
_LONGEST = 200
"""Characters of a text that is copied from the header of a file."""


def find_parent(
    start: str | None, *, starts: Path, classes: int, name: str, state: Path, key: str, resume: str
) -> Parent | None:
    """Return the model of train.start; None if that is null. All processes of the stage must call this.

    `champion` is the champion of the registered model `name`. It is copied into `state` once for each `key`, a hash of
    everything else that determines the training. A training that was killed then continues although the champion has
    changed: the copy is used until the training is cleared from `state` (see `note_training`), unless `resume`, the
    setting runtime.resume, is `never`. If there is no champion, the parent has no model.

    Any other `start` is the path of a model file or a folder of diffusers in the folder `starts`. If a network of
    diffusers has one class more than the `classes` of the training, its last class means "no label", as in the folders
    that `ddpm export-unet` writes.

    Raises UserError if the registry does not answer, if processes on several machines do not share `state`, or for a
    file that is lost, elsewhere or not such a model.
    """
    if start is None:
        return None
    if start != CHAMPION:
        return _file_parent(Path(start), starts=starts, classes=classes)
    kept = _kept(state, key)
    again = resume == "never" and not any_of(restarted())[0]
    if leads() and (again or not _is_valid(kept)):
        _keep_champion(name, kept)
    together()
    note = kept / _NOTE
    checksum = zlib.crc32(note.read_bytes()) if note.is_file() else 0
    require_same(checksum, what=f"the checksum of {note} (0: no such file)")
    identity = json.loads(note.read_text())["identity"]
    if identity["sha256"] is None:
        return Parent(identity, None)
    model = model_file.load(kept / _FILE)
    if model.sha256 != identity["sha256"]:
        raise UserError(
            f"{kept / _FILE} has changed since the training began with it; delete {kept} to start from the champion"
        )
    return Parent(identity, model)


def note_training(training: Path, *, key: str) -> None:
    """Note that the training in this folder began with the champion that was copied for `key`, if one was."""
    note = _kept(training.parent, key) / _NOTE
    if note.exists():
        write_json(note, json.loads(note.read_text()) | {"training": training.name})


def _kept(state: Path, key: str) -> Path:
    return state / f"{CHAMPION}-{key}"


def _is_valid(kept: Path) -> bool:
    """Return whether there is a copy whose training has not begun, or has not ended and been removed."""
    try:
        training = json.loads((kept / _NOTE).read_text())["training"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return training is None or not finished.is_cleared(kept.parent / training)


def _file_parent(path: Path, *, starts: Path, classes: int) -> Parent:
    require_inside(path, starts, key="train.start", expected="champion, or a model")
    try:
        if not path.is_dir():
            return _parent(model_file.load(path), name=str(path))
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / _FILE
            options: dict[str, Any] = {"schedule": None, "target": None}
            spec, _ = diffusers_folder.import_model(path, made, **options, null_label=False)
            if classes and len(spec.classes) == classes + 1:
                diffusers_folder.import_model(path, made, **options, null_label=True)
            return _parent(model_file.load(made), name=str(path))
    except UserError as error:
        raise UserError(f"train.start: {error}") from None


def _keep_champion(name: str, kept: Path) -> None:
    for other in kept.parent.glob(f"{CHAMPION}-*"):
        if other == kept or not _is_valid(other):
            shutil.rmtree(other)
    kept.mkdir(parents=True)
    connect(make=True)  # a new project has no store yet, and so no champion
    registry = MlflowRegistry(name)
    found = champion(registry)
    identity: dict[str, Any] = {"name": f"{name} has no champion at {registry.place}", "sha256": None}
    if found is not None:
        called = f"{name} version {found.number}"
        with tempfile.TemporaryDirectory() as folder:
            shutil.copyfile(registry.download(found, Path(folder)), kept / _FILE)
        with open(kept / _FILE, "rb+") as file:
            flush(file)
        try:
            model = model_file.load(kept / _FILE)
        except UserError as error:
            raise UserError(f"train.start is {CHAMPION}, but {called} cannot be read: {error}") from None
        identity = _parent(model, name=called, version=found.number).identity
    write_json(kept / _NOTE, {"identity": identity, "training": None})


def _parent(model: Model, *, name: str, **more: str) -> Parent:
    known = {key: value for key in ("data", "data_hash") if isinstance(value := model.lineage.get(key), str)}
    origin = {key: value[:_LONGEST] for key, value in known.items()}
    return Parent({"name": name, "sha256": model.sha256} | more | origin, model)
