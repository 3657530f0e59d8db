"""Sources of images. A source lists the files that it found; nothing is decoded here.

To add a source, write a function that returns a Found and call it in `find`.
"""

import os
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from ddpm.data.preparing import captions, digit_pairs, layout, tree
from ddpm.data.preparing.archive import Member, unpack
from ddpm.data.preparing.decode_file import Input
from ddpm.data.preparing.layout import OPEN, TEST, TRAIN
from ddpm.data.preparing.settings import Data
from ddpm.errors import UserError


@dataclass(frozen=True)
class Found:
    """The content of a source in a fixed order. All sequences have one entry per file."""

    name: str
    paths: Sequence[str]
    """Paths in the manifest: relative to the folder or archive, or such as `train/000042` where there are no files."""
    inputs: Sequence[Input]
    splits: Sequence[int]
    """TRAIN, TEST, or OPEN if the split will be drawn."""
    labels: Sequence[int] | None
    """Index into classes, -1: none; None if the inputs return the labels."""
    reasons: Sequence[str | None]
    """Why a file is rejected by its path or kind; None if it is not."""
    classes: tuple[str, ...]
    ignored: dict[str, int]
    """Number of files that do not count as found, by name or kind (layout.ignored_as)."""
    kind: Literal["files", "memory"]
    """files: decoded in processes; memory: decoded in threads."""
    captions: Sequence[str] | None = None
    """The caption of each file, or why it has none (`captions.fault_of`); None if data.captions is false."""


def find(data: Data, *, raw: Path, scratch: Path) -> Found:
    """Return the images of `data.source`; an archive is unpacked under `scratch`.

    Raises UserError when no image was found, or when the source cannot be read.
    """
    if data.source == "digits":
        found = _digits(with_labels=data.labels)
    elif data.source == "digit_pairs":
        found = _digit_pairs(data)
    elif data.source == "folder":
        found = _folder(data, raw)
    elif data.source == "archive":
        found = _archive(data, raw, scratch)
    else:
        found = _torchvision(data, raw)
    if not found.paths:
        raise UserError(
            f"no images were found in {raw} ({sum(found.ignored.values())} hidden or text files do not count); "
            "put images there, or set data.source and data.path in params.yaml to where they are"
        )
    return found


def _digits(*, with_labels: bool) -> Found:
    """Return the 1,797 handwritten digits of scikit-learn, 8x8; their 17 levels 0..16 are scaled to 0..255."""
    images, labels = _digits_in_bytes()
    return Found(
        name="digits",
        paths=[f"digits/{row:04d}" for row in range(len(images))],
        inputs=[partial(_pair, image, int(label)) for image, label in zip(images, labels, strict=True)],
        splits=[OPEN] * len(images),
        labels=None,
        reasons=[None] * len(images),
        classes=tuple(str(digit) for digit in range(10)) if with_labels else (),
        ignored={},
        kind="memory",
    )


def _digit_pairs(data: Data) -> Found:
    """Return pictures of 16x16 of two of these digits each, with captions; see `digit_pairs`."""
    parts = digit_pairs.parts(*_digits_in_bytes())
    captions = [digit_pairs.caption(pair) for _, pairs, _ in parts for pair in pairs]
    return Found(
        name="digit_pairs",
        paths=[f"{name}/{row:04d}" for name, pairs, _ in parts for row in range(len(pairs))],
        inputs=[partial(_pair, picture, -1) for _, _, pictures in parts for picture in pictures],
        splits=[code for code, (_, pairs, _) in zip((TRAIN, TEST), parts, strict=True) for _ in pairs],
        labels=None,
        reasons=[None] * len(captions),
        classes=(),
        ignored={},
        kind="memory",
        captions=captions if data.captions else None,
    )


def _digits_in_bytes() -> tuple[np.ndarray, np.ndarray]:
    """Return the digits, uint8 [1797,8,8], and which they are, int64 [1797]."""
    pixels, labels = _read_digits()
    return np.rint(pixels * (255 / 16)).astype(np.uint8), np.array(labels)


