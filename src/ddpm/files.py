"""Files that a reader never sees half of, nor after the power has failed."""

import json
import os
from pathlib import Path
from typing import IO, Any


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Indented JSON, written aside and renamed. NaN and infinity are refused: JSON has no words for them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    aside.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n")
    os.replace(aside, path)


def flush(file: IO[Any]) -> None:
    """To the disk, so that a rename that follows never names half of a file."""
    file.flush()
    os.fsync(file.fileno())


def flush_names(folder: Path) -> None:
    """Makes renames in the folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_tree(folder: Path) -> None:
    """Every file below the folder and every name in it, before the folder itself is renamed."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(parent, name), "rb") as file:
                os.fsync(file.fileno())
        flush_names(Path(parent))
