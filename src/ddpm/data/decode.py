"""One image of any mode and size becomes uint8 [C,H,W], or the reason why it cannot.

What is done, in this order: the orientation that EXIF asks for; 16-bit grey scaled to 8; transparency laid over
white; grey or RGB; a centre crop to the square, or bars around it (black; white where the image is transparent);
Lanczos to the size. Of an animation the first frame counts.
"""

import hashlib
import os
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BufferedReader
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ddpm.data.reasons import DAMAGED, NO_IMAGE, REASONS, SPECIAL_FILE, TOO_LARGE, UNKNOWN_VALUES, UNREADABLE

_FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "MPO"),
    *("PPM", "TGA", "ICO", "QOI", "SGI", "PCX", "DIB"),
)
"""Formats of pixels. Others that Pillow opens run programs (EPS) or draw (WMF)."""
_GREY_MODES = ("1", "L", "LA", "La", "I", "F")

Input = str | Callable[[], tuple[Image.Image, int]]
"""Path of a file, or a function that gives the image and its label (-1: none)."""

RECORD = np.dtype(
    [
        ("reason", "u1"),  # 0: decoded, else the place in REASONS, counted from 1
        ("width", "i4"),
        ("height", "i4"),
        ("mode", "S8"),
        ("sha256", "u1", 32),  # of the file's bytes, or of the pixels where there is no file
        ("pixel_sha256", "u1", 32),
        ("mean", "f4"),
        ("std", "f4"),
        ("label", "i4"),  # -1 unless the input gives one
    ]
)
"""What is kept of an image besides its prepared pixels; zeros where it is not known."""


@dataclass(frozen=True)
class Target:
    """What every image becomes."""

    size: int
    channels: int
    fit: Literal["crop", "pad"]


@dataclass(frozen=True)
class Header:
    """What an image says of itself before its pixels are decoded."""

    shorter_side: int
    grey: bool


class _RejectedError(Exception):
    """The image cannot be used; the only argument is the reason."""


def code_of(reason: str | None) -> int:
    """The reason as RECORD holds it."""
    return 0 if reason is None else REASONS.index(reason) + 1


@contextmanager
def pixel_limit(max_pixels: int) -> Iterator[None]:
    """Inside, Pillow refuses an image of more pixels by its header, before it allocates anything."""
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged metadata, which is not used
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def read_headers(inputs: Sequence[Input]) -> list[Header | None]:
    """The headers, in order; None where the image cannot be used."""
    headers: list[Header | None] = []
    for item in inputs:
        try:
            with _opened(item) as image:
                headers.append(Header(min(image.size), _is_grey(image)))
        except _RejectedError:
            headers.append(None)
    return headers


def decode(inputs: Sequence[Input], target: Target) -> tuple[np.ndarray, np.ndarray]:
    """Records [N] of RECORD, and the pixels uint8 [n,C,H,W] of the n images among them that could be decoded."""
    records = np.zeros(len(inputs), RECORD)
    records["label"] = -1
    pixels = np.empty((len(inputs), target.channels, target.size, target.size), np.uint8)
    n = 0
    for row, item in enumerate(inputs):
        record = records[row]  # a view
        try:
            with _opened(item, record) as image:
                pixels[n] = _pixels(image, target)
        except _RejectedError as rejected:
            record["reason"] = code_of(str(rejected))
            continue
        record["pixel_sha256"] = np.frombuffer(hashlib.sha256(pixels[n]).digest(), np.uint8)
        n += 1
    decoded = records["reason"] == 0
    records["mean"][decoded] = pixels[:n].mean(axis=(1, 2, 3))
    records["std"][decoded] = pixels[:n].std(axis=(1, 2, 3))
    return records, pixels[:n]