def _read_digits() -> tuple[np.ndarray, list[int]]:
    """Return grey levels 0..16 [1797,8,8] and labels 0..9, as `sklearn.datasets.load_digits` does.

    The file is read directly, since importing scikit-learn takes longer than the rest of this stage.
    """
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise UserError("data.source is digits, which need scikit-learn; install it as requirements.lock pins it")
    path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if not path.is_file():
        raise UserError(f"{path} was not found in scikit-learn; install the version that requirements.lock pins")
    rows = np.loadtxt(path, delimiter=",")
    return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(int).tolist()


def _pair(image: np.ndarray, label: int) -> tuple[Image.Image, int]:
    return Image.fromarray(image), label


def _folder(data: Data, folder: Path) -> Found:
    if folder.is_file():
        raise UserError(f"data.path is {folder}, a file; set data.source to archive, or give a folder")
    if not folder.is_dir():
        raise UserError(f"data.path is {folder}, which was not found; give the folder of your images")
    found = tree.files(folder)
    names = sorted(name for name in found if layout.ignored_as(name) is None)
    placed = layout.place(names, with_labels=data.labels)
    return _placed(
        folder.resolve().name,
        names,
        _Inside(folder, names),
        placed,
        ignored=_ignored(data, found),
        captions=_captions(data, names, found, lambda name: folder / name),
    )


def _captions(data: Data, names: list[str], found: Iterable[str], where: Callable[[str], Path]) -> list[str] | None:
    if not data.captions or not names:
        return None

    def read(name: str, n: int) -> bytes:
        with where(name).open("rb") as file:
            return file.read(n)

    images, stems = set(names), captions.stems_of(names)
    others = (name for name in found if name not in images and _is_of_captions(name, stems))
    return captions.captions_of(names, others, read)


def _is_of_captions(name: str, stems: Container[str]) -> bool:
    """Whether captions are read from a file: not from a hidden one, nor from a copy by an operating system."""
    return captions.may_have_captions(name, stems) and str(layout.ignored_as(name)).startswith("*")


