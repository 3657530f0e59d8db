"""Shards of an object store in a folder of this machine, shared by all its processes and bounded in bytes.

FOLDER/<sha256>.npy           a shard, whole when it was fetched; its time of modification is that of its last use
FOLDER/<sha256>.<bytes>.part  one that is being fetched and will have so many bytes, or was when its process died
FOLDER/locks/                 held while fetching
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
    """All files together stay below."""
    _whole: dict[str, tuple[int, int]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Device and inode of the files that were hashed here, by their sha256."""

    def fetched(self, url: str, *, sha256: str, n_bytes: int) -> Path:
        """The file of the shard, fetched unless it is here; the least recently used ones make room for it.

        It is hashed when it is fetched and when this object first uses it, and fetched again where it is damaged.
        Another process may drop it before it is opened; an open file stays readable.
        Raises UserError where the store does not give it whole, or the disk or the limit is too small.
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
            if not self._has(path, sha256):  # else whoever held the lock before has fetched it
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
        """Whether the file is there and whole; marks it as used."""
        if not mark_used(path):
            return False
        try:
            status = path.stat()
            file = (status.st_dev, status.st_ino)
            if self._whole.get(sha256) != file:
                if sha256_of(path) != sha256:
                    return False
                self._whole[sha256] = file
        except FileNotFoundError:  # dropped just now
            return False
        return True

    def _reserved(self, sha256: str, n_bytes: int) -> Path:
        """An empty .part file, for which there is room; waits while others fetch so much that there is none."""
        aside = self.folder / f"{sha256}.{n_bytes}.part"
        while True:
            with self._lock("room"):
                if self._has_room(n_bytes, own_lock=sha256[:2]):
                    aside.touch()
                    return aside
            time.sleep(_POLL_SECONDS)

    def _has_room(self, n_bytes: int, *, own_lock: str) -> bool:
        """Drops what it must, unless even that were not enough."""
        coming = 0
        for part in self.folder.glob("*.part"):
            if part.name[:2] == own_lock or self._is_free(part.name[:2]):  # nobody writes it any more
                part.unlink(missing_ok=True)
            else:
                coming += int(part.suffixes[-2][1:])
        if coming + n_bytes > self.limit_bytes:
            return False
        files = [(path.stat(), path) for path in self.folder.glob("*.npy")]  # only who holds this lock drops any
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
        """Held by one thread of one process at a time; the system frees it when that process dies."""
        folder = self.folder / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def mark_used(path: Path) -> bool:
    """The file's last use is now; False where there is none."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def download(url: str, target: Path, *, sha256: str) -> None:
    """Writes the object to the file; again, after a pause, where the network failed or the content has another hash.

    Raises UserError where the object is missing, refused, or still not whole after the last attempt.
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
        except Exception as error:  # every kind of store has errors of its own
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise UserError(
                    f"the disk of runtime.cache ({target.parent}) is full; lower runtime.cache_bytes or free some"
                ) from None
            reason = _one_line(error)
        if pause is None:
            raise UserError(
                f"{url} could not be read whole in {len(PAUSES) + 1} attempts ({reason}); see to the network, the "
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
        raise UserError(f"{url} is in no store that fsspec knows ({_one_line(error)}); correct data.store") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
