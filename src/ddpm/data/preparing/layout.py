"""What the place of a file in a folder says: its class, its split, or that it is no part of the images."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ddpm.data.preparing.reasons import OUTSIDE_CLASSES, OUTSIDE_SPLITS

TRAIN, TEST, OPEN = 0, 1, -1
"""Codes of a split; OPEN is drawn later."""
_HELD_OUT_NAMES = ("test", "val", "valid", "validation")
_TEXT = {
    ".csv",
    ".dvc",
    ".htm",
    ".html",
    ".json",
    ".jsonl",
    ".md",
    ".rst",
    ".tsv",
    ".txt",
    ".xml",
    ".yaml",
    ".yml",
}
_LITTER = {"thumbs.db", "desktop.ini", "license", "readme"}


@dataclass(frozen=True)
class Placed:
    """Per file: the split's code, the index of the class in `classes` (-1: none), and why it cannot be used."""

    splits: list[int]
    labels: list[int]
    reasons: list[str | None]
    classes: tuple[str, ...]


def is_ignored(path: str) -> bool:
    """Hidden files, what operating systems leave behind, and text beside the images: not counted as found."""
    *folders, name = path.lower().split("/")
    hidden = name.startswith(".") or any(folder.startswith(".") or folder == "__macosx" for folder in folders)
    return hidden or name in _LITTER or PurePosixPath(name).suffix in _TEXT


def place(paths: Sequence[str], *, with_labels: bool) -> Placed:
    """Split and class of each relative path.

    Folders that all files share say nothing and are left out. Then `train/` beside `test/` (or, without a
    `test/`, beside `val/`, `valid/` or `validation/`) is the split, and the next folder is the class, however
    deep the file lies in it. Without folders there are no classes.
    """
    shared = _shared_folders(paths)
    reasons: list[str | None] = [None] * len(paths)
    splits = [OPEN] * len(paths)
    depth = shared  # of the folder that is the class
    codes = _codes({_folder(path, shared).lower() for path in paths})
    if codes is not None:
        splits = [codes.get(_folder(path, shared).lower(), OPEN) for path in paths]
        reasons = [OUTSIDE_SPLITS if split == OPEN else None for split in splits]
        depth += 1
    names = {_folder(path, depth) for path, reason in zip(paths, reasons, strict=True) if reason is None} - {""}
    if not with_labels or not names:
        return Placed(splits, [-1] * len(paths), reasons, ())
    classes = tuple(sorted(names))
    index = {name: number for number, name in enumerate(classes)}
    labels = [-1] * len(paths)
    for row, path in enumerate(paths):
        if reasons[row] is None:
            labels[row] = index.get(_folder(path, depth), -1)
            reasons[row] = None if labels[row] >= 0 else OUTSIDE_CLASSES
    return Placed(splits, labels, reasons, classes)


def _shared_folders(paths: Sequence[str]) -> int:
    """How many folders all files share: as many as the first and the last by name do."""
    if not paths:
        return 0
    first, last = (path.split("/")[:-1] for path in (min(paths), max(paths)))
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))


def _folder(path: str, depth: int) -> str:
    """The name of the folder at this depth, "" where the file stands above it."""
    parts = path.split("/", depth + 1)
    return parts[depth] if len(parts) > depth + 1 else ""


def _codes(folders: set[str]) -> dict[str, int] | None:
    """By the name of the first folder; None when these are not `train` and something held out."""
    held_out = next((name for name in _HELD_OUT_NAMES if name in folders), None)
    return {"train": TRAIN, held_out: TEST} if "train" in folders and held_out is not None else None
