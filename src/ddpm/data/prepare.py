"""From a source to `data/prepared`: arrays, a manifest and the facts of the data.

Two ways through the pixels: every image is decoded once, on all cores, into one scratch file; when it is known which
are duplicates and which are held out, they are copied to their split. Neither holds more than a few chunks in memory;
besides them there are about 300 bytes per image, most of it its path.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ddpm.config import Data
from ddpm.data.dataset import Facts
from ddpm.data.decode import RECORD, Input, Target, code_of, decode, read_headers
from ddpm.data.layout import OPEN, TEST, TRAIN
from ddpm.data.manifest import write_manifest
from ddpm.data.parallel import cores, map_in_order
from ddpm.data.reasons import DUPLICATE, REASONS
from ddpm.data.sources import Found, find
from ddpm.data.split import draw_test, duplicates
from ddpm.errors import UserError

LARGEST_CHOSEN_SIZE = 256
"""A larger size is trained only when somebody asked for it."""
_REACHED_BY = 0.95
"""Share of the images that must not be smaller than the size that is chosen for them."""
_POOL_FROM = 500
"""Fewer images are decoded before a pool of processes has started."""
_CHUNK_BYTES = 8 << 20
_CHUNK_IMAGES = 128
SPLIT_NAMES = {TRAIN: "train", TEST: "test"}


def prepare(data: Data, *, raw: Path, prepared: Path, workers: int, progress: bool) -> Facts:
    """Fill `prepared`; the result does not depend on `workers` (0: one per core).

    The folder appears whole, at the end: a run that is killed leaves none, or the old one.
    Raises UserError when nothing was found, nothing could be kept, or a split is empty.
    """
    if data.source == "folder" and prepared.resolve().is_relative_to(raw.resolve()):
        raise UserError(f"data.path is {raw}, which holds the output {prepared} too; give a folder of images only")
    with _whole_or_nothing(prepared) as (folder, scratch):
        found = find(data, raw=raw, scratch=scratch)
        workers = (workers or cores()) if len(found.paths) >= _POOL_FROM else 1
        run = partial(_in_chunks, found, workers=workers, max_pixels=data.max_pixels, progress=progress)
        target = _target(data, run)
        records = _decode(found, run, target, scratch / "pixels")
        decoded = records["reason"] == 0
        if not decoded.any():
            raise UserError(f"none of the {len(decoded)} files in {raw} can be used: {_counts(records)}")
        labels, classes = _labels(data, found, records, decoded)
        splits = _splits(data, found, records, decoded, labels)
        arrays = _write_arrays(
            folder, scratch / "pixels", target, splits[decoded], labels[decoded] if classes else None
        )
        write_manifest(
            folder / "manifest.parquet",
            paths=found.paths,
            records=records,
            splits=splits,
            labels=labels,
            classes=classes,
        )
        facts = Facts(
            name=found.name,
            source=data.source,
            channels=target.channels,
            size=target.size,
            classes=classes,
            train=int((splits == TRAIN).sum()),
            test=int((splits == TEST).sum()),
            found=len(found.paths),
            kept=int((records["reason"] == 0).sum()),
            rejected=_counts(records),
            content_hash=hashlib.sha256(f"{target.size} {target.channels} {classes} {arrays}".encode()).hexdigest(),
            ignored=found.ignored,
        )
        assert facts.kept + sum(facts.rejected.values()) == facts.found
        assert facts.train + facts.test == facts.kept
        (folder / "dataset.json").write_text(
            json.dumps(asdict(facts), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        return facts


@contextmanager
def _whole_or_nothing(prepared: Path) -> Iterator[tuple[Path, Path]]:
    """A folder that takes the place of `prepared` after the block, and one for scratch beside it on the same disk."""
    aside = prepared.parent / f".{prepared.name}.part"
    shutil.rmtree(aside, ignore_errors=True)
    folder, scratch = aside / "prepared", aside / "scratch"
    folder.mkdir(parents=True)
    scratch.mkdir()
    (aside / ".gitignore").write_text("*\n")  # after a kill git shall not see it
    try:
        yield folder, scratch
        if prepared.exists():
            shutil.rmtree(prepared)
        folder.rename(prepared)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _in_chunks(
    found: Found,
    function: Callable[[Sequence[Input]], Any],
    what: str,
    *,
    chunk: int,
    workers: int,
    max_pixels: int,
    progress: bool,
) -> Iterator[tuple[np.ndarray, Any]]:
    """(rows, result of `function`) for every `chunk` of the usable files, in order."""
    usable = np.flatnonzero([reason is None for reason in found.reasons])
    chunks = [usable[start : start + chunk] for start in range(0, len(usable), chunk)]
    results = map_in_order(
        function,
        ([found.inputs[row] for row in rows] for rows in chunks),
        workers=workers,
        pool="processes" if found.kind == "files" else "threads",
        max_pixels=max_pixels,
    )
    with tqdm(total=len(usable), desc=what, unit="image", disable=not progress, mininterval=0.5) as bar:
        for rows, result in zip(chunks, results, strict=True):
            yield rows, result
            bar.update(len(rows))


def _target(data: Data, run: Callable[..., Iterator[tuple[np.ndarray, Any]]]) -> Target:
    """Size and channels as set, or what the headers of all images say.

    Size: the shorter side that half of the images or more have in common; without one, or where it would enlarge
    more than one image in twenty, the largest multiple of 8 that does not. Channels: 1 when every image is grey.
    """
    if data.size is not None and data.channels is not None:
        return Target(data.size, data.channels, data.fit)
    sides: Counter[int] = Counter()
    grey = True
    for _, headers in run(read_headers, "look", chunk=_CHUNK_IMAGES):
        sides.update(header.shorter_side for header in headers if header)
        grey = grey and all(header.grey for header in headers if header)
    return Target(
        size=data.size if data.size is not None else _size_of(sides),
        channels=data.channels if data.channels is not None else (1 if grey else 3),
        fit=data.fit,
    )


def _size_of(sides: Counter[int]) -> int:
    """`sides`: how many images have a shorter side of so many pixels."""

    def share_not_smaller(size: int) -> float:
        return sum(n for side, n in sides.items() if side >= size) / sides.total()

    if not sides:  # nothing can be decoded; the reasons come with decoding
        return LARGEST_CHOSEN_SIZE
    size = max(sides, key=lambda side: sides[side])
    if sides[size] < sides.total() / 2 or share_not_smaller(size) < _REACHED_BY:
        size = max((side for side in range(8, max(sides) + 1, 8) if share_not_smaller(side) >= _REACHED_BY), default=8)
    if not 4 <= size <= LARGEST_CHOSEN_SIZE:
        raise UserError(
            f"by their own sizes the images would become {size} pixels wide and high, and only 4 to "
            f"{LARGEST_CHOSEN_SIZE} are taken without being asked for; set data.size in params.yaml, for instance to 64"
        )
    return size


def _decode(
    found: Found, run: Callable[..., Iterator[tuple[np.ndarray, Any]]], target: Target, pixels: Path
) -> np.ndarray:
    """Records [found] of all files; the pixels of those that could be decoded go to the file, in order."""
    records = np.zeros(len(found.paths), RECORD)
    records["reason"] = [code_of(reason) for reason in found.reasons]
    records["label"] = -1
    bytes_per_image = target.channels * target.size**2
    chunk = max(1, min(_CHUNK_IMAGES, _CHUNK_BYTES // bytes_per_image))
    with pixels.open("wb") as file:
        for rows, (decoded, images) in run(partial(decode, target=target), "decode", chunk=chunk):
            records[rows] = decoded
            file.write(images)
    return records


def _labels(data: Data, found: Found, records: np.ndarray, decoded: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels [found] (-1: none), and the names of the classes; a set in which an image has none has none at all."""
    labels = records["label"].astype(np.int64) if found.labels is None else np.array(found.labels, np.int64)
    if not data.labels or (labels[decoded] < 0).any():
        return np.full_like(labels, -1), ()
    n = int(labels[decoded].max()) + 1
    return labels, found.classes if len(found.classes) >= n else tuple(str(label) for label in range(n))


