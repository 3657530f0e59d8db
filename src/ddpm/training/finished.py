"""The last checkpoint of a finished training, kept until DVC has recorded its model, which a kill before could lose.

DVC records a stage's outputs after the stage has ended and does not inform the stage. Therefore the checkpoint stays
when its training ends, at most one of them, and the next training looks into dvc.lock.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from ddpm.files import write_json
from ddpm.pipeline import dvc_lock
from ddpm.training import checkpoint_folder

NOTE = "finished.json"
TRACKED = "tracked"
"""Folder for the data that the tracker keeps between the processes of a training."""
COST = "cost.json"
"""File with the measured cost of the training's steps."""
PLANNED = "planned.json"
"""File with the length that was planned for train.minutes; it stays when all else of a training is removed."""


def keep(folder: Path, *, model: Path, run_id: str | None) -> None:
    """Keep the last checkpoint of this training, and none of other finished ones. `model` is the file that it wrote."""
    with open(model, "rb") as file:
        md5 = hashlib.file_digest(file, "md5").hexdigest()
    note = {"model": str(model), "md5": md5, "dvc_lock": dvc_lock.written_at(), "run_id": run_id}
    write_json(folder / NOTE, note)
    checkpoint_folder.clear(folder, but=1)
    for other in _ended(folder.parent):
        if other != folder:
            clear(other)


def clear_recorded(state_folder: Path, *, is_known: Callable[[str | None], bool]) -> None:
    """Remove the checkpoints of finished trainings whose model DVC has recorded, so that a new start trains again.

    Those whose run the tracker does not know stay (`is_known`): the new start then only registers the model in another
    store.
    """
    for folder in _ended(state_folder):
        try:
            note = json.loads((folder / NOTE).read_text())
            recorded = dvc_lock.recorded_md5(Path(note["model"])) == note["md5"]
            if recorded and dvc_lock.written_at() != note["dvc_lock"] and is_known(note["run_id"]):
                clear(folder)
        except (
            ValueError,
            KeyError,
            TypeError,
        ):  # not a valid note: treat the checkpoint as that of an interrupted training
            (folder / NOTE).unlink(missing_ok=True)


def clear(folder: Path) -> None:
    """Remove everything of this training but the length that was planned for it, so that it can be repeated."""
    for name in (NOTE, COST):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / TRACKED, ignore_errors=True)
    checkpoint_folder.clear(folder)


def is_cleared(folder: Path) -> bool:
    """Return whether nothing is left of the training in `folder`, but perhaps its planned length."""
    return not folder.is_dir() or [path.name for path in folder.iterdir()] == [PLANNED]


def _ended(state_folder: Path) -> list[Path]:
    return [note.parent for note in state_folder.glob(f"*/{NOTE}")]
