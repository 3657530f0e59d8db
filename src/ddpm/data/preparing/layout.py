"""Derive class and split of a file from its path, and recognise files that do not belong to the images."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ddpm.data.preparing.reasons import OUTSIDE_CLASSES, OUTSIDE_SPLITS

TRAIN, TEST, OPEN = 0, 1, -1
"""Codes of a split; for OPEN the split is drawn later."""
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
_LITTER = {
    "thumbs.db": "Thumbs.db",
    "ehthumbs.db": "ehthumbs.db",
    "desktop.ini": "desktop.ini",
    ".ds_store": ".DS_Store",
    "icon\r": "Icon",
    "picasa.ini": "picasa.ini",
    "license": "LICENSE",
    "readme": "README",
}
"""Names of files that are not images, in lower case, and how they are counted."""


@dataclass(frozen=True)
class Placed:
    """Per file: the split's code, the index of the class in `classes` (-1: none), and why the file is rejected."""

    splits: list[int]
    labels: list[int]
    reasons: list[str | None]
    classes: tuple[str, ...]


def ignored_as(path: str) -> str | None:
    """Return the name under which a file that does not count as found is counted; None for a file that counts.

    Such files are hidden, left by an operating system, or text.
    """
    *folders, name = path.lower().split("/")
    if name in _LITTER:
        return _LITTER[name]
    if name.startswith("._") or "__macosx" in folders:
        return "copies of file attributes by macOS"
    if name.startswith(".") or any(folder.startswith(".") for folder in folders):
        return "hidden files"
    suffix = PurePosixPath(name).suffix
    return f"*{suffix}" if suffix in _TEXT else None


def place(paths: Sequence[str], *, with_labels: bool) -> Placed:
    """Return split and class of each relative path.

    Leading folders that all files share are skipped. Then `train/` beside `test/` (or, without a `test/`, beside
    `val/`, `valid/` or `validation/`) is the split, and the next folder is the class, at whatever depth the file is
    inside it. Without folders there are no classes.
    """
    shared = _shared_folders(paths)
    reasons: list[str | None] = [None] * len(paths)
    splits = [OPEN] * len(paths)
    depth = shared  # depth of the class folder
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
    """Return how many leading folders all files share: those that the first and the last path by name share."""
    if not paths:
        return 0
    first, last = (path.split("/")[:-1] for path in (min(paths), max(paths)))
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))


def _folder(path: str, depth: int) -> str:
    """Return the name of the folder at this depth, or "" if the path has no folder there."""
    parts = path.split("/", depth + 1)
    return parts[depth] if len(parts) > depth + 1 else ""


def _codes(folders: set[str]) -> dict[str, int] | None:
    """Return the split's code by folder name; None unless there are `train` and a folder of held-out images."""
    held_out = next((name for name in _HELD_OUT_NAMES if name in folders), None)
    return {"train": TRAIN, held_out: TEST} if "train" in folders and held_out is not None else None