def _splits(data: Data, found: Found, records: np.ndarray, decoded: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Codes [found]: TRAIN, TEST, or OPEN for what is rejected. Marks duplicates in the records."""
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
                "add images, or let data.test_fraction hold out more or fewer"
            )
    return splits


def _counts(records: np.ndarray) -> dict[str, int]:
    counts = np.bincount(records["reason"], minlength=len(REASONS) + 1)[1:]
    return {reason: int(n) for reason, n in zip(REASONS, counts, strict=True) if n}


def _write_arrays(
    folder: Path, pixels: Path, target: Target, splits: np.ndarray, labels: np.ndarray | None
) -> list[str]:
    """images.npy and labels.npy of both splits, and the sha256 of their contents.

    `pixels` holds one image for every entry of `splits` and `labels`. Written front to back with plain writes:
    a writable memory map would count as memory of this process until the last page is on the disk.
    """
    shape = (target.channels, target.size, target.size)
    chunk = max(1, _CHUNK_BYTES // int(np.prod(shape)))
    hashes = {code: hashlib.sha256() for code in SPLIT_NAMES}
    with ExitStack() as stack:
        source = stack.enter_context(pixels.open("rb"))
        files = {}
        for code, name in SPLIT_NAMES.items():
            (folder / name).mkdir()
            files[code] = stack.enter_context((folder / name / "images.npy").open("wb"))
            header = {"descr": "|u1", "fortran_order": False, "shape": (int((splits == code).sum()), *shape)}
            np.lib.format.write_array_header_1_0(files[code], header)
        for start in range(0, len(splits), chunk):
            part = splits[start : start + chunk]
            images = np.fromfile(source, np.uint8, len(part) * int(np.prod(shape))).reshape(-1, *shape)
            for code, file in files.items():
                selected = images[part == code]
                file.write(selected)
                hashes[code].update(selected)
    if labels is not None:
        for code, name in SPLIT_NAMES.items():
            selected = labels[splits == code]
            np.save(folder / name / "labels.npy", selected)
            hashes[code].update(selected)
    return [hashed.hexdigest() for hashed in hashes.values()]
