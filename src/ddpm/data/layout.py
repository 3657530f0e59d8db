"""What the place of a file in a folder says: its class, its split, or that it is no part of the images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ddpm.data.reasons import OUTSIDE_CLASSES, OUTSIDE_SPLITS

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
    parts = _without_shared_folders([path.split("/") for path in paths])
    splits = _splits([file[0].lower() if len(file) > 1 else "" for file in parts])
    reasons: list[str | None] = [None] * len(parts)
    if splits is None:
        splits = [OPEN] * len(parts)
    else:
        reasons = [OUTSIDE_SPLITS if split == OPEN else None for split in splits]
        parts = [file[1:] for file in parts]
    usable = [file for file, reason in zip(parts, reasons, strict=True) if reason is None]
    if not with_labels or all(len(file) < 2 for file in usable):
        return Placed(splits, [-1] * len(parts), reasons, ())
    classes = tuple(sorted({file[0] for file in usable if len(file) > 1}))
    index = {name: number for number, name in enumerate(classes)}
    labels = []
    for row, file in enumerate(parts):
        labels.append(index[file[0]] if reasons[row] is None and len(file) > 1 else -1)
        if reasons[row] is None and len(file) < 2:
            reasons[row] = OUTSIDE_CLASSES
    return Placed(splits, labels, reasons, classes)


def _without_shared_folders(parts: list[list[str]]) -> list[list[str]]:
    shared = 0
    while parts and all(len(file) > shared + 1 and file[shared] == parts[0][shared] for file in parts):
        shared += 1
    return [file[shared:] for file in parts]


def _splits(folders: list[str]) -> list[int] | None:
    """Codes by the name of the first folder; None when these are not `train` and something held out."""
    there = set(folders)
    held_out = next((name for name in _HELD_OUT_NAMES if name in there), None)
    if "train" not in there or held_out is None:
        return None
    return [{"train": TRAIN, held_out: TEST}.get(folder, OPEN) for folder in folders]
