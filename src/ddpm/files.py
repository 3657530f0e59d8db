"""Write files atomically and durably: a reader never sees half a file, not even after a power failure."""

import errno
import json
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from ddpm.errors import UserError

_TROUBLES = {
    errno.ENOSPC: ("written", "make space there"),
    errno.EDQUOT: ("written", "make space there"),
    errno.EROFS: ("written", "mount that disk so that it can be written"),
    errno.EACCES: ("opened", "correct its permissions"),
}
"""By the number of an error: what was not possible, and what to do."""
_WRITTEN_IN_PART = re.compile(r"\d+ requested and \d+ written")
"""What NumPy says, without a number of the error, when a disk is full."""
_NUMBERED = re.compile(r"""\[Errno (\d+)\] [^:]*(?:: (?:'([^']+)'|"([^"]+)"))?""")
"""How Python writes an error of the system: its number and, in one of two quotes, its file."""
_SQLITE_FULL = "database or disk is full"


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


def disk_trouble(error: BaseException, *, below: Path | None = None) -> UserError | None:
    """Return a UserError for a full or read-only disk, or missing permissions; None for every other error.

    `below` is the folder in which the program works; it is named where the error names no file.
    """
    return _trouble(_number_of(error), getattr(error, "filename", None), below)


def disk_trouble_in(text: str, *, below: Path) -> UserError | None:
    """Return the UserError of `disk_trouble` for an error message of another program, which works in `below`."""
    if _SQLITE_FULL in text:
        return _trouble(errno.ENOSPC, None, below)
    found = (_trouble(int(each[1]), each[2] or each[3], below) for each in _NUMBERED.finditer(text))
    return next((trouble for trouble in found if trouble), None)


def _trouble(number: int, file: str | None, below: Path | None) -> UserError | None:
    if number not in _TROUBLES:
        return None
    done, remedy = _TROUBLES[number]
    unnamed = f"a file below {below.absolute()}, or a temporary one," if below else "a file"
    return UserError(f"{file or unnamed} could not be {done} ({os.strerror(number)}); {remedy} and start again")


def _number_of(error: BaseException) -> int:
    """Return the system's number of an error that NumPy or safetensors may have raised without it; 0 if unknown."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if isinstance(error, OSError) and _WRITTEN_IN_PART.fullmatch(str(error)):
        return errno.ENOSPC
    return next((number for number in _TROUBLES if f"(os error {number})" in str(error)), 0)


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
