"""What is kept of decoded images for the next run, and what is removed."""

import shutil
import uuid
from pathlib import Path

import numpy as np

from ddpm.data.preparing.assemble import pieces, shard_task
from ddpm.data.preparing.partitions import ENTRY, Located, images_per_partition, put_partition
from ddpm.data.preparing.pixels import Target
from ddpm.files import flush

_MOST_UNUSED = 2.0
"""Images that are stored, as a multiple of those that are used, before the used ones are written together."""
_MANY = 64
"""So many partitions more than twice the fewest possible are also a reason."""


def tidy(
    folder: Path, located: Located, *, keys: np.ndarray, records: np.ndarray, pixel_rows: np.ndarray, target: Target
) -> None:
    """Remove partitions without a file of this set, and all of another target, source, limit or decoder.

    Where little is used of what is stored, or partitions are many and small, the images are written together anew.
    So the folder holds no more than twice the pixels of the set (and during the rewriting three times).
    `records` as they were decoded, `keys` and `pixel_rows` [N] of the files of `located`.
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
        used = _written_together(folder, located, keys, records, pixel_rows, target)
    for path in folder.iterdir():
        if path.stem not in used:
            path.unlink()


def _written_together(
    folder: Path, located: Located, keys: np.ndarray, records: np.ndarray, pixel_rows: np.ndarray, target: Target
) -> set[str]:
    """Names of partitions that hold all files of `located`, and nothing else."""
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
