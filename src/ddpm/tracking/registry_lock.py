"""One change of a registry at a time on this machine, and a note of the one that was cut off.

MLflow has no compare-and-set for an alias. The lock of a database file lies beside it; that of a server in a folder of
this user alone (`XDG_STATE_HOME`, else `~/.local/state`), under a name that does not depend on how the address is
spelled. Nothing is opened through a link and nothing that was there is emptied.
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
    """What the command under the lock has begun and not yet seen the end of, as values that JSON can hold.

    It outlives the process: only who gave a command can tell whether an answer to it arrived.
    """

    def __init__(self, file: int) -> None:
        self._file = file

    def read(self) -> dict[str, Any]:
        """Empty where nothing was cut off."""
        try:
            found = json.loads(os.pread(self._file, _MAX_NOTE_BYTES, 0) or b"{}")
        except ValueError:  # a write that a power cut tore; the registry itself knows enough to go on
            return {}
        return found if isinstance(found, dict) else {}

    def write(self, values: dict[str, Any]) -> None:
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps(values).encode() if values else b"", 0)
        os.fsync(self._file)


@contextmanager
def alone() -> Iterator[Note]:
    """Waits until no other process of this machine changes the registry. Raises UserError where it cannot be locked."""
    path = lock_path(tracking_uri())
    try:
        file = _open(path)
    except OSError as error:
        link = error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK)
        reason = "a link stands where the lock belongs" if link else error.strerror
        raise UserError(
            f"the registry could not be locked by {path} ({reason}); remove what is in the way, or, for a server, "
            "name a folder that is yours alone in XDG_STATE_HOME"
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield Note(file)
    finally:
        os.close(file)


def lock_path(uri: str) -> Path:
    """The lock of the store at `uri`: the same for every spelling of its address."""
    database = _database_file(uri)
    if database is not None:
        return database.parent / ".state" / "registry.lock"
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    store = hashlib.sha256(store_address(uri).encode()).hexdigest()[:16]
    return Path(home) / "ddpm" / f"registry-{store}.lock"


def store_address(uri: str) -> str:
    """What tells one server from another: its kind, machine, port and path; not who asks, nor how it is spelled."""
    parts = urlsplit(uri)
    scheme = parts.scheme.lower().partition("+")[0]
    scheme = _SAME_DIALECT.get(scheme, scheme)
    told = parse_qs(parts.query) if scheme not in ("http", "https") else {}
    host = (parts.hostname or told.get("host", ["localhost"])[0]).rstrip(".").lower()
    if host in ("127.0.0.1", "::1"):
        host = "localhost"
    port = parts.port or told.get("port", [_PORTS.get(scheme, "")])[0]
    path = "/".join(word for word in parts.path.split("/") if word)
    return f"{scheme}://{host}:{port}/{path}"


def _database_file(uri: str) -> Path | None:
    """The file of an SQLite database, without links on the way; None for a store of another kind."""
    scheme, _, rest = uri.partition(":")
    if scheme.lower().partition("+")[0] != "sqlite":
        return None
    path = rest.partition("?")[0].removeprefix("///").removeprefix("file:")
    return Path(path).resolve()


def _open(path: Path) -> int:
    """The lock file, made where there is none. Raises OSError where it or its folder is a link or another user's."""
    shared = path.parent.name == ".state"  # beside a database, which several users may share
    path.parent.mkdir(mode=0o777 if shared else 0o700, parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        there = os.fstat(folder)
        if not shared and (there.st_uid != os.geteuid() or there.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
            raise PermissionError(errno.EACCES, "others may write to its folder")
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        file = os.open(path.name, flags, 0o666 if shared else 0o600, dir_fd=folder)
    finally:
        os.close(folder)
    made = os.fstat(file)
    if stat.S_ISREG(made.st_mode) and made.st_nlink == 1:
        return file
    os.close(file)
    if made.st_nlink > 1:
        raise OSError(errno.EMLINK, "another file's name")
    raise PermissionError(errno.EACCES, "it is no ordinary file")
