"""Decode all files of a source, each once; later runs reuse the decoded images."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ddpm.compute.executors import Crew, Pieces
from ddpm.data.preparing.decode_file import Input, code_of, decoder_fingerprint, read_headers
from ddpm.data.preparing.partitions import (
    KEY,
    DecodeTask,
    Located,
    decode_partition,
    file_key,
    images_per_partition,
    locate,
    read_entries,
)
from ddpm.data.preparing.picture_file import NO_HEADER, Reading
from ddpm.data.preparing.pixels import Target
from ddpm.data.preparing.prepared_shape import ChooseSize, is_set, look, target_of
from ddpm.data.preparing.settings import Data
from ddpm.data.preparing.sources import Found
from ddpm.errors import UserError

_HEADERS_TOGETHER = 1024


@dataclass(frozen=True)
class Decoded:
    """The N files of a source after decoding."""

    target: Target
    folder: Path
    """Folder of the partitions."""
    located: Located
    keys: np.ndarray
    """partitions.KEY [N]."""
    records: np.ndarray
    """decode_file.RECORD [N]; `reason` says why a file was not decoded."""
    pixel_rows: np.ndarray
    """int32 [N], the row among the partition's pixels; -1: not decoded."""


def decode_all(
    data: Data, found: Found, *, root: Path, raw: Path, crew: Crew, progress: bool, choose_size: ChooseSize
) -> Decoded:
    """Decode the files that no partition under `root` contains. Raises UserError as `target_of` and `Crew.run` do."""
    usable = np.flatnonzero([reason is None for reason in found.reasons])
    keys = np.zeros(len(found.paths), KEY)
    if found.kind == "files":
        keys[usable] = np.fromiter(
            (file_key(str(found.inputs[row]), found.paths[row]) for row in usable.tolist()), KEY, len(usable)
        )
    facts = f"{decoder_fingerprint()} {_reading(data)} {raw.resolve()}"
    folder = root / hashlib.sha256(facts.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    job = _Job(data, found, folder, keys, crew, progress)
    sides, headers = job.known_headers()
    if is_set(data):
        return job.decode(target_of(data, sides, headers, choose_size), usable)
    unknown = usable[headers[usable] == NO_HEADER]
    target = look(data, sides, headers, unknown, read=job.read_headers, choose_size=choose_size)
    while True:
        decoded = job.decode(target, usable)
        sides = np.minimum(decoded.records["width"], decoded.records["height"])
        target_of_all = target_of(data, sides, decoded.records["header"], choose_size)
        if target_of_all == target:
            return decoded
        target = target_of_all


@dataclass(frozen=True)
class _Job:
    data: Data
    found: Found
    folder: Path
    """Contains one folder of partitions per target."""
    keys: np.ndarray
    crew: Crew
    progress: bool

    def known_headers(self) -> tuple[np.ndarray, np.ndarray]:
        """Return int32 [N] shorter sides and uint8 [N] headers that earlier runs read, for any target."""
        sides, headers = np.zeros(len(self.keys), np.int32), np.zeros(len(self.keys), np.uint8)
        for folder in sorted(self.folder.glob("*/")):
            located = locate(folder, self.keys, None)
            records, _ = read_entries(folder, located)
            seen = records["header"] != NO_HEADER
            sides[seen] = np.minimum(records["width"], records["height"])[seen]
            headers[seen] = records["header"][seen]
        return sides, headers

    def read_headers(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sides, headers = np.zeros(len(rows), np.int32), np.zeros(len(rows), np.uint8)
        parts = [slice(start, start + _HEADERS_TOGETHER) for start in range(0, len(rows), _HEADERS_TOGETHER)]
        pieces = Pieces(len(parts), lambda k: self._inputs(rows[parts[k]]))
        function = partial(read_headers, reading=_reading(self.data))
        for k, (some_sides, some_headers) in self._run(function, pieces, "look", [len(rows[part]) for part in parts]):
            sides[parts[k]], headers[parts[k]] = some_sides, some_headers
        return sides, headers

    def decode(self, target: Target, usable: np.ndarray) -> Decoded:
        folder = self.folder / f"{target.size}x{target.size}x{target.channels}-{target.fit}"
        folder.mkdir(parents=True, exist_ok=True)
        for torn in folder.glob("*.part"):
            torn.unlink()
        located = locate(folder, self.keys, target)
        missing = usable[located.partition[usable] < 0]
        step = images_per_partition(len(missing), target)
        parts = [missing[start : start + step] for start in range(0, len(missing), step)]

        def task(k: int) -> DecodeTask:
            rows = parts[k]
            return DecodeTask(
                folder=folder.resolve(),
                inputs=self._inputs(rows),
                keys=self.keys[rows],
                target=target,
                reading=_reading(self.data),
                decoder=decoder_fingerprint(),
            )

        names = list(located.names)
        for k, name in self._run(decode_partition, Pieces(len(parts), task), "decode", [len(rows) for rows in parts]):
            if not (folder / f"{name}.npy").exists():
                raise UserError(
                    f"a worker of the cluster at runtime.cluster wrote a partition that is not in {folder}; "
                    "put the project's folder on a disk that all machines share"
                )
            located.partition[parts[k]], located.row[parts[k]] = len(names), np.arange(len(parts[k]))
            names.append(name)
        located = Located(names, located.partition, located.row)
        records, pixel_rows = read_entries(folder, located)
        outside = np.setdiff1d(np.arange(len(records)), usable, assume_unique=True)
        records["reason"][outside] = [code_of(self.found.reasons[row]) for row in outside]
        pixel_rows[records["reason"] != 0] = -1
        return Decoded(target, folder.resolve(), located, self.keys, records, pixel_rows)

    def _inputs(self, rows: np.ndarray) -> list[Input]:
        """Return the inputs with absolute paths: a worker may have been started in another folder."""
        inputs = (self.found.inputs[row] for row in rows)
        return [os.path.abspath(item) if isinstance(item, str) else item for item in inputs]

    def _run(
        self, function: Callable[[Any], Any], pieces: Sequence[Any], what: str, sizes: list[int]
    ) -> Iterator[tuple[int, Any]]:
        with tqdm(total=sum(sizes), desc=what, unit="image", disable=not self.progress, mininterval=0.5) as bar:
            for place, result in self.crew.run(function, pieces):
                bar.update(sizes[place])
                yield place, result


def _reading(data: Data) -> Reading:
    return Reading(max_pixels=data.max_pixels, max_bytes=data.max_picture_bytes, white=data.white)