@contextmanager
def _opened(item: Input, record: np.void | None = None) -> Iterator[Image.Image]:
    """The image, its pixels not yet decoded; hash, size and mode go into the record.

    Whatever goes wrong, inside the block too, is raised as _RejectedError.
    """
    try:
        if callable(item):
            image, label = item()
            if record is not None:
                record["label"] = label
                record["sha256"] = _digest(hashlib.sha256(image.tobytes()))
            yield _measured(image, record)
        else:
            with _regular_file(item) as file:
                if record is not None:
                    record["sha256"] = _digest(hashlib.file_digest(file, "sha256"))
                    file.seek(0)
                with Image.open(file, formats=_formats()) as image:
                    yield _measured(image, record)
    except (_RejectedError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise _RejectedError(NO_IMAGE) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _RejectedError(TOO_LARGE) from None
    except Exception:  # decoders raise nearly anything for bytes that break their format
        raise _RejectedError(DAMAGED) from None


def _regular_file(path: str) -> BufferedReader:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait forever
            raise _RejectedError(SPECIAL_FILE)
        return open(path, "rb")
    except OSError:
        raise _RejectedError(UNREADABLE) from None


def _digest(hashed: Any) -> np.ndarray:
    return np.frombuffer(hashed.digest(), np.uint8)


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _measured(image: Image.Image, record: np.void | None) -> Image.Image:
    if record is not None:
        record["width"], record["height"] = image.size
        record["mode"] = image.mode
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise _RejectedError(TOO_LARGE)
    return image


def _is_grey(image: Image.Image) -> bool:
    if image.mode == "P" and image.palette is not None:
        table = np.frombuffer(image.palette.tobytes(), np.uint8)
        table = table.reshape(-1, len(image.palette.mode))[:, :3]
        return bool((table == table[:, :1]).all())
    return image.mode in _GREY_MODES or image.mode.startswith("I;16")


def _pixels(image: Image.Image, target: Target) -> np.ndarray:
    """uint8 [C,size,size]."""
    side = min(image.size) if target.fit == "crop" else max(image.size)
    # A JPEG can be decoded at 1/2, 1/4 or 1/8; twice the target is left for Lanczos.
    width, height = (-(-2 * target.size * edge // side) for edge in image.size)
    image.draft(None, (width, height))
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    flat, background = _flattened(image)
    square = _square(flat.convert("L" if target.channels == 1 else "RGB"), target, background)
    return np.asarray(square).reshape(target.size, target.size, target.channels).transpose(2, 0, 1)


def _flattened(image: Image.Image) -> tuple[Image.Image, int]:
    """The image as 1, L or RGB, and the level 0..255 of bars beside it."""
    if image.mode == "I" or image.mode.startswith("I;16"):  # "I" is Pillow's mode of some 16-bit formats
        return _scaled(np.asarray(image), 65535), 0
    if image.mode == "F":
        return _scaled(np.asarray(image), 1), 0
    if image.has_transparency_data:
        layer = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), layer).convert("RGB"), 255
    return image if image.mode in ("1", "L") else image.convert("RGB"), 0


def _scaled(values: np.ndarray, highest: int) -> Image.Image:
    """0..highest to 0..255, rounded to the nearest level."""
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= highest):  # also true for NaN
        raise _RejectedError(UNKNOWN_VALUES)
    return Image.fromarray(np.rint(values * (255 / highest)).astype(np.uint8))


def _square(image: Image.Image, target: Target, background: int) -> Image.Image:
    """[size,size], by centre crop or by bars on both sides."""
    size = target.size
    width, height = image.size
    if target.fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return _resized(image, (size, size), (left, top, left + side, top + side))
    side = max(width, height)
    inner = (max(1, round(width * size / side)), max(1, round(height * size / side)))
    inside = _resized(image, inner, (0, 0, width, height))
    if inner == (size, size):
        return inside
    canvas = Image.new(image.mode, (size, size), (background,) * len(image.getbands()))
    canvas.paste(inside, ((size - inner[0]) // 2, (size - inner[1]) // 2))
    return canvas


def _resized(image: Image.Image, size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    if size == (box[2] - box[0], box[3] - box[1]):
        return image.crop(box)
    return image.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
