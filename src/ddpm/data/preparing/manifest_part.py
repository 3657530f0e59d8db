"""Write the manifest in parts, each by a worker, and the list of rejected files."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ddpm.compute.executors import Crew, Pieces
from ddpm.data import manifest
from ddpm.data.preparing.captions import fault_of
from ddpm.data.preparing.layout import OPEN, TEST, TRAIN
from ddpm.data.preparing.reasons import REASONS
from ddpm.errors import on_one_line
from ddpm.files import flush

_SCHEMA = manifest.schema()
_ROWS = 20_000
"""Rows per part: a few megabytes, which a worker gets in one message."""


@dataclass(frozen=True)
class Part:
    """The n rows of one part."""

    path: Path
    paths: Sequence[str]
    records: np.ndarray
    """decode_file.RECORD [n]."""
    splits: np.ndarray
    """Codes [n], OPEN for rejected files."""
    labels: np.ndarray
    """int64 [n], -1 for none."""
    classes: Sequence[str]
    before: dict[int, int]
    """Number of images of TRAIN and of TEST in the parts before."""
    captions: Sequence[str] | None = None
    """Captions, or why there is none (`captions.fault_of`); None if data.captions is false."""


def write_manifest(
    prepared: Path,
    *,
    paths: Sequence[str],
    records: np.ndarray,
    splits: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    captions: Sequence[str] | None,
    crew: Crew,
) -> None:
    """Write the manifest of the folder `prepared`, which all workers of the crew see.

    `records` [N] of decode_file.RECORD; `splits` [N], OPEN for rejected files; `labels` [N], -1 for none.
    """
    (prepared / manifest.FOLDER).mkdir()
    slices = [slice(start, start + _ROWS) for start in range(0, len(splits), _ROWS)]
    counts = {code: [int((splits[rows] == code).sum()) for rows in slices] for code in (TRAIN, TEST)}
    before = {code: np.cumsum([0, *counted]) for code, counted in counts.items()}

    def part(number: int) -> Part:
        rows = slices[number]
        return Part(
            path=manifest.part_path(prepared, number).resolve(),
            paths=paths[rows],
            records=records[rows],
            splits=splits[rows],
            labels=labels[rows],
            classes=classes,
            captions=None if captions is None else captions[rows],
            before={code: int(counted[number]) for code, counted in before.items()},
        )

    for _ in crew.run(write_part, Pieces(len(slices), part)):
        pass


def write_part(part: Part) -> None:
    """Write the part, flushed to the disk. A repetition writes the same file."""
    with part.path.open("wb") as file:
        pq.write_table(_table(part), file)
        flush(file)


def write_rejected(prepared: Path, path: Path) -> None:
    """Write path and reason of every rejected file in the manifest as CSV; write nothing if there are none."""
    for part in manifest.read(prepared, ["path", "reason", "status"]):
        rows = part.filter(pc.equal(part["status"], "rejected")).select(["reason", "path"]).to_pylist()
        if not rows:
            continue
        is_new = not path.exists()
        with path.open("a", encoding="utf-8", newline="") as rejected:
            writer = csv.writer(rejected)
            writer.writerows([["reason", "file"]] if is_new else [])
            writer.writerows([row["reason"], on_one_line(row["path"])] for row in rows)


def _table(part: Part) -> pa.Table:
    records = part.records
    kept = records["reason"] == 0
    measured = records["width"] > 0
    index = np.full(len(records), -1, np.int64)
    for code, before in part.before.items():
        index[part.splits == code] = before + np.arange((part.splits == code).sum())
    columns = {
        # Bytes that are not UTF-8 are escaped.
        "path": [path.encode("utf-8", "backslashreplace").decode() for path in part.paths],
        "split": _names(part.splits, ("train", "test"), part.splits != OPEN),
        "index": pa.array(index, mask=~kept),
        "status": np.where(kept, "kept", "rejected").tolist(),
        "reason": _names(records["reason"].astype(int) - 1, REASONS, ~kept),
        "original_width": pa.array(records["width"], mask=~measured),
        "original_height": pa.array(records["height"], mask=~measured),
        "original_mode": [mode.decode() or None for mode in records["mode"]],
        "sha256": _hex(records["sha256"], records["sha256"].any(axis=1)),
        "pixel_sha256": _hex(records["pixel_sha256"], kept),
        "mean": pa.array(records["mean"], mask=~kept),
        "std": pa.array(records["std"], mask=~kept),
        "label": _names(part.labels, part.classes, part.labels >= 0),
        **_captions(part),
    }
    return pa.table([pa.array(column, _SCHEMA.field(name).type) for name, column in columns.items()], schema=_SCHEMA)


def _captions(part: Part) -> dict[str, list[str | None]]:
    if part.captions is None:
        return dict.fromkeys(("caption", "no_caption"), [None] * len(part.paths))
    faults = [fault_of(caption) for caption in part.captions]
    captions = [None if fault else caption for caption, fault in zip(part.captions, faults, strict=True)]
    return {"caption": captions, "no_caption": faults}


def _names(codes: np.ndarray, names: Sequence[str], there: np.ndarray) -> list[str | None]:
    return [names[code] if valid else None for code, valid in zip(codes, there, strict=True)]


def _hex(digests: np.ndarray, there: Any) -> list[str | None]:
    return [digest.tobytes().hex() if valid else None for digest, valid in zip(digests, there, strict=True)]
