"""The prepared images as the later stages read them. NumPy only; `read_facts` not even that.

dataset.json             Facts
manifest.parquet         one row per file that was found (prepare.MANIFEST names the columns)
{train,test}/images.npy  uint8 [N,C,H,W]
{train,test}/labels.npy  int64 [N]; only where the source has classes
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ddpm.errors import UserError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Facts:
    """What is known of a prepared data set. found = kept + the sum of rejected; kept = train + test."""

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
    """Files by the reason why they are not among the images."""
    content_hash: str
    """sha256 of all pixels and labels, in order, with their splits, classes and shape."""
    ignored: int = 0
    """Hidden files and text beside the images; no part of found."""


@dataclass(frozen=True)
class Split:
    images: "np.ndarray"
    """uint8 [N,C,H,W], memory-mapped and read-only."""
    labels: "np.ndarray | None"
    """int64 [N]."""


def read_facts(folder: Path) -> Facts:
    """Raises UserError where no data were prepared."""
    path = folder / "dataset.json"
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} was not found; make it with `dvc repro prepare`") from None
    read["classes"] = tuple(read["classes"])
    return Facts(**{field.name: read[field.name] for field in fields(Facts) if field.name in read})


def read_split(folder: Path, name: Literal["train", "test"]) -> Split:
    """Raises UserError where no data were prepared."""
    import numpy as np

    from ddpm.data.shards import read_index

    read_index(folder / name)
    images, labels = folder / name / "shard-00000.npy", folder / name / "labels.npy"
    return Split(np.load(images, mmap_mode="r"), np.load(labels) if labels.exists() else None)