class _Inside(Sequence[Input]):
    """Paths of files in a folder, made on access: a million stored paths would take a hundred megabytes."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._folder, self._names = folder, names

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, row: Any) -> Any:
        return os.path.join(self._folder, self._names[row])


def _archive(data: Data, path: Path, scratch: Path) -> Found:
    unpacked = scratch / "unpacked"
    unpacked.mkdir()
    members = unpack(path, unpacked, max_bytes=data.archive_max_bytes, max_files=data.archive_max_files)
    counted = [member for member in members if layout.ignored_as(member.name) is None]
    counted.sort(key=lambda member: member.name)
    names = [member.name for member in counted]
    files = {member.name: member.file for member in members if member.file is not None}
    return _placed(
        path.name.split(".")[0],
        names,
        [str(member.file) for member in counted],
        _place_written(counted, with_labels=data.labels),
        ignored=_ignored(data, (member.name for member in members)),
        captions=_captions(data, names, files, lambda name: files[name]),
    )


def _ignored(data: Data, names: Iterable[str]) -> dict[str, int]:
    listed = list(names)
    stems = captions.stems_of(name for name in listed if data.captions and layout.ignored_as(name) is None)
    others = (name for name in listed if not (data.captions and _is_of_captions(name, stems)))
    return dict(sorted(Counter(filter(None, map(layout.ignored_as, others))).items()))


def _place_written(members: Sequence[Member], *, with_labels: bool) -> layout.Placed:
    """Return split and class of the members that were unpacked, by their names; the others keep their reason."""
    written = [row for row, member in enumerate(members) if member.reason is None]
    placed = layout.place([members[row].name for row in written], with_labels=with_labels)
    splits, labels = [OPEN] * len(members), [-1] * len(members)
    reasons = [member.reason for member in members]
    for place, row in enumerate(written):
        splits[row], labels[row], reasons[row] = placed.splits[place], placed.labels[place], placed.reasons[place]
    return layout.Placed(splits, labels, reasons, placed.classes)


def _placed(
    name: str,
    names: list[str],
    inputs: Sequence[Input],
    placed: layout.Placed,
    *,
    ignored: dict[str, int],
    captions: list[str] | None,
) -> Found:
    """Return the Found for files. `names` are sorted, so the order is the same on every file system and archive."""
    return Found(
        name=name,
        paths=names,
        inputs=inputs,
        splits=placed.splits,
        labels=placed.labels,
        reasons=placed.reasons,
        classes=placed.classes,
        ignored=ignored,
        kind="files",
        captions=captions,
    )


_BY_TRAIN: tuple[dict[str, Any], dict[str, Any]] = ({"train": True}, {"train": False})
_BY_SPLIT: tuple[dict[str, Any], dict[str, Any]] = ({"split": "train"}, {"split": "test"})
_TORCHVISION: dict[str, tuple[dict[str, Any], ...]] = {
    **dict.fromkeys(("MNIST", "FashionMNIST", "KMNIST", "QMNIST", "USPS", "CIFAR10", "CIFAR100"), _BY_TRAIN),
    **dict.fromkeys(("SVHN", "STL10", "Flowers102", "DTD", "Food101", "GTSRB", "PCAM", "CelebA"), _BY_SPLIT),
    **dict.fromkeys(("Country211", "RenderedSST2", "StanfordCars"), _BY_SPLIT),
    **dict.fromkeys(("OxfordIIITPet", "FGVCAircraft"), ({"split": "trainval"}, {"split": "test"})),
    **dict.fromkeys(("Imagenette", "CLEVRClassification"), ({"split": "train"}, {"split": "val"})),
    **dict.fromkeys(("EuroSAT", "SUN397", "Caltech101", "Caltech256", "SEMEION"), ({},)),
    "EMNIST": ({"split": "balanced", "train": True}, {"split": "balanced", "train": False}),
}
"""Arguments of each loader for the training images and, if the data set separates them, for the test images."""


def _torchvision(data: Data, root: Path) -> Found:
    """Return a data set of torchvision, read by its own loader, with its authors' split if there is one."""
    name = data.source.removeprefix("torchvision:")
    if name not in _TORCHVISION:
        raise UserError(f"data.source is {data.source}, expected torchvision: with one of {', '.join(_TORCHVISION)}")
    from torchvision import datasets

    if root.is_dir():  # otherwise downloading creates it
        tree.files(root)
    try:
        parts = [vars(datasets)[name](str(root), download=data.download, **part) for part in _TORCHVISION[name]]
    except (RuntimeError, OSError, ValueError, ImportError) as error:
        remedy = "check the network" if data.download else "set data.download to true"
        raise UserError(
            f"torchvision could not read {name} in {root} ({' '.join(str(error).split())}); "
            f"{remedy}, or put its files there"
        ) from None
    codes = (TRAIN, TEST) if len(parts) == 2 else (OPEN,)
    names = ("train", "test") if len(parts) == 2 else ("all",)
    sizes = [len(part) for part in parts]
    classes = getattr(parts[0], "classes", None) or getattr(parts[0], "categories", None) or ()
    return Found(
        name=name,
        paths=[f"{split}/{row:06d}" for split, n in zip(names, sizes, strict=True) for row in range(n)],
        inputs=[partial(_item, part, row) for part, n in zip(parts, sizes, strict=True) for row in range(n)],
        splits=[code for code, n in zip(codes, sizes, strict=True) for _ in range(n)],
        labels=None,
        reasons=[None] * sum(sizes),
        classes=tuple(str(label) for label in classes) if data.labels else (),
        ignored={},
        kind="memory",
    )


def _item(part: Any, row: int) -> tuple[Image.Image, int]:
    image, target = part[row]
    return image, int(target) if np.ndim(target) == 0 and not isinstance(target, str) else -1
