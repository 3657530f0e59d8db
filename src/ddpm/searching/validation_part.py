"""The images of a search: the training images alone, divided anew, so that held-out images stay unseen."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ddpm.data.preparing.split import draw_test
from ddpm.data.reading.captions import write_captions
from ddpm.data.reading.dataset import Facts, Split, read_facts, read_split
from ddpm.data.reading.shard_index import Index, images_per_shard, write_index, write_shard
from ddpm.errors import UserError
from ddpm.files import flush_names, flush_tree

if TYPE_CHECKING:
    from ddpm.compute.settings import Runtime

_TOGETHER_BYTES = 8 << 20


def write_search_data(
    prepared: Path, folder: Path, *, validation: float, seed: int, shard_bytes: int, runtime: "Runtime"
) -> Facts:
    """Write prepared data into `folder` whose two splits are parts of the training images in `prepared`.

    The split `test` has the share `validation` of each class, drawn by `seed`; images with equal pixels stay together.
    Nothing is read of the held-out images. The shards are local files, also where `prepared` has its own in a store.
    Data that are there already are kept if they are the same. Returns their facts. Raises UserError if the part for
    validation or the one for training would be empty.
    """
    facts = read_facts(prepared)
    identity = f"search {facts.content_hash} {validation} {seed}"
    content_hash = hashlib.sha256(identity.encode()).hexdigest()
    if (folder / "dataset.json").exists() and (there := read_facts(folder)).content_hash == content_hash:
        return there
    images = read_split(prepared, "train", runtime)
    captions = None if facts.captions is None else images.captions()
    together = max(1, _TOGETHER_BYTES // int(np.prod(images.images.shape[1:])))
    for_validation = _drawn(images, together=together, share=validation, seed=seed)
    aside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    rows_of = {"train": np.flatnonzero(~for_validation), "test": np.flatnonzero(for_validation)}
    for name, rows in rows_of.items():
        if not len(rows):
            raise UserError(
                f"search.validation is {validation}, which leaves no image for {name} of {len(for_validation)} "
                "training images; choose another share, or add images"
            )
        _write_split(aside / name, images, rows, together=together, shard_bytes=shard_bytes)
        if captions is not None:
            write_captions(aside / name, [captions[row] for row in rows.tolist()])
    kept = len(for_validation)
    made = replace(
        facts,
        train=len(rows_of["train"]),
        test=len(rows_of["test"]),
        found=kept,
        kept=kept,
        captions=None if captions is None else sum(each is not None for each in captions),
        rejected={},
        ignored={},
        content_hash=content_hash,
    )
    known = {name: value for name, value in asdict(made).items() if value is not None}
    (aside / "dataset.json").write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    flush_tree(aside)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    flush_names(folder.parent)
    return made


def _drawn(split: Split, *, together: int, share: float, seed: int) -> np.ndarray:
    """Return bool [N]: the image is for validation."""
    digests = np.empty((len(split.images), 32), np.uint8)
    for start, pixels in _pieces(split, np.arange(len(split.images)), together):
        for k, image in enumerate(pixels):
            digests[start + k] = np.frombuffer(hashlib.sha256(np.ascontiguousarray(image).data).digest(), np.uint8)
    labels = np.zeros(len(digests), np.int64) if split.labels is None else np.asarray(split.labels)
    return draw_test(digests, labels, fraction=share, seed=seed)


def _write_split(folder: Path, split: Split, rows: np.ndarray, *, together: int, shard_bytes: int) -> None:
    folder.mkdir(parents=True)
    _, *shape = split.images.shape
    channels, height, width = shape
    per_shard = images_per_shard((channels, height, width), shard_bytes)
    shards = []
    for number, start in enumerate(range(0, len(rows), per_shard)):
        own = rows[start : start + per_shard]
        pieces = (pixels for _, pixels in _pieces(split, own, together))
        shards.append(write_shard(folder, number, pieces, n=len(own), shape=(channels, height, width), store=None))
    write_index(folder, Index(None, tuple(shards)))
    if split.labels is not None:
        np.save(folder / "labels.npy", np.asarray(split.labels)[rows])


def _pieces(split: Split, rows: np.ndarray, together: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (position of the first row, uint8 [n,C,H,W]) for pieces of at most `together` rows."""
    for start in range(0, len(rows), together):
        yield start, np.asarray(split.images[rows[start : start + together]])
