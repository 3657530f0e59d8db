"""Safetensors files named by their content: written atomically and durably, verified, and read piece by piece."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ddpm.files import flush_names

OFFSETS, OFFSET = "DCP_SHARDING_INFO", "saved_offsets"
"""Keys of the header by which torch.distributed.checkpoint stores the position of a piece in its whole tensor."""
_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def write(folder: Path, name: str, tensors: dict[str, Tensor], header: dict[str, str]) -> Path:
    """Write a file to a temporary name, flush it, and rename it to `name`-<first 16 hex digits of its sha256>.

    The tensors must be contiguous and on the CPU. Other threads of Python run meanwhile.
    Raises OSError or SafetensorError; then the temporary file may be left.
    """
    aside = folder / f"{name}.part"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, aside, header)
    with open(aside, "rb+") as file:
        os.fsync(file.fileno())
    path = folder / f"{name}-{digest(aside)}.safetensors"
    os.replace(aside, path)
    flush_names(folder)
    return path


def digest(path: Path) -> str:
    """Return the first 16 hex digits of the sha256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def require_undamaged(path: Path) -> None:
    """Raise ValueError unless the file's content has the hash in its name."""
    expected = path.stem.rpartition("-")[2]
    if (found := digest(path)) != expected:
        raise ValueError(f"its content has the hash {found}, expected {expected}: it is damaged or was changed")


def header_of(path: Path) -> dict[str, str]:
    """Return the texts in the header of a file. Raises SafetensorError or OSError."""
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def offsets(pieces: dict[str, tuple[int, ...]]) -> dict[str, str]:
    """Return the header's text about the positions of a file's pieces in their tensors."""
    return {OFFSETS: json.dumps({name: {OFFSET: list(offset)} for name, offset in pieces.items()})}


class _Stored(NamedTuple):
    """A piece of a tensor in a file."""

    file: Any
    offset: tuple[int, ...]
    shape: tuple[int, ...]


class Pieces:
    """The tensors whose pieces are in several files. Only what is read is in memory."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Read the headers. Raises SafetensorError, OSError, or ValueError if a piece is missing."""
        self.shapes: dict[str, tuple[int, ...]] = {}
        """Shape of each whole tensor."""
        self.types: dict[str, torch.dtype] = {}
        self._pieces: dict[str, list[_Stored]] = {}
        for path in paths:
            file = safe_open(path, framework="pt")
            placed = json.loads((file.metadata() or {}).get(OFFSETS, "{}"))
            for name in file.keys():  # noqa: SIM118
                stored = file.get_slice(name)
                shape = tuple(stored.get_shape())
                offset = tuple(placed[name][OFFSET]) if placed else (0,) * len(shape)
                ends = (start + length for start, length in zip(offset, shape, strict=True))
                self.shapes[name] = tuple(map(max, ends, self.shapes.get(name, (0,) * len(shape))))
                self.types[name] = _TYPES[stored.get_dtype()]
                self._pieces.setdefault(name, []).append(_Stored(file, offset, shape))
        for name, pieces in self._pieces.items():
            is_repeated = len({piece.offset for piece in pieces}) < len(pieces)
            if is_repeated or sum(_size(piece.shape) for piece in pieces) != _size(self.shapes[name]):
                raise ValueError(f"pieces of {name} are missing or overlap")

    def read(self, name: str) -> Tensor:
        """Return the whole tensor, on the CPU."""
        return self.read_box(name, (0,) * len(self.shapes[name]), self.shapes[name])

    def read_box(self, name: str, offset: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
        """Return the box of the tensor with this first position and shape, on the CPU."""
        pieces = self._pieces[name]
        for piece in pieces:
            if (piece.offset, piece.shape) == (offset, shape):
                return piece.file.get_tensor(name)
        box = torch.empty(shape, dtype=self.types[name])
        for piece in pieces:
            starts = [max(a, b) for a, b in zip(offset, piece.offset, strict=True)]
            ends = [min(a + m, b + n) for a, m, b, n in zip(offset, shape, piece.offset, piece.shape, strict=True)]
            if all(start < end for start, end in zip(starts, ends, strict=True)):
                there = tuple(slice(s - o, e - o) for s, e, o in zip(starts, ends, piece.offset, strict=True))
                here = tuple(slice(s - o, e - o) for s, e, o in zip(starts, ends, offset, strict=True))
                box[here] = piece.file.get_slice(name)[there]
        return box


def _size(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())
