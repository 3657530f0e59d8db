"""Read the prepared data set. `read_split` needs only NumPy, `read_facts` only the standard library.

dataset.json              Facts
manifest/                 one row per file that was found (data/manifest.py)
rejected.csv              reason and path of every rejected file; only if there are some
previews.npy              small pictures of some files (data/previews.py)
{train,test}/shards.json  the shards of the images, uint8 [n,C,H,W] each, local or in a store (see shard_index.py)
{train,test}/labels.npy   int64 [N] of all shards; only if the source has classes
{train,test}/captions.parquet   captions in the same order (see captions.py); only if data.captions is true
"""

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ddpm.data.reading.captions import CAPTIONS, read_captions
from ddpm.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from ddpm.compute.settings import Runtime
    from ddpm.data.reading.shard_index import Index, Shard
    from ddpm.images import Images


FACTS_OF_LATENTS = "latents.json"
"""Name of the file of what the latents are."""


@dataclass(frozen=True)
class Facts:
    """Facts of a prepared data set. found = kept + the sum of rejected; kept = train + test."""

    name: str
    source: str
    channels: int
    size: int
    """Pixels of height and width."""
    classes: tuple[str, ...]
    """Names by label; empty without labels."""
    train: int
    test: int
    found: int
    kept: int
    rejected: dict[str, int]
    """Number of rejected files by reason."""
    content_hash: str
    """sha256 of all pixels and labels, in order, with their splits, classes and shape."""
    ignored: dict[str, int] = field(default_factory=dict)
    """Number of files that are not part of found, by name or kind: hidden files, text, files of operating systems."""
    own_size: int | None = None
    """Pixels of height and width that the images have by themselves, if a smaller size was chosen for them."""
    captions: int | None = None
    """Number of kept images with a caption; None if captions were not read."""


@dataclass(frozen=True)
class Split:
    images: "Images"
    """uint8 [N,C,H,W], read-only: memory-mapped, or ShardedImages if there are several shards or a store."""
    labels: "np.ndarray | None"
    """int64 [N]."""
    folder: Path | None = None
    """Where the captions are; None if there are none."""

    def captions(self) -> "list[str | None]":
        """Return the captions, one per image. Raises UserError as `read_captions` does."""
        assert self.folder is not None
        return read_captions(self.folder)

    def known_captions(self) -> "list[str | None]":
        """Return the captions, one per image, none of which is known if data.captions is false."""
        if self.folder is None or not (self.folder / CAPTIONS).exists():
            return [None] * len(self.images)
        return self.captions()


@dataclass(frozen=True)
class Latents:
    samples: "Images"
    """float16 [N,C,h,w], standardised, in the order of the training images."""
    autoencoder_sha256: str
    """Hash of the file of the autoencoder that made them."""


def read_facts(folder: Path) -> Facts:
    """Read dataset.json. Raises UserError if it is missing."""
    path = folder / "dataset.json"
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} was not found; create it with `dvc repro prepare`") from None
    read["classes"] = tuple(read["classes"])
    return Facts(**{each.name: read[each.name] for each in fields(Facts) if each.name in read})


def read_split(folder: Path, name: Literal["train", "test"], runtime: "Runtime | None" = None) -> Split:
    """Read a split. `runtime` names the cache for shards of a store, and is needed only to read such images.

    Raises UserError if no data were prepared, or if a shard is damaged.
    """
    import numpy as np

    from ddpm.data.reading.shard_index import IMAGES, read_index

    index, path = read_index(folder / name), folder / name / "labels.npy"
    labels = np.load(path, mmap_mode="r" if len(index.shards) > 1 else None) if path.exists() else None

    def shape() -> tuple[int, int, int]:
        facts = read_facts(folder)
        return facts.channels, facts.size, facts.size

    return Split(_samples(folder / name, index, shape, IMAGES, runtime), labels, folder / name)


def read_latents(folder: Path, runtime: "Runtime | None" = None) -> "Latents | None":
    """Read the latents of the training images that stage `encode` has written; None if the pixels themselves diffuse.

    Raises UserError as `read_split` does.
    """
    from ddpm.data.reading.shard_index import LATENTS, read_index

    path = folder / FACTS_OF_LATENTS
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} was not found; create it with `dvc repro encode`") from None
    if facts["codec"] == "pixels":
        return None
    split = folder / "train"
    samples = _samples(split, read_index(split), lambda: tuple(facts["shape"]), LATENTS, runtime)
    return Latents(samples, facts["autoencoder_sha256"])


def _samples(
    folder: Path,
    index: "Index",
    shape: "Callable[[], tuple[int, int, int]]",
    dtype: "np.dtype",
    runtime: "Runtime | None",
) -> "Images":
    """Return the samples of the split in `folder`: a memory map of the only local shard, else ShardedImages.

    `shape` returns [C,H,W] of one of them.
    """
    from ddpm.data.reading.shard_cache import ShardCache
    from ddpm.data.reading.sharded_images import ShardedImages

    if index.store is None and len(index.shards) == 1:
        return _only_shard(Path(index.location(folder, index.shards[0])), index.shards[0])
    cache = None if runtime is None else ShardCache(Path(runtime.cache), runtime.cache_bytes)
    return ShardedImages(folder, index, image_shape=shape(), cache=cache, dtype=dtype)


def _only_shard(path: Path, shard: "Shard") -> "np.ndarray":
    from ddpm.data.reading.shard_index import made_again, require_whole
    from ddpm.data.reading.sharded_images import map_file

    require_whole(path, shard)
    images = map_file(path)
    if len(images) != shard.images:
        raise UserError(f"{path} contains {len(images)} images, but its index says {shard.images}; {made_again(path)}")
    return images
