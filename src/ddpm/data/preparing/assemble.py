"""Copy decoded images from partitions to shards, in the order of their split."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ddpm.data.preparing.partitions import Located
from ddpm.data.preparing.pixels import Target
from ddpm.data.reading.shard_index import Shard, write_shard

_COPIED_TOGETHER_BYTES = 8 << 20


@dataclass(frozen=True)
class ShardTask:
    """Decoded images that become one shard: R runs of consecutive images of a partition."""

    partitions: Path
    """Folder of the partitions."""
    folder: Path
    """Folder of the split."""
    number: int
    """Number of the shard in its split."""
    shape: tuple[int, int, int]
    """[C,H,W] of an image."""
    names: list[str]
    """Partition of each run [R]."""
    starts: np.ndarray
    """int64 [R], the first row of each run among the partition's pixels."""
    lengths: np.ndarray
    """int64 [R], images per run."""
    store: str | None


def shard_task(
    located: Located,
    pixel_rows: np.ndarray,
    rows: np.ndarray,
    *,
    partitions: Path,
    folder: Path,
    number: int,
    target: Target,
    store: str | None,
) -> ShardTask:
    """Return the task for the files `rows`, in this order."""
    partition, pixel = located.partition[rows], pixel_rows[rows].astype(np.int64)
    breaks = np.flatnonzero((np.diff(partition) != 0) | (np.diff(pixel) != 1)) + 1
    first = np.concatenate(([0], breaks))
    return ShardTask(
        partitions=partitions,
        folder=folder,
        number=number,
        shape=target.shape,
        names=[located.names[part] for part in partition[first]],
        starts=pixel[first],
        lengths=np.diff(np.append(first, len(rows))),
        store=store,
    )


def assemble(task: ShardTask) -> Shard:
    """Write the shard. Raises UserError where the store rejects it."""
    return write_shard(
        task.folder, task.number, pieces(task), n=int(task.lengths.sum()), shape=task.shape, store=task.store
    )


def pieces(task: ShardTask) -> Iterator[np.ndarray]:
    """Yield the images in order, uint8 [m,C,H,W], a few megabytes at a time."""
    per_image = int(np.prod(task.shape))
    most = max(1, _COPIED_TOGETHER_BYTES // per_image)
    buffer = np.empty((most, *task.shape), np.uint8)
    filled = 0
    for name, group in itertools.groupby(range(len(task.names)), lambda run: task.names[run]):
        with (task.partitions / f"{name}.pixels").open("rb") as file:
            for run in group:
                start, left = int(task.starts[run]), int(task.lengths[run])
                file.seek(start * per_image)
                while left:
                    n = min(left, most - filled)
                    read = file.readinto(buffer[filled : filled + n])  # type: ignore[arg-type]
                    assert read == n * per_image, f"{file.name} is too short"
                    filled, left = filled + n, left - n
                    if filled == most:
                        yield buffer
                        filled = 0
    if filled:
        yield buffer[:filled]
