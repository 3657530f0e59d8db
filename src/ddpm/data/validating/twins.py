"""Find images of test whose prepared pixels a training image has, by their whole digests.

Test digests are sorted in memory, at most TOGETHER at a time: of more, each pass over the manifest compares those in
one range of values. The training digests are never in memory together.
"""

import heapq
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ddpm.compute.executors import Crew, in_order
from ddpm.data import manifest
from ddpm.data.validating.rules import NAMED_ROWS
from ddpm.errors import UserError

TOGETHER = 1_000_000
"""Test digests in memory at a time; about 150 bytes each while they are sorted."""
_NOT_IN_TRAIN = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Twins:
    images: int
    """Number of images of test whose pixels are in train."""
    first: list[tuple[str, str]]
    """Paths of the first NAMED_ROWS such images, each with that of the first training image with its pixels."""


@dataclass(frozen=True)
class _Range:
    """The digests of a split in one part whose beginnings are in one of `ranges` equal ranges of values."""

    part: Path
    split: Literal["train", "test"]
    number: int
    ranges: int
    sought: Path | None = None
    """File of sorted digests, of which those in the part are sought."""


def find_twins(prepared: Path, *, test: int, crew: Crew, scratch: Path) -> Twins:
    """Return the images of test that are also in train. `scratch` is a folder that all workers of the crew see.

    `test` is the number of images in test. Raises UserError if the manifest is damaged.
    """
    parts = [part.resolve() for part in manifest.parts(prepared)]
    starts = np.cumsum([0, *(manifest.rows_of(part) for part in parts)])
    ranges = max(1, -(-test // TOGETHER))
    images = 0
    pairs: list[tuple[int, int]] = []
    for number in range(ranges):
        tasks = [_Range(part, "test", number, ranges) for part in parts]
        found = list(in_order(crew.run(_digests, tasks)))
        rows = np.concatenate([start + own for start, (own, _) in zip(starts, found, strict=False)])
        digests = np.concatenate([digest for _, digest in found])
        del found
        order = np.argsort(digests, kind="stable")
        rows, digests = rows[order], digests[order]
        sought = scratch / f"test-{number}.npy"
        np.save(sought, digests)
        train = np.full(len(digests), _NOT_IN_TRAIN)
        tasks = [_Range(part, "train", number, ranges, sought.resolve()) for part in parts]
        for part, (places, own) in crew.run(_sought, tasks) if len(digests) else ():
            train[places] = np.minimum(train[places], starts[part] + own)
        sought.unlink()
        train = train[np.searchsorted(digests, digests)]  # equal digests of test
        hits = np.flatnonzero(train != _NOT_IN_TRAIN)
        images += len(hits)
        first = hits[np.argsort(rows[hits])[:NAMED_ROWS]]
        pairs += zip(rows[first].tolist(), train[first].tolist(), strict=True)
    chosen = heapq.nsmallest(NAMED_ROWS, pairs)
    paths = manifest.rows_at(prepared, np.array(chosen, np.int64).ravel(), ["path"])["path"].to_pylist()
    return Twins(images, list(zip(paths[::2], paths[1::2], strict=True)))


def _digests(task: _Range) -> tuple[np.ndarray, np.ndarray]:
    """Return the row in the part, int64 [n], and the digest of the pixels, S32 [n], of each image in the range."""
    import pyarrow.compute as pc

    table = manifest.read_part(task.part, ["split", "status", "pixel_sha256"])
    own = pc.and_(pc.equal(table["status"], "kept"), pc.equal(table["split"], task.split))
    rows = np.flatnonzero(pc.and_(own, pc.is_valid(table["pixel_sha256"])).fill_null(False).to_numpy())
    hexadecimal = table["pixel_sha256"].take(rows).to_pylist()
    try:
        digests = np.frombuffer(bytes.fromhex("".join(hexadecimal)), np.uint8).reshape(len(rows), 32)
    except ValueError:
        raise UserError(
            f"{task.part} has a pixel_sha256 that is no sha256 in hexadecimal digits; {manifest.PREPARE_AGAIN}"
        ) from None
    beginnings = np.ascontiguousarray(digests[:, :4]).view(">u4").ravel().astype(np.uint64)
    inside = beginnings * np.uint64(task.ranges) >> np.uint64(32) == task.number
    return rows[inside], np.ascontiguousarray(digests[inside]).view("S32").ravel()


def _sought(task: _Range) -> tuple[np.ndarray, np.ndarray]:
    """Return which of the wanted digests are in the part: their positions, each once, and the first row of each."""
    assert task.sought is not None
    sought = np.load(task.sought, mmap_mode="r")
    rows, digests = _digests(task)
    places = np.minimum(np.searchsorted(sought, digests), len(sought) - 1)
    hit = sought[places] == digests
    unique, first = np.unique(places[hit], return_index=True)
    return unique, rows[hit][first]
