"""Decoded images on disk, in partitions that later runs reuse, so that no image is decoded twice.

NAME.npy      ENTRY [N], every file of the partition
NAME.pixels   uint8 [n,C,H,W] without a header, the files that could be decoded

A partition is written to temporary files, flushed and renamed, its .npy last, so an existing partition is complete.
Its name is a hash of its keys: a task that a cluster runs twice writes the same files twice.
"""

import hashlib
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ddpm.data.preparing.decode_file import RECORD, Input, code_of, decode, decoder_fingerprint
from ddpm.data.preparing.picture_file import Reading
from ddpm.data.preparing.pixels import Target
from ddpm.data.preparing.reasons import SPECIAL_FILE, UNREADABLE
from ddpm.errors import UserError
from ddpm.files import flush

KEY = np.dtype("S16")
"""128-bit hash of a file's path and status; zeros for an input without a key, which is decoded every time."""
ENTRY = np.dtype([("key", KEY), ("record", RECORD)])
_DECODED_TOGETHER_BYTES = 8 << 20
_NOT_KEPT = (code_of(UNREADABLE), code_of(SPECIAL_FILE))
"""Reasons that may disappear without a change of the file."""
_PARTITIONS, _FEWEST_IMAGES, _MOST_IMAGES, _MOST_BYTES = 64, 64, 2048, 64 << 20


@dataclass(frozen=True)
class DecodeTask:
    """Files that become one partition."""

    folder: Path
    inputs: Sequence[Input]
    keys: np.ndarray
    target: Target
    reading: Reading
    decoder: str
    """decode_file.decoder_fingerprint() of the process that made the task."""


@dataclass(frozen=True)
class Located:
    """The positions of N files in the partitions."""

    names: list[str]
    """Names of the partitions."""
    partition: np.ndarray
    """int32 [N], index into names; -1: in no partition."""
    row: np.ndarray
    """int32 [N], index into the partition's entries."""


def file_key(path: str, name: str) -> bytes:
    """Return the key of the file at `path`: a hash of its `name` in the set, its size, inode and times (ns).

    A change in place to the same size within one tick of the file system's clock is not detected. Copying, moving or
    `chmod` changes the key, so the file is decoded again.
    """
    try:
        status = os.stat(path)
    except OSError:
        return b""
    facts = f"{name}\0{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
    return hashlib.blake2b(facts.encode("utf-8", "surrogateescape"), digest_size=KEY.itemsize).digest()


def decode_partition(task: DecodeTask) -> str:
    """Write the partition and return its name. Raises UserError if this process has another decoder."""
    if task.decoder != decoder_fingerprint():
        raise UserError(
            "a worker of the cluster at runtime.cluster has another version of this project or of Pillow, which may "
            "decode to other pixels; install the versions of this machine there"
        )
    name = hashlib.sha256(task.keys.tobytes() + uuid.uuid4().bytes * (b"" in task.keys)).hexdigest()[:32]
    entries = np.empty(len(task.inputs), ENTRY)
    entries["key"] = task.keys
    step = max(1, _DECODED_TOGETHER_BYTES // task.target.bytes)
    aside = task.folder / f"{name}-{uuid.uuid4().hex}.part"
    with aside.open("wb") as file:
        for start in range(0, len(entries), step):
            part = slice(start, start + step)
            entries["record"][part], pixels = decode(task.inputs[part], task.target, task.reading)
            file.write(pixels.data)
        flush(file)
    put_partition(task.folder, name, aside, entries)
    return name


def images_per_partition(n: int, target: Target) -> int:
    """Return how many of n images one partition gets; results do not depend on it.

    Small partitions balance the workers and limit what the death of one loses; large ones keep the files few.
    """
    return max(1, min(max(n // _PARTITIONS, _FEWEST_IMAGES), _MOST_IMAGES, _MOST_BYTES // target.bytes))


def put_partition(folder: Path, name: str, pixels: Path, entries: np.ndarray) -> None:
    """Make the file `pixels` and its entries [N] the partition `name`."""
    os.replace(pixels, folder / f"{name}.pixels")
    with pixels.open("wb") as file:
        np.save(file, entries)
        flush(file)
    os.replace(pixels, folder / f"{name}.npy")


def locate(folder: Path, keys: np.ndarray, target: Target | None) -> Located:
    """Find the files with these keys (KEY [N]) in the folder's partitions; without a target pixels are not checked."""
    names: list[str] = []
    found, rows, partitions = [np.empty(0, KEY)], [np.empty(0, np.int32)], [np.empty(0, np.int32)]
    for path in sorted(folder.glob("*.npy")):
        entries = np.load(path)
        n_decoded = int((entries["record"]["reason"] == 0).sum())
        pixels = path.with_suffix(".pixels")
        if target is not None and (not pixels.exists() or pixels.stat().st_size != n_decoded * target.bytes):
            continue
        kept = np.flatnonzero((entries["key"] != b"") & ~np.isin(entries["record"]["reason"], _NOT_KEPT))
        found.append(entries["key"][kept])
        rows.append(kept.astype(np.int32))
        partitions.append(np.full(len(kept), len(names), np.int32))
        names.append(path.stem)
    return Located(names, *_matched(np.concatenate(found), np.concatenate(partitions), np.concatenate(rows), keys))


def _matched(
    found: np.ndarray, partitions: np.ndarray, rows: np.ndarray, keys: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return partition and row of every key, -1 where it is not found."""
    partition, row = np.full(len(keys), -1, np.int32), np.full(len(keys), -1, np.int32)
    if len(found):
        order = np.argsort(found, kind="stable")
        place = np.minimum(np.searchsorted(found, keys, sorter=order), len(found) - 1)
        hit = found[order[place]] == keys
        partition[hit], row[hit] = partitions[order[place[hit]]], rows[order[place[hit]]]
    return partition, row


def read_entries(folder: Path, located: Located) -> tuple[np.ndarray, np.ndarray]:
    """Return records [N] of RECORD (zeros for a file in no partition), and int32 [N], rows among the pixels."""
    records, pixel_rows = np.zeros(len(located.row), RECORD), np.full(len(located.row), -1, np.int32)
    records["label"] = -1
    for number, rows in by_partition(located.partition, len(located.names)):
        entries = np.load(folder / f"{located.names[number]}.npy")["record"]
        records[rows] = entries[located.row[rows]]
        pixel_rows[rows] = (np.cumsum(entries["reason"] == 0) - 1)[located.row[rows]]
    return records, pixel_rows


def by_partition(partition: np.ndarray, n: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (number, rows of its files) for each of the n partitions that is not empty."""
    order = np.argsort(partition, kind="stable")
    bounds = np.searchsorted(partition, np.arange(n + 1), sorter=order)
    for number in range(n):
        rows = order[bounds[number] : bounds[number + 1]]
        if len(rows):
            yield number, rows
