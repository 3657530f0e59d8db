"""The pictures that come in: which of them are new, and what they look like as prepared images.

A picture is new unless the prepared data have a file with the same bytes, kept or rejected. So pictures that were taken
into the data are never compared again.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ddpm.data import manifest
from ddpm.data.preparing import layout, tree
from ddpm.data.preparing.settings import Data
from ddpm.data.reading.dataset import Facts
from ddpm.errors import UserError
from ddpm.pipeline.settings import Retrain

_TOGETHER = 128
"""Pictures decoded at a time."""


@dataclass(frozen=True)
class NewFile:
    """A file that the prepared data do not have."""

    name: str
    """Path in the folder, with "/"."""
    sha256: str
    folder_class: str | None
    """The class that its folders say; None without one."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Some decoded pictures, and the files that are no pictures that can be used."""

    files: list[NewFile]
    """The files of the n pictures."""
    pixels: np.ndarray
    """uint8 [n,C,H,W]"""
    records: np.ndarray
    """data.preparing.decode_file.RECORD [n]"""
    rejected: list[tuple[NewFile, str]]
    """Files with the reason."""


def new_files(folder: Path, *, prepared: Path, classes: Sequence[str], called: str = "the folder") -> list[NewFile]:
    """Return the new files in a seeded random order, each content once; hidden files and text do not count.

    `classes` are the names of the classes of the data. The class of a file is the first of its folders with such a
    name, else its first folder. Raises UserError for a folder that is missing or has entries that cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"{called} is {folder}, expected a folder of pictures; create it, or name another one")
    names = [name for name in tree.files(folder, called=called) if layout.ignored_as(name) is None]
    by_content = {digest: name for name in sorted(names, reverse=True) if (digest := _sha256(folder / name))}
    known = _among(prepared, set(by_content))
    return [
        NewFile(name, digest, _class_of(name, classes))
        for digest, name in sorted(by_content.items())  # the order of hashes is random, and the same for the same files
        if digest not in known
    ]


def require_enough(count: int, settings: Retrain, folder: Path) -> None:
    """Raise UserError unless there are as many pictures as are compared at least."""
    if count < settings.least_images:
        raise UserError(
            f"{folder} has {count} new pictures that can be used, expected retrain.least_images "
            f"({settings.least_images}) or more; wait for more pictures, or lower it"
        )


def question(files: Sequence[NewFile], facts: Facts, extractor: Path, settings: Retrain) -> str:
    """Return a hash of all on which the answer depends: the same question has the same answer."""
    asked = [facts.content_hash, hashlib.sha256(extractor.read_bytes()).hexdigest(), asdict(settings)]
    return hashlib.sha256(json.dumps([asked, [file.sha256 for file in files]]).encode()).hexdigest()


def decoded(
    files: Sequence[NewFile], *, folder: Path, size: int, channels: int, data: Data, most: int
) -> Iterator[Batch]:
    """Yield the first `most` pictures that can be used, prepared as stage `prepare` does, and what was rejected."""
    from ddpm.data.preparing.decode_file import decode
    from ddpm.data.preparing.picture_file import Reading
    from ddpm.data.preparing.pixels import Target
    from ddpm.data.preparing.reasons import REASONS

    target = Target(size=size, channels=channels, fit=data.fit)
    reading = Reading(max_pixels=data.max_pixels, max_bytes=data.max_picture_bytes, white=data.white)
    left, rest = most, list(files)
    while left and rest:
        some, rest = rest[: min(_TOGETHER, left)], rest[min(_TOGETHER, left) :]
        records, pixels = decode([str(folder / file.name) for file in some], target, reading)
        usable = records["reason"] == 0
        yield Batch(
            [file for file, is_usable in zip(some, usable, strict=True) if is_usable],
            pixels,
            records[usable],
            [
                (file, REASONS[record["reason"] - 1])
                for file, record in zip(some, records, strict=True)
                if record["reason"] != 0
            ],
        )
        left -= int(usable.sum())


def _sha256(path: Path) -> str | None:
    """Return the sha256 of the file; None for a file that has gone or that may not be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _among(prepared: Path, digests: set[str]) -> set[str]:
    """Return which of the digests the manifest has."""
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted, found = pa.array(sorted(digests), pa.string()), set()
    for part in manifest.read(prepared, ["sha256"]):
        column = part["sha256"]
        found |= set(column.filter(pc.is_in(column, value_set=wanted)).to_pylist())
    return found


def _class_of(name: str, classes: Sequence[str]) -> str | None:
    folders = name.split("/")[:-1]
    return next((folder for folder in folders if folder in classes), folders[0] if folders else None)
