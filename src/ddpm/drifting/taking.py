"""Take new pictures into the user's data, where the next run of the pipeline finds them.

A picture goes into the folder of its class, as `incoming-DIGEST.SUFFIX`, so that the same picture is never taken twice
and no file is replaced. It is written aside and renamed: a process that is killed leaves whole pictures only.
"""

import os
import re
import shutil
from collections.abc import Sequence
from os.path import commonpath
from pathlib import Path, PurePosixPath

from ddpm.data import manifest
from ddpm.data.preparing.settings import Data
from ddpm.drifting.incoming import NewFile
from ddpm.errors import UserError
from ddpm.files import flush

_DIGITS = 20
"""Hexadecimal digits of the content's hash in the name of a picture."""
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")


def take(files: Sequence[NewFile], *, folder: Path, data: Data, prepared: Path, classes: Sequence[str]) -> int:
    """Copy the files of the folder into data.path and return how many were not there yet; the folder stays as it is.

    Raises UserError if data.source is not `folder`, if the data have captions, which are not copied, if the data have
    classes and a picture has none, or if a class has a name that cannot be one of a folder.
    """
    if data.source != "folder":
        raise UserError(
            f"retrain.on_drift is train, which copies pictures into data.path, but data.source is {data.source}; set "
            "on_drift to report, or data.source to folder"
        )
    if data.captions:
        raise UserError(
            "retrain.on_drift is train, which copies pictures without captions into data.path, but data.captions is "
            "true; set on_drift to report, and add pictures with their captions by hand"
        )
    outside = [file.name for file in files if file.folder_class is None]
    if classes and outside:
        raise UserError(
            f"{folder} has {len(outside)} pictures in no folder of a class, such as {outside[0]}, but the data in "
            f"{data.path} have classes; move each into the folder of its class, or set retrain.on_drift to report"
        )
    places = _places(prepared, classes)
    taken = 0
    for file in files:
        place = (
            places[""] if not classes else places.get(file.folder_class or "", places[""] / (file.folder_class or ""))
        )
        taken += _copy(folder / file.name, Path(data.path) / place / _name(file))
    return taken


def _places(prepared: Path, classes: Sequence[str]) -> dict[str, PurePosixPath]:
    """Return the folder in data.path of each class that has training pictures, and by "" the folder of new classes.

    Without classes, "" is the folder of the training pictures.
    """
    found: dict[str, PurePosixPath] = {}
    parents: set[str] = set()
    for part in manifest.read(prepared, ["path", "split", "label"]):
        for row in part.to_pylist():
            if row["split"] != "train":
                continue
            folders = PurePosixPath(row["path"]).parts[:-1]
            if not classes:
                parents.add("/".join(folders))
            elif row["label"] not in found:
                depth = folders.index(row["label"])
                found[row["label"]] = PurePosixPath(*folders[: depth + 1])
    if not classes:
        return {"": PurePosixPath(commonpath(parents) if parents else "")}
    return found | {"": next(iter(found.values())).parent}


def _name(file: NewFile) -> str:
    suffix = PurePosixPath(file.name).suffix
    return f"incoming-{file.sha256[:_DIGITS]}{suffix.lower() if _SUFFIX.fullmatch(suffix) else ''}"


def _copy(source: Path, target: Path) -> bool:
    """Copy the file unless it is there; return whether it was copied. A file that has gone meanwhile is left out."""
    if target.exists():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.part")  # hidden, so that a torn one is no picture
    try:
        with source.open("rb") as read, aside.open("wb") as written:
            shutil.copyfileobj(read, written)
            flush(written)
    except FileNotFoundError:
        aside.unlink(missing_ok=True)
        return False
    os.replace(aside, target)
    return True
