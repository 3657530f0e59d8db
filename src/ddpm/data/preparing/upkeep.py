"""Remove decoded images that the next run cannot reuse, and compact the others."""

import shutil
import uuid
from pathlib import Path

import numpy as np

from ddpm.data.preparing.assemble import pieces, shard_task
from ddpm.data.preparing.partitions import ENTRY, Located, images_per_partition, put_partition
from ddpm.data.preparing.pixels import Target
from ddpm.files import flush

_MOST_UNUSED = 2.0
"""Ratio of stored to used images above which the used ones are rewritten."""
_MANY = 64
"""They are also rewritten when the partitions are this many more than twice the smallest possible number."""


def tidy(
    folder: Path, located: Located, *, keys: np.ndarray, records: np.ndarray, pixel_rows: np.ndarray, target: Target
) -> None:
    """Remove partitions without a file of this set, and all partitions of another target, source, limit or decoder.

    If many stored images are unused, or partitions are many and small, the used images are rewritten to new partitions.
    So the folder contains at most twice the pixels of the set (three times while it is rewritten).
    `records` as decoded, `keys` and `pixel_rows` [N], all for the files of `located`.
    """
    for inner in (folder, folder.parent):
        for other in inner.parent.iterdir():
            if other != inner and other.is_dir():
                shutil.rmtree(other)
    numbers = np.unique(located.partition[located.partition >= 0])
    used = {located.names[number] for number in numbers}
    stored = sum((folder / f"{name}.pixels").stat().st_size for name in used) // target.bytes
    n_used = int((pixel_rows >= 0).sum())
    fewest = -(-len(keys) // images_per_partition(len(keys), target))
    if stored > _MOST_UNUSED * n_used or len(used) > 2 * fewest + _MANY:
        used = _rewritten(folder, located, keys, records, pixel_rows, target)
    for path in folder.iterdir():
        if path.stem not in used:
            path.unlink()


def _rewritten(
    folder: Path, located: Located, keys: np.ndarray, records: np.ndarray, pixel_rows: np.ndarray, target: Target
) -> set[str]:
    """Write partitions that contain exactly the files of `located`, and return their names."""
    rows = np.flatnonzero(located.partition >= 0)
    step = images_per_partition(len(rows), target)
    names = set()
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        entries = np.empty(len(part), ENTRY)
        entries["key"], entries["record"] = keys[part], records[part]
        name = uuid.uuid4().hex
        aside = folder / f"{name}.part"
        with aside.open("wb") as file:
            decoded = part[pixel_rows[part] >= 0]
            if len(decoded):
                task = shard_task(
                    located,
                    pixel_rows,
                    decoded,
                    partitions=folder,
                    folder=folder,
                    number=0,
                    target=target,
                    store=None,
                )
                for piece in pieces(task):
                    file.write(piece.data)
            flush(file)
        put_partition(folder, name, aside, entries)
        names.add(name)
    return names
