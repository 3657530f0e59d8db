"""List the files in the folder of images, and find entries that cannot be data before anything is opened.

DVC hashes plain files, targets of links to files, and the files of a root folder that is a link. It does not follow a
link to a folder inside, so it would not notice changes behind it. It blocks forever on a pipe and on an endless device,
and fails at a socket, a broken link and a name that is not UTF-8.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

from ddpm.errors import UserError, on_one_line

_LINKED_FOLDER = "a link to a folder"
_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
_IGNORED_BY_DVC = {".git", ".hg", ".dvc"}
_NAMED = 5


def files(folder: Path, *, called: str = "data.path") -> list[str]:
    """Return relative paths, with "/", of all files in `folder`, in no order. Nothing is opened, so no pipe blocks.

    Raises UserError that names the entries that cannot be data, or a folder that cannot be read; `called` is the name
    of the folder in it.
    """
    found, unfit = [], []
    for name, kind in _entries(folder):
        if kind is None:
            found.append(name)
        else:
            unfit.append(f"{name} ({kind})")
    _refuse(folder, unfit, called=called)
    return found


@dataclass(frozen=True)
class Trace:
    """What the file system says about a file, or about all files of a folder: equal traces, equal content."""

    digest: int
    newest: str
    """Path of the file that was changed last."""


def trace(path: Path) -> Trace:
    """Return the trace of a file or folder: of names, sizes, inodes, and times of the last change. Nothing is opened.

    The memory does not depend on the number of files.
    """
    names = (name for name, kind in _entries(path) if kind is None) if path.is_dir() else iter([""])
    digest, newest, last = 0, path, 0
    for name in names:
        with suppress(FileNotFoundError):  # a file that is removed meanwhile is missing in the trace
            status = os.stat(path / name)
            facts = f"{name}\0{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
            one = hashlib.blake2b(facts.encode("utf-8", "surrogateescape"), digest_size=16).digest()
            digest = (digest + int.from_bytes(one, "big")) % (1 << 128)
            if status.st_ctime_ns >= last:
                newest, last = path / name, status.st_ctime_ns
    return Trace(digest, str(newest))


def require_unchanged(path: Path, before: Trace) -> None:
    """Raise UserError if a file was changed, added or removed since `before`.

    DVC compares the data when a stage has ended, so it would record what was changed meanwhile as read.
    """
    now = trace(path)
    if now != before:
        raise UserError(
            f"{path} changed while it was read (the newest file is {on_one_line(now.newest)}), so a part of it was not "
            "read as it is now; start again when nothing writes there"
        )


def require_readable(path: Path, *, source: str) -> None:
    """Raise UserError unless data.path is a file, or a folder that contains only files and folders that DVC hashes.

    Links to folders are allowed if `source` (data.source) is digits, whose images do not come from there.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise UserError(
            f"data.path is {path}, which was not found; put your images there, or correct data.path"
        ) from None
    except OSError as error:
        raise UserError(f"data.path is {path}, which cannot be read ({error.strerror}); correct it") from None
    if stat.S_ISDIR(mode):
        harmless = {None, _LINKED_FOLDER} if source in ("digits", "digit_pairs") else {None}
        _refuse(path, [f"{name} ({kind})" for name, kind in _entries(path) if kind not in harmless])
    elif not stat.S_ISREG(mode):
        raise UserError(f"data.path is {path}, {_kind(mode)}; give a folder of images, or an archive")


def _refuse(folder: Path, unfit: list[str], *, called: str = "data.path") -> None:
    if not unfit:
        return
    more = f" and {len(unfit) - _NAMED} more" if len(unfit) > _NAMED else ""
    raise UserError(
        f"{called} is {folder}, in which {', '.join(unfit[:_NAMED])}{more} cannot be data, since DVC does not follow "
        "links to folders and blocks or fails at the other kinds; put files, folders or links to files there, "
        "with names in UTF-8"
    )


def _entries(folder: Path) -> Iterator[tuple[str, str | None]]:
    """Yield (relative path, None for a file, else its kind) of all entries but folders and hidden links to folders."""
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        with _scanned(os.path.join(folder, inside)) as entries:
            for entry in entries:
                name = f"{inside}/{entry.name}" if inside else entry.name
                if not _is_utf8(entry.name):
                    yield name, "a name that is not UTF-8"
                elif entry.name in _IGNORED_BY_DVC:
                    continue
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append(name)
                elif entry.is_file(follow_symlinks=False):
                    yield name, None
                elif (kind := _unless_file(entry)) != _LINKED_FOLDER or not _is_hidden(name):
                    yield name, kind


def _scanned(folder: str) -> AbstractContextManager[Iterator[os.DirEntry[str]]]:
    try:
        return os.scandir(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}); correct its permissions, or remove it") from None


def _unless_file(entry: os.DirEntry[str]) -> str | None:
    """Return the kind of a link's target or of a special file; None for a link to a file."""
    try:
        mode = entry.stat().st_mode
    except OSError:
        return "a link to nothing that can be read"
    if stat.S_ISREG(mode):
        return None
    return _LINKED_FOLDER if stat.S_ISDIR(mode) else _kind(mode)


def _kind(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), "no regular file")


def _is_hidden(name: str) -> bool:
    """Whether the path is hidden, so that it is ignored anyway (layout.ignored_as)."""
    return name.startswith(".") or "/." in name


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
