"""The checkpoints in a training's folder: their names, which files belong to one, and their removal.

A checkpoint is the file `checkpoint-<images seen>-<first 16 hex digits of its sha256>.safetensors`. The one of a single
process contains the state. The one of several processes lists their parts, which are written before it:
`part-<images seen>-<session>-<rank>-<hash>.safetensors`. A part that no checkpoint lists is a leftover.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ddpm.training import checkpoint_file

FORMAT = "ddpm-checkpoint-3"
KEPT = 2


def name_of(images_seen: int) -> str:
    """Return the name of a checkpoint up to its hash."""
    return f"checkpoint-{images_seen:012d}"


def part_name(images_seen: int, session: str, rank: int) -> str:
    """Return the name of a process's part up to its hash; `session` is that of all processes that write together."""
    return f"part-{images_seen:012d}-{session}-{rank:05d}"


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a training, oldest first; `restore` checks whether they are complete."""
    return sorted(folder.glob("checkpoint-*.safetensors"))


def part_of(folder: Path, images_seen: int, session: str, rank: int) -> Path | None:
    """Return the complete part of a process; None if it is not there yet."""
    return next(folder.glob(f"{part_name(images_seen, session, rank)}-*.safetensors"), None)


def header_of(path: Path) -> dict[str, Any]:
    """Return the header of a checkpoint. Raises ValueError or SafetensorError if it is not one of this format."""
    stored = checkpoint_file.header_of(path).get(FORMAT)
    if stored is None:
        raise ValueError(f"its header has no {FORMAT!r}: another version or program wrote it")
    header: dict[str, Any] = json.loads(stored)
    return header


def remove_others(newest: Path) -> None:
    """Remove other checkpoints of the position of `newest`, and of those before it all but the last ones."""
    folder, position = newest.parent, newest.name.rpartition("-")[0]
    others = [other for other in checkpoints(folder) if other != newest]
    same_position = [other for other in others if other.name.startswith(position)]
    before = [other for other in others if other not in same_position]
    for old in same_position + before[: -(KEPT - 1)]:
        old.unlink(missing_ok=True)
    _remove_unlisted_parts(folder)


def remove_leftovers(folder: Path) -> None:
    """Remove what an interrupted write leaves: parts without a checkpoint, and temporary files, ours and safetensors'.

    No process may be writing a checkpoint there.
    """
    for pattern in ("checkpoint-*.part", "part-*.part", ".tmp*"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
    _remove_unlisted_parts(folder)


def clear(folder: Path, *, but: int = 0) -> None:
    """Remove a training's checkpoints except the last `but`, and the folder if it is empty."""
    there = checkpoints(folder)
    for path in there[: len(there) - but]:
        path.unlink()
    remove_leftovers(folder)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _remove_unlisted_parts(folder: Path) -> None:
    """Remove the parts that no checkpoint lists; none while a checkpoint cannot be read, because it may list them."""
    parts = list(folder.glob("part-*.safetensors"))
    listed: set[str] = set()
    for path in checkpoints(folder) if parts else []:
        try:
            listed.update(header_of(path)["parts"])
        except OSError:
            return
        except (SafetensorError, ValueError, KeyError, TypeError):  # a damaged one has no parts
            continue
    for part in parts:
        if part.name not in listed:
            part.unlink(missing_ok=True)
