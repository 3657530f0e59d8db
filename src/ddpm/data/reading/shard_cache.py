"""A local cache of shards of an object store, shared by all processes of the machine and limited in bytes.

FOLDER/<sha256>.npy           a shard that was complete when it was fetched; its modification time is its last use
FOLDER/<sha256>.<bytes>.part  a shard of <bytes> bytes that is being fetched, or was when its process died
FOLDER/locks/                 lock files, locked while fetching
"""

import errno
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddpm.data.reading.shard_index import sha256_of
from ddpm.errors import UserError
from ddpm.files import flush_names

PAUSES = (0.5, 2.0, 8.0)
"""Seconds before the second, third and last attempt to read from a store."""
_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class ShardCache:
    folder: Path
    limit_bytes: int
    """Upper limit for the size of all files together."""
    _whole: dict[str, tuple[int, int]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Device and inode of the files that this object has hashed, by their sha256."""

    def fetched(self, url: str, *, sha256: str, n_bytes: int) -> Path:
        """Return the shard's file; fetch it if it is missing, and delete the least recently used shards to make room.

        The file is hashed when it is fetched and when this object first uses it; a damaged file is fetched again.
        Another process may delete it before it is opened; an open file stays readable.
        Raises UserError if the store does not deliver it completely, or if the disk or the limit is too small.
        """
        path = self.folder / f"{sha256}.npy"
        if self._has(path, sha256):
            return path
        if n_bytes > self.limit_bytes:
            raise UserError(
                f"runtime.cache_bytes is {self.limit_bytes}, but one shard has {n_bytes} bytes; raise it, or prepare "
                "the data with a smaller data.shard_bytes"
            )
        with self._lock(sha256[:2]):
            if not self._has(path, sha256):  # another process may have fetched it while this one waited for the lock
                if path.exists():
                    print(f"{path} was damaged and is fetched again from {url}", file=sys.stderr)
                    path.unlink(missing_ok=True)
                aside = self._reserved(sha256, n_bytes)
                try:
                    download(url, aside, sha256=sha256)
                    status = aside.stat()
                    os.replace(aside, path)
                    flush_names(self.folder)
                finally:
                    aside.unlink(missing_ok=True)
                self._whole[sha256] = (status.st_dev, status.st_ino)
        return path

    def _has(self, path: Path, sha256: str) -> bool:
        """Return whether the file exists and is undamaged; mark it as used."""
        if not mark_used(path):
            return False
        try:
            status = path.stat()
            file = (status.st_dev, status.st_ino)
            if self._whole.get(sha256) != file:
                if sha256_of(path) != sha256:
                    return False
                self._whole[sha256] = file
        except FileNotFoundError:  # another process has just deleted it
            return False
        return True

    def _reserved(self, sha256: str, n_bytes: int) -> Path:
        """Return an empty .part file for which there is room; wait while other fetches need the room."""
        aside = self.folder / f"{sha256}.{n_bytes}.part"
        while True:
            with self._lock("room"):
                if self._has_room(n_bytes, own_lock=sha256[:2]):
                    aside.touch()
                    return aside
            time.sleep(_POLL_SECONDS)

    def _has_room(self, n_bytes: int, *, own_lock: str) -> bool:
        """Return whether there is room; delete the least recently used shards for it only if that is enough."""
        coming = 0
        for part in self.folder.glob("*.part"):
            if part.name[:2] == own_lock or self._is_free(part.name[:2]):  # its process has died
                part.unlink(missing_ok=True)
            else:
                coming += int(part.suffixes[-2][1:])
        if coming + n_bytes > self.limit_bytes:
            return False
        files = [(path.stat(), path) for path in self.folder.glob("*.npy")]  # only the owner of the room lock deletes
        total = coming + sum(stat.st_size for stat, _ in files)
        for stat, path in sorted(files, key=lambda file: file[0].st_mtime_ns):
            if total + n_bytes <= self.limit_bytes:
                break
            path.unlink()
            total -= stat.st_size
        return True

    def _is_free(self, name: str) -> bool:
        with (self.folder / "locks" / name).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        """Lock `name` for one thread of one process; the system releases the lock when the process dies."""
        folder = self.folder / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def mark_used(path: Path) -> bool:
    """Set the file's last use to now. Return False if there is no such file."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def download(url: str, target: Path, *, sha256: str) -> None:
    """Write the object to the file; retry after a pause if the network fails or the content has another hash.

    Raises UserError if the object is missing, if access is denied, or if the last attempt fails.
    """
    store, key = _open_store(url)
    for pause in (*PAUSES, None):
        try:
            store.get_file(key, str(target))
            found = sha256_of(target)
            if found == sha256:
                with target.open("rb") as file:
                    os.fsync(file.fileno())
                return
            reason = f"its sha256 is {found[:12]}…, expected {sha256[:12]}…"
        except FileNotFoundError:
            raise UserError(
                f"{url} was not found, though the data's index names it; upload it again with `dvc repro -f prepare`"
            ) from None
        except PermissionError as error:
            raise UserError(f"{url} may not be read ({_one_line(error)}); set the store's credentials") from None
        except Exception as error:  # every kind of store has its own errors
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise UserError(
                    f"the disk of runtime.cache ({target.parent}) is full; lower runtime.cache_bytes or free some space"
                ) from None
            reason = _one_line(error)
        if pause is None:
            raise UserError(
                f"{url} could not be read completely in {len(PAUSES) + 1} attempts ({reason}); check the network, the "
                "store and its credentials, or upload the data again with `dvc repro -f prepare`"
            )
        time.sleep(pause)


def _open_store(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(url)
    except ImportError as error:
        extra = "pip install 'ddpm-factory[s3]'" if url.startswith("s3:") else "install it"
        raise UserError(f"{url} needs a package that is missing ({_one_line(error)}): {extra}") from None
    except ValueError as error:
        raise UserError(f"{url} names no store that fsspec knows ({_one_line(error)}); correct data.store") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
