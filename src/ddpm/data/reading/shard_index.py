"""Shards of a split's samples, images or latents, as plain .npy files, and the index that lists them.

shards.json       {"store": null or a URL, "shards": [{"name", "images", "sha256"}, …]}, in the order of the images
shard-00000.npy   [n,C,H,W], uint8 of images, float16 of latents; beside the index, or STORE/<sha256>.npy in a store

An object is named by the sha256 of its content, so preparing again uploads only changed or damaged shards, and the
index of an older revision stays valid.
"""

import hashlib
import json
import os
import shlex
import shutil
import stat
import sys
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from ddpm.errors import UserError
from ddpm.files import flush, flush_names, write_json

INDEX = "shards.json"
IMAGES = np.dtype(np.uint8)
LATENTS = np.dtype(np.float16)


@dataclass(frozen=True)
class Shard:
    name: str
    """Name of the file beside the index."""
    images: int
    """Number of images."""
    sha256: str
    """Hexadecimal sha256 of the whole file, header included."""


@dataclass(frozen=True)
class Index:
    """The shards of one split, in the order of its images."""

    store: str | None
    """An fsspec URL such as s3://bucket/prefix; None if the shards are beside the index."""
    shards: tuple[Shard, ...]

    @property
    def images(self) -> int:
        """Number of images in all shards."""
        return sum(shard.images for shard in self.shards)

    def location(self, folder: Path, shard: Shard) -> str:
        """Return the path or the store's URL of the shard of the split in `folder`."""
        return str(folder / shard.name) if self.store is None else _object_url(self.store, shard.sha256)


def read_index(folder: Path) -> Index:
    """Read the index of the split in `folder`. Raises UserError if it is missing or malformed."""
    path = folder / INDEX
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        return Index(read["store"], tuple(Shard(**shard) for shard in read["shards"]))
    except FileNotFoundError:
        raise UserError(f"{path} was not found; create it with `dvc repro prepare`") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is not an index of shards; create it with `dvc repro --force prepare`") from None


def write_index(folder: Path, index: Index) -> None:
    write_json(folder / INDEX, asdict(index))


def write_shard(
    folder: Path,
    number: int,
    images: Iterable[np.ndarray],
    *,
    n: int,
    shape: tuple[int, int, int],
    store: str | None,
    dtype: np.dtype = IMAGES,
) -> Shard:
    """Write shard `number` of the split in `folder` from pieces [m,C,H,W] of this dtype, together [n, *shape].

    With a `store` the shard is uploaded and the local file removed. The file is written without a memory map, since
    pages of a writable map count as memory of this process until they are on disk.
    Raises UserError if the store rejects the shard.
    """
    path = folder / f"shard-{number:05d}.npy"
    hashed = hashlib.sha256()
    written = 0
    with path.open("wb") as file:
        header = _header((n, *shape), dtype)
        file.write(header)
        hashed.update(header)
        for piece in images:
            assert (piece.dtype, piece.shape[1:]) == (dtype, shape), (piece.dtype, piece.shape)
            data = np.ascontiguousarray(piece).data
            file.write(data)
            hashed.update(data)
            written += len(piece)
        if store is None:
            flush(file)
    assert written == n, f"{written} of {n} images were written"
    shard = Shard(path.name, n, hashed.hexdigest())
    if store is not None:
        _upload(path, _object_url(store, shard.sha256), sha256=shard.sha256)
        path.unlink()
    return shard


def require_whole(path: Path, shard: Shard) -> None:
    """Hash the shard's file. Raises UserError, which says how to repair it, if it is missing or damaged."""
    try:
        found = sha256_of(path)
    except FileNotFoundError:
        raise UserError(f"{path} was not found; {made_again(path)}") from None
    if found != shard.sha256:
        raise UserError(
            f"{path} is damaged (its sha256 is {found[:12]}…, expected {shard.sha256[:12]}…); {made_again(path)}"
        )


def made_again(path: Path) -> str:
    """Return the sentence with the command that makes this file again.

    A read-only file is DVC's link to an object of its cache. DVC would restore the damaged object unless it looks
    changed, so the command makes it writable and touches it.
    """
    by = "dvc repro -f prepare"
    if path.exists() and not path.stat().st_mode & stat.S_IWUSR:
        name = shlex.quote(str(path))
        by = f"chmod u+w {name} && touch {name} && {by}"
    return f"make it again with `{by}`"


def sha256_of(path: Path) -> str:
    """Return the hexadecimal sha256 of the whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def images_per_shard(shape: tuple[int, int, int], shard_bytes: int) -> int:
    """Return how many images of `shape` [C,H,W] fit in a file of `shard_bytes`; at least one."""
    return max(1, (shard_bytes - len(_header((1 << 40, *shape), IMAGES))) // int(np.prod(shape)))


def _header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    buffer = BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype.str, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def _object_url(store: str, sha256: str) -> str:
    return f"{store.rstrip('/')}/{sha256}.npy"


def _upload(file: Path, url: str, *, sha256: str) -> None:
    """Upload the file unless the object exists with this content, which is read, since equal sizes prove nothing."""
    from fsspec.core import url_to_fs
    from fsspec.implementations.local import LocalFileSystem

    try:
        store, key = url_to_fs(url)
        if store.exists(key):
            if _content(store, key) == sha256:
                return
            print(f"{url} was damaged and is uploaded again", file=sys.stderr)
        if isinstance(store, LocalFileSystem):
            _copy(file, Path(key))
        else:
            store.put_file(str(file), key)
    except Exception as error:  # every kind of store has its own errors
        sentence = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"a shard could not be written to {url} ({sentence}); correct data.store, its credentials or the network"
        ) from None


def _content(store: Any, key: str) -> str:
    """Return the hexadecimal sha256 of the object."""
    with store.open(key, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copy(file: Path, target: Path) -> None:
    """Copy the file atomically, as a store does it, to a store that is a local folder; create the folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")
    try:
        with file.open("rb") as source, aside.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
            flush(copy)
        os.replace(aside, target)
        flush_names(target.parent)
    finally:
        aside.unlink(missing_ok=True)
