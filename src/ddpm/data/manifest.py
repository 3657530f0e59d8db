"""The manifest of prepared data: one row per file that was found, kept or rejected, in parts of bounded size.

manifest/part-00000.parquet   the first rows, in the order of the files; all parts but the last have equal lengths

Readers go part by part, so that memory does not grow with the number of files.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ddpm.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

FOLDER = "manifest"
COLUMNS = {
    "path": "string",
    "split": "string",  # train | test; null when rejected
    "index": "int64",  # row in the split's arrays; null when rejected
    "status": "string",  # kept | rejected
    "reason": "string",  # null when kept
    "original_width": "int32",  # null where no header could be read
    "original_height": "int32",
    "original_mode": "string",
    "sha256": "string",  # the file's bytes; null where they were not read
    "pixel_sha256": "string",  # the prepared pixels; null when rejected
    "mean": "float",  # the prepared pixels, 0..255; null when rejected
    "std": "float",
    "label": "string",  # the class's name; null without classes
    "caption": "string",  # null without one
    "no_caption": "string",  # missing | empty | not UTF-8; null with a caption, and where captions are not read
}
"""Arrow's type of each column."""


def schema(columns: Sequence[str] = tuple(COLUMNS)) -> "pa.Schema":
    """Return the schema of these columns."""
    import pyarrow as pa

    return pa.schema(
        [pa.field(name, pa.type_for_alias(COLUMNS[name]), name not in ("path", "status")) for name in columns]
    )


def part_path(prepared: Path, number: int) -> Path:
    """Return the path of a part of the manifest in the folder `prepared`."""
    return prepared / FOLDER / f"part-{number:05d}.parquet"


def parts(prepared: Path) -> list[Path]:
    """Return the parts in order. Raises UserError if there are none, or one has another name than `part_path` gives."""
    found = {path.name for path in (prepared / FOLDER).glob("part-*.parquet")}
    if not found:
        raise UserError(f"{prepared / FOLDER} has no part of a manifest; create it with `dvc repro -f -s prepare`")
    expected = [part_path(prepared, number) for number in range(len(found))]
    if missing := [path.name for path in expected if path.name not in found]:
        raise UserError(
            f"{prepared / FOLDER} has {len(found)} parts of a manifest, among them no {missing[0]}; {PREPARE_AGAIN}"
        )
    return expected


def rows_of(part: Path) -> int:
    """Return the number of rows of a part, from its footer. Raises UserError if the part is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(part).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(part, error) from None


def read_part(part: Path, columns: Sequence[str] = tuple(COLUMNS)) -> "pa.Table":
    """Read columns of a part. Raises UserError if the part is damaged or has other columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(part) as file:
            return file.read(list(columns), use_threads=False).select(list(columns)).cast(schema(columns))
    except (pa.ArrowException, OSError, KeyError) as error:
        raise _damaged(part, error) from None


def read(prepared: Path, columns: Sequence[str] = tuple(COLUMNS)) -> "Iterator[pa.Table]":
    """Yield the rows in order, a part at a time. Raises UserError as `parts` and `read_part` do."""
    for part in parts(prepared):
        yield read_part(part, columns)


def rows_at(prepared: Path, rows: "np.ndarray", columns: Sequence[str] = tuple(COLUMNS)) -> "pa.Table":
    """Return the rows with these numbers, int64 [n], in this order; only parts that have some are read.

    Raises UserError as `parts` and `read_part` do, and IndexError for a number that the manifest does not have.
    """
    import numpy as np
    import pyarrow as pa

    paths = parts(prepared)
    starts = np.cumsum([0, *(rows_of(path) for path in paths)])
    if len(rows) and not (rows.min() >= 0 and rows.max() < starts[-1]):
        raise IndexError(f"the manifest has {starts[-1]} rows")
    order = np.argsort(rows, kind="stable")
    bounds = np.searchsorted(rows[order], starts)
    chosen = [
        read_part(path, columns).take(rows[order[first:last]] - start)
        for path, start, first, last in zip(paths, starts, bounds, bounds[1:], strict=False)
        if first < last
    ]
    back = np.empty(len(rows), np.int64)
    back[order] = np.arange(len(rows))
    return pa.concat_tables(chosen).take(back) if chosen else schema(columns).empty_table()


def rejected_files(prepared: Path, *, most: int) -> list[tuple[str, str]]:
    """Return the path and the reason of the first `most` rejected files."""
    import pyarrow.compute as pc

    found: list[tuple[str, str]] = []
    for part in read(prepared, ["path", "reason", "status"]):
        rows = part.filter(pc.equal(part["status"], "rejected")).slice(0, most - len(found)).to_pylist()
        found += [(row["path"], row["reason"]) for row in rows]
        if len(found) >= most:
            break
    return found


def _damaged(part: Path, error: BaseException) -> UserError:
    sentence = " ".join(str(error).split())
    return UserError(f"{part} cannot be read as a part of the manifest ({sentence}); {PREPARE_AGAIN}")


PREPARE_AGAIN = "the prepared data were changed or damaged; make them again with `dvc repro -f -s prepare`"
