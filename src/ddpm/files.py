"""Write files atomically and durably: a reader never sees half a file, not even after a power failure."""

import errno
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from ddpm.errors import UserError

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write indented JSON to a temporary file and rename it. Raises ValueError for NaN and infinity."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 with the text's own line ends to a temporary file and rename it.

    An existing file keeps its permissions. What is at the temporary file's place is removed, and a link there is not
    followed. An OSError names a file.
    """
    aside = path.with_name(path.name + ".part")
    try:
        aside.unlink(missing_ok=True)
        with open(aside, "x", encoding="utf-8", newline="") as file:
            file.write(text)
            flush(file)
        if path.exists():
            shutil.copymode(path, aside)
        os.replace(aside, path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        if error.filename is None:  # as that of a write to a full disk
            error.filename = str(path)
        raise


def require_inside(path: Path, folder: Path, *, key: str, expected: str) -> None:
    """Raise UserError unless the path, the value of the setting `key`, is in `folder`, whose content DVC compares."""
    if folder.resolve() not in path.resolve().parents:
        raise UserError(f"{key} is {path}, expected {expected} in {folder}, where DVC notices changes; copy it there")


def disk_trouble(error: BaseException) -> UserError | None:
    """Return a UserError for a full or read-only disk; None for every other error."""
    if not (isinstance(error, OSError) and error.errno in _DISK):
        return None
    where = error.filename or "a file"
    return UserError(f"{where} could not be written ({error.strerror}); make space there and start again")


def flush(file: IO[Any]) -> None:
    """Write the file's data to the disk, so that a later rename never exposes half a file."""
    file.flush()
    os.fsync(file.fileno())


def flush_names(folder: Path) -> None:
    """Make renames in the folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_tree(folder: Path) -> None:
    """Write every file and name below the folder to the disk; call it before the folder itself is renamed."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(parent, name), "rb") as file:
                os.fsync(file.fileno())
        flush_names(Path(parent))
