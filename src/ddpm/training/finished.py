"""The last state of a training that ended, kept until DVC has recorded its model: before that, a kill would lose both.

DVC records a stage's outputs after the stage has ended, and a stage never hears of it. So the state stays when its
training ends, one at most, and the next training looks in dvc.lock.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from ddpm.files import write_json
from ddpm.pipeline import dvc_lock
from ddpm.training import checkpoint

NOTE = "finished.json"
TRACKED = "tracked"
"""The folder of what the tracker keeps from one process of a training to the next."""


def keep(folder: Path, *, model: Path, run_id: str | None) -> None:
    """Of this training the last checkpoint stays, of others that ended nothing. `model` is the file that it made."""
    with open(model, "rb") as file:
        md5 = hashlib.file_digest(file, "md5").hexdigest()
    told = {"model": str(model), "md5": md5, "dvc_lock": dvc_lock.written_at(), "run_id": run_id}
    write_json(folder / NOTE, told)
    checkpoint.clear(folder, but=1)
    for other in _ended(folder.parent):
        if other != folder:
            clear(other)


def clear_recorded(state_folder: Path, *, is_known: Callable[[str | None], bool]) -> None:
    """Removes what DVC has recorded since, so that a training that is asked for again is done again.

    One whose run the tracker does not know stays (`is_known`): it is asked for because the store is another.
    """
    for folder in _ended(state_folder):
        try:
            told = json.loads((folder / NOTE).read_text())
            recorded = dvc_lock.recorded_md5(Path(told["model"])) == told["md5"]
            if recorded and dvc_lock.written_at() != told["dvc_lock"] and is_known(told["run_id"]):
                clear(folder)
        except (ValueError, KeyError, TypeError):  # no note: the checkpoint beside it is one like any other
            (folder / NOTE).unlink(missing_ok=True)


def clear(folder: Path) -> None:
    """Nothing of this training stays."""
    (folder / NOTE).unlink(missing_ok=True)
    shutil.rmtree(folder / TRACKED, ignore_errors=True)
    checkpoint.clear(folder)


def _ended(state_folder: Path) -> list[Path]:
    return [note.parent for note in state_folder.glob(f"*/{NOTE}")]
