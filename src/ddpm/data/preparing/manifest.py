"""The manifest: one row per file that was found, kept or rejected."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ddpm.data.preparing.layout import OPEN, TEST, TRAIN
from ddpm.data.preparing.reasons import REASONS
from ddpm.errors import on_one_line

SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("split", pa.string()),  # train | test; null when rejected
        pa.field("index", pa.int64()),  # row in the split's arrays; null when rejected
        pa.field("status", pa.string(), nullable=False),  # kept | rejected
        pa.field("reason", pa.string()),  # null when kept
        pa.field("original_width", pa.int32()),  # null where no header could be read
        pa.field("original_height", pa.int32()),
        pa.field("original_mode", pa.string()),
        pa.field("sha256", pa.string()),  # the file's bytes; null where they were not read
        pa.field("pixel_sha256", pa.string()),  # the prepared pixels; null when rejected
        pa.field("mean", pa.float32()),  # the prepared pixels, 0..255; null when rejected
        pa.field("std", pa.float32()),
        pa.field("label", pa.string()),  # the class's name; null without classes
    ]
)
_BATCH_ROWS = 10_000


def write_manifest(
    path: Path,
    *,
    paths: Sequence[str],
    records: np.ndarray,
    splits: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
) -> None:
    """Write the manifest as Parquet.

    `records` [N] of decode_file.RECORD; `splits` [N], OPEN for rejected files; `labels` [N], -1 for none.
    """
    index = np.full(len(splits), -1, np.int64)
    for code in (TRAIN, TEST):
        index[splits == code] = np.arange((splits == code).sum())
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for start in range(0, len(paths), _BATCH_ROWS):
            part = slice(start, start + _BATCH_ROWS)
            writer.write_batch(_batch(paths[part], records[part], splits[part], index[part], labels[part], classes))


def rejected_files(path: Path, *, most: int) -> list[tuple[str, str]]:
    """Return the path and the reason of the first `most` rejected files in the manifest."""
    found: list[tuple[str, str]] = []
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=["path", "reason", "status"]):
            rows = batch.filter(pc.equal(batch["status"], "rejected")).to_pylist()
            found += [(row["path"], row["reason"]) for row in rows]
            if len(found) >= most:
                break
    return found[:most]


def write_rejected(manifest: Path, path: Path) -> None:
    """Write path and reason of every rejected file in the manifest as CSV; write nothing if there are none."""
    with pq.ParquetFile(manifest) as file:
        for batch in file.iter_batches(columns=["path", "reason", "status"]):
            rows = batch.filter(pc.equal(batch["status"], "rejected")).select(["reason", "path"]).to_pylist()
            if not rows:
                continue
            is_new = not path.exists()
            with path.open("a", encoding="utf-8", newline="") as rejected:
                writer = csv.writer(rejected)
                writer.writerows([["reason", "file"]] if is_new else [])
                writer.writerows([row["reason"], on_one_line(row["path"])] for row in rows)


def _batch(
    paths: Sequence[str],
    records: np.ndarray,
    splits: np.ndarray,
    index: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
) -> pa.RecordBatch:
    kept = records["reason"] == 0
    measured = records["width"] > 0
    columns = {
        # Bytes that are not UTF-8 are escaped.
        "path": [path.encode("utf-8", "backslashreplace").decode() for path in paths],
        "split": _names(splits, ("train", "test"), splits != OPEN),
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
        "label": _names(labels, classes, labels >= 0),
    }
    return pa.RecordBatch.from_arrays(
        [
            column if isinstance(column, pa.Array) else pa.array(column, SCHEMA.field(name).type)
            for name, column in columns.items()
        ],
        schema=SCHEMA,
    )


def _names(codes: np.ndarray, names: Sequence[str], there: np.ndarray) -> list[str | None]:
    return [names[code] if valid else None for code, valid in zip(codes, there, strict=True)]


def _hex(digests: np.ndarray, there: Any) -> list[str | None]:
    return [digest.tobytes().hex() if valid else None for digest, valid in zip(digests, there, strict=True)]
