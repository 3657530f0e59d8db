"""The captions of a split: a column of texts in the order of its images, null where an image has none."""

from collections.abc import Sequence
from pathlib import Path

from ddpm.errors import UserError

CAPTIONS = "captions.parquet"
"""Name of the file."""


def write_captions(folder: Path, captions: Sequence[str | None]) -> None:
    """Write the captions into the folder of a split; equal captions give an equal file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"caption": pa.array(captions, pa.string())}), folder / CAPTIONS)


def read_captions(folder: Path) -> list[str | None]:
    """Return the captions of the split in `folder`. Raise UserError if captions were not read, or are damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / CAPTIONS
    try:
        return pq.read_table(path, columns=["caption"])["caption"].to_pylist()
    except FileNotFoundError:
        raise UserError(
            f"{path} was not found; set data.captions to true and prepare the images again with `dvc repro prepare`"
        ) from None
    except (pa.ArrowException, OSError, KeyError) as error:
        sentence = " ".join(str(error).split())
        raise UserError(
            f"{path} cannot be read as captions ({sentence}); make it again with `dvc repro -f -s prepare`"
        ) from None
