"""A lock that allows one change of a registry at a time on this machine, with a note of an interrupted change.

The lock is needed because MLflow has no compare-and-set for an alias. For a database file it is a file beside the
database. For a server it is a file in a folder that belongs to this user alone (`XDG_STATE_HOME`, else
`~/.local/state`), and its name is the same for every spelling of the address. The lock file is never opened through a
link, and an existing file is never truncated on opening.
"""

import errno
import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ddpm.errors import UserError
from ddpm.tracking.store import tracking_uri

_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
_SAME_DIALECT = {"postgres": "postgresql", "mariadb": "mysql"}
_MAX_NOTE_BYTES = 1 << 16


class Note:
    """The move that the command under the lock has begun and not finished, as values that JSON can hold.

    It is stored in the lock file and so survives the process: only this machine knows whether the answer to its command
    arrived.
    """

    def __init__(self, file: int) -> None:
        self._file = file

    def read(self) -> dict[str, Any]:
        """Return the note; it is empty if nothing was interrupted."""
        try:
            found = json.loads(os.pread(self._file, _MAX_NOTE_BYTES, 0) or b"{}")
        except ValueError:  # half written at a power cut; the registry itself has what `resume` needs
            return {}
        return found if isinstance(found, dict) else {}

    def write(self, values: dict[str, Any]) -> None:
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps(values).encode() if values else b"", 0)
        os.fsync(self._file)


@contextmanager
def alone() -> Iterator[Note]:
    """Wait for the registry's lock and keep it within the block. Raise UserError if the lock file cannot be opened."""
    path = lock_path(tracking_uri())
    try:
        file = _open(path)
    except OSError as error:
        link = error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK)
        reason = "there is a link" if link else error.strerror
        raise UserError(
            f"the registry could not be locked with {path} ({reason}); remove that file or link, or, for a server, "
            "set XDG_STATE_HOME to a folder that only you can write to"
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield Note(file)
    finally:
        os.close(file)


def lock_path(uri: str) -> Path:
    """Return the path of the store's lock file, which is the same for every spelling of the address."""
    database = _database_file(uri)
    if database is not None:
        return database.parent / ".state" / "registry.lock"
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    store = hashlib.sha256(store_address(uri).encode()).hexdigest()[:16]
    return Path(home) / "ddpm" / f"registry-{store}.lock"


def store_address(uri: str) -> str:
    """Return kind, host, port and path of a server in one spelling, without the user."""
    parts = urlsplit(uri)
    scheme = parts.scheme.lower().partition("+")[0]
    scheme = _SAME_DIALECT.get(scheme, scheme)
    query = parse_qs(parts.query) if scheme not in ("http", "https") else {}
    host = (parts.hostname or query.get("host", ["localhost"])[0]).rstrip(".").lower()
    if host in ("127.0.0.1", "::1"):
        host = "localhost"
    port = parts.port or query.get("port", [_PORTS.get(scheme, "")])[0]
    path = "/".join(word for word in parts.path.split("/") if word)
    return f"{scheme}://{host}:{port}/{path}"


def _database_file(uri: str) -> Path | None:
    """Return the file of an SQLite database with links resolved; None for a store of another kind."""
    scheme, _, rest = uri.partition(":")
    if scheme.lower().partition("+")[0] != "sqlite":
        return None
    path = rest.partition("?")[0].removeprefix("///").removeprefix("file:")
    return Path(path).resolve()


def _open(path: Path) -> int:
    """Open the lock file and create it if it is missing. Raise OSError if it or its folder is a link or unsafe."""
    shared = path.parent.name == ".state"  # beside a database, which several users may share
    path.parent.mkdir(mode=0o777 if shared else 0o700, parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        there = os.fstat(folder)
        if not shared and (there.st_uid != os.geteuid() or there.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
            raise PermissionError(errno.EACCES, "its folder belongs to another user, or others may write to it")
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        file = os.open(path.name, flags, 0o666 if shared else 0o600, dir_fd=folder)
    finally:
        os.close(folder)
    made = os.fstat(file)
    if stat.S_ISREG(made.st_mode) and made.st_nlink == 1:
        return file
    os.close(file)
    if made.st_nlink > 1:
        raise OSError(errno.EMLINK, "the file has several names (hard links)")
    raise PermissionError(errno.EACCES, "it is not a regular file")
