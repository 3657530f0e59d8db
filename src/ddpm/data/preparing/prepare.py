"""Prepare `data/prepared` from a source: shards of images, a manifest and the facts of the data set.

Every image is decoded once, into a partition (partitions.py). When duplicates and held-out images are known, the images
are copied to the shards of their split. Partitions of a folder's images stay for the next run, which decodes only new
and changed files, and gives the same result as a run without them. Memory is a few megabytes of pixels and about
400 bytes per image, mostly its path and hashes, and its caption if captions are read.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ddpm.compute.cores import cores
from ddpm.compute.executors import Crew
from ddpm.data.preparing.assemble import ShardTask, assemble, shard_task
from ddpm.data.preparing.captions import fault_of
from ddpm.data.preparing.chosen_previews import choose_previews
from ddpm.data.preparing.decode_file import code_of
from ddpm.data.preparing.decode_source import Decoded, decode_all
from ddpm.data.preparing.layout import OPEN, TEST, TRAIN
from ddpm.data.preparing.manifest_part import write_manifest, write_rejected
from ddpm.data.preparing.pixels import Target
from ddpm.data.preparing.prepared_shape import ChooseSize, keep_own_size, own_size
from ddpm.data.preparing.reasons import DUPLICATE, REASONS
from ddpm.data.preparing.settings import Data
from ddpm.data.preparing.sources import Found, find
from ddpm.data.preparing.split import draw_test, duplicates
from ddpm.data.preparing.tree import require_unchanged, trace
from ddpm.data.preparing.upkeep import tidy
from ddpm.data.previews import REJECTED_LIST, write_previews
from ddpm.data.reading.captions import write_captions
from ddpm.data.reading.dataset import Facts
from ddpm.data.reading.shard_index import Index, images_per_shard, write_index
from ddpm.errors import UserError
from ddpm.files import flush_names, flush_tree

SPLIT_NAMES = {TRAIN: "train", TEST: "test"}


def prepare(
    data: Data,
    *,
    raw: Path,
    prepared: Path,
    workers: int,
    progress: bool,
    state: Path | None = None,
    cluster: str | None = None,
    choose_size: ChooseSize = keep_own_size,
) -> Facts:
    """Write `prepared`; the result does not depend on `workers` (0: one per core), `cluster` or `state`.

    The folder is renamed into place at the end: a killed run leaves no folder, or the previous one. Decoded images of
    a folder stay in `state`, which takes as much disk as the prepared pixels, and at most twice that after many
    changes; deleting it costs only time. `cluster` is the address of a Dask scheduler whose workers share this disk
    and have this project installed; with None, workers on this machine are started when there is much to do.
    `choose_size` decides about a size that the headers say, not the settings.
    Raises UserError when nothing was found, nothing could be kept, a split is empty, or `raw` changed meanwhile.
    """
    if data.source == "folder" and prepared.resolve().is_relative_to(raw.resolve()):
        raise UserError(f"data.path is {raw}, which contains the output {prepared} too; give a folder of images only")
    is_on_disk = data.source in ("folder", "archive")
    before = trace(raw) if is_on_disk and raw.exists() else None
    with _whole_or_nothing(prepared) as (folder, scratch):
        found = find(data, raw=raw, scratch=scratch)
        keep = state is not None and data.source == "folder"
        root = state if state is not None and keep else scratch / "partitions"
        crew = Crew(workers=workers or cores(), cluster=cluster, threads=found.kind == "memory", scratch=scratch)
        with crew:
            decoded = decode_all(data, found, root=root, raw=raw, crew=crew, progress=progress, choose_size=choose_size)
            records, usable = decoded.records, decoded.pixel_rows >= 0
            if not usable.any():
                raise UserError(f"none of the {len(usable)} files in {raw} can be used: {_counts(records)}")
            labels, classes = _labels(data, found, records, usable)
            splits = _splits(data, found, records, usable, labels)
            _write_splits(data, decoded, splits, labels if classes else None, folder=folder, crew=crew)
            write_manifest(
                folder,
                paths=found.paths,
                records=records,
                splits=splits,
                labels=labels,
                classes=classes,
                captions=found.captions,
                crew=crew,
            )
        if found.captions is not None:
            _write_captions(found.captions, splits, folder=folder)
        write_previews(folder, choose_previews(data, found, decoded, splits, labels, n_classes=len(classes)))
        write_rejected(folder, folder / REJECTED_LIST)
        facts = Facts(
            name=found.name,
            source=data.source,
            channels=decoded.target.channels,
            size=decoded.target.size,
            classes=classes,
            train=int((splits == TRAIN).sum()),
            test=int((splits == TEST).sum()),
            found=len(found.paths),
            kept=int((records["reason"] == 0).sum()),
            rejected=_counts(records),
            captions=None if found.captions is None else _captioned(found.captions, splits),
            content_hash=_content_hash(decoded, splits, labels, classes, found.captions),
            ignored=found.ignored,
            own_size=_own_size(records, decoded.target) if data.size is None else None,
        )
        assert facts.kept + sum(facts.rejected.values()) == facts.found
        assert facts.train + facts.test == facts.kept
        (folder / "dataset.json").write_text(
            json.dumps(_known(facts), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        if before is not None:
            require_unchanged(raw, before)
    if keep:
        records["reason"][usable] = 0  # duplicates were decoded too, so the next run can reuse them
        tidy(
            decoded.folder,
            decoded.located,
            keys=decoded.keys,
            records=records,
            pixel_rows=decoded.pixel_rows,
            target=decoded.target,
        )
    return facts


def _own_size(records: np.ndarray, target: Target) -> int | None:
    """Return the images' own size if they were given another one."""
    own = own_size(np.minimum(records["width"], records["height"]), records["header"])
    return None if own == target.size else own


def _known(facts: Facts) -> dict[str, Any]:
    return {name: value for name, value in asdict(facts).items() if value is not None}


@contextmanager
def _whole_or_nothing(prepared: Path) -> Iterator[tuple[Path, Path]]:
    """Yield a folder that replaces `prepared` after the block, and a scratch folder on the same disk."""
    aside = prepared.parent / f".{prepared.name}.part"
    shutil.rmtree(aside, ignore_errors=True)
    folder, scratch = aside / "prepared", aside / "scratch"
    folder.mkdir(parents=True)
    scratch.mkdir()
    (aside / ".gitignore").write_text("*\n")  # so that git ignores what a killed run leaves
    try:
        yield folder, scratch
        flush_tree(folder)
        if prepared.exists():
            shutil.rmtree(prepared)
        folder.rename(prepared)
        flush_names(prepared.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _labels(data: Data, found: Found, records: np.ndarray, decoded: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return labels [found] (-1: none) and the class names; none at all if any decoded image has no label."""
    labels = records["label"].astype(np.int64) if found.labels is None else np.array(found.labels, np.int64)
    if not data.labels or (labels[decoded] < 0).any():
        return np.full_like(labels, -1), ()
    n = int(labels[decoded].max()) + 1
    return labels, found.classes if len(found.classes) >= n else tuple(str(label) for label in range(n))


def _splits(data: Data, found: Found, records: np.ndarray, decoded: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return codes [found]: TRAIN, TEST, or OPEN for rejected files. Marks duplicates in the records."""
    splits = np.array(found.splits, np.int8)
    rows = np.flatnonzero(decoded)
    records["reason"][rows[duplicates(records["sha256"][rows], splits[rows])]] = code_of(DUPLICATE)
    splits[records["reason"] != 0] = OPEN
    to_draw = np.flatnonzero((records["reason"] == 0) & (splits == OPEN))
    held_out = draw_test(records["pixel_sha256"][to_draw], labels[to_draw], fraction=data.test_fraction, seed=data.seed)
    splits[to_draw] = np.where(held_out, TEST, TRAIN)
    for code, name in SPLIT_NAMES.items():
        if not (splits == code).any():
            raise UserError(
                f"no image is left for {name} (found {len(splits)}, rejected {_counts(records)}); "
                "add images, or set data.test_fraction to hold out more or fewer"
            )
    return splits


def _counts(records: np.ndarray) -> dict[str, int]:
    counts = np.bincount(records["reason"], minlength=len(REASONS) + 1)[1:]
    return {reason: int(n) for reason, n in zip(REASONS, counts, strict=True) if n}


def _write_splits(
    data: Data, decoded: Decoded, splits: np.ndarray, labels: np.ndarray | None, *, folder: Path, crew: Crew
) -> None:
    """Write shards, index and labels.npy of both splits."""
    tasks: list[ShardTask] = []
    per_shard = images_per_shard(decoded.target.shape, data.shard_bytes)
    for code, name in SPLIT_NAMES.items():
        (folder / name).mkdir()
        rows = np.flatnonzero(splits == code)
        for number, start in enumerate(range(0, len(rows), per_shard)):
            tasks.append(
                shard_task(
                    decoded.located,
                    decoded.pixel_rows,
                    rows[start : start + per_shard],
                    partitions=decoded.folder,
                    folder=(folder / name).resolve(),
                    number=number,
                    target=decoded.target,
                    store=data.store,
                )
            )
        if labels is not None:
            np.save(folder / name / "labels.npy", labels[rows])
    shards = dict(crew.run(assemble, tasks))
    for name in SPLIT_NAMES.values():
        own = [k for k, task in enumerate(tasks) if task.folder.name == name]
        write_index(folder / name, Index(data.store, tuple(shards[k] for k in own)))


def _captioned(captions: Sequence[str], splits: np.ndarray) -> int:
    return sum(fault_of(captions[row]) is None for row in np.flatnonzero(splits != OPEN).tolist())


def _write_captions(captions: Sequence[str], splits: np.ndarray, *, folder: Path) -> None:
    """Write the captions of both splits, in the order of their images."""
    for code, name in SPLIT_NAMES.items():
        of_split = [captions[row] for row in np.flatnonzero(splits == code).tolist()]
        write_captions(folder / name, [None if fault_of(caption) else caption for caption in of_split])


def _content_hash(
    decoded: Decoded,
    splits: np.ndarray,
    labels: np.ndarray,
    classes: tuple[str, ...],
    captions: Sequence[str] | None,
) -> str:
    """Return the sha256 of the shape, the classes and, in order, of the images: pixels, labels and captions."""
    hashed = hashlib.sha256(f"{decoded.target.size} {decoded.target.channels} {classes}".encode())
    for code, name in SPLIT_NAMES.items():
        rows = np.flatnonzero(splits == code)
        hashed.update(f"{name} {len(rows)}".encode())
        hashed.update(decoded.records["pixel_sha256"][rows].data)
        if classes:
            hashed.update(labels[rows].data)
        if captions is not None:
            hashed.update("\n".join(captions[row] for row in rows.tolist()).encode())
    return hashed.hexdigest()
