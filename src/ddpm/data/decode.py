"""Files become records and pixels, or the reason why they cannot."""

import hashlib
import os
import stat
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from io import BytesIO
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError, features

from ddpm.data import pixels as pixels_module
from ddpm.data.pixels import Target, UnknownValuesError, is_grey, pixels_of
from ddpm.data.reasons import DAMAGED, NO_IMAGE, REASONS, SPECIAL_FILE, TOO_LARGE, UNKNOWN_VALUES, UNREADABLE

_FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "MPO"),
    *("PPM", "TGA", "ICO", "QOI", "SGI", "PCX", "DIB"),
)
"""Formats of pixels. Others that Pillow opens run programs (EPS) or draw (WMF)."""
_READ_WHOLE_BYTES = 1 << 24
"""A larger file is hashed and decoded piece by piece."""
_STATISTICS_BYTES = 1 << 20

Input = str | Callable[[], tuple[Image.Image, int]]
"""Path of a file, or a function that gives the image and its label (-1: none)."""

RECORD = np.dtype(
    [
        ("reason", "u1"),  # 0: decoded, else the place in REASONS, counted from 1
        ("header", "u1"),  # NO_HEADER, COLOUR or GREY
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

NO_HEADER, COLOUR, GREY = 0, 1, 2
"""What an image says of itself before its pixels are decoded; NO_HEADER where it cannot be used."""

# Digests are set as byte strings, which numpy takes from a tuple; in memory they are the same.
_ROW = np.dtype([(name, "S32" if "sha256" in name else RECORD[name]) for name in RECORD.names or ()])


class _RejectedError(Exception):
    """The image cannot be used; the only argument is the reason."""


class _Seen:
    """What is known of an image so far."""

    __slots__ = ("header", "height", "label", "mode", "sha256", "width")

    def __init__(self) -> None:
        self.header, self.width, self.height, self.mode, self.sha256, self.label = NO_HEADER, 0, 0, "", b"", -1


def code_of(reason: str | None) -> int:
    """The reason as RECORD holds it."""
    return 0 if reason is None else REASONS.index(reason) + 1


@cache
def decoder_fingerprint() -> str:
    """sha256 of what the records and pixels of a file depend on beside target and limit: this code and Pillow's."""
    hashed = hashlib.sha256()
    for module in (__file__, pixels_module.__file__):
        with open(module, "rb") as file:
            hashed.update(file.read())
    libraries = ("pil", "jpg", "libjpeg_turbo", "jpg_2000", "zlib", "libtiff", "webp", "avif")
    hashed.update(repr([(name, features.version(name)) for name in libraries]).encode())
    return hashed.hexdigest()


class _Limit:
    """Pillow's limit belongs to the whole process: threads that decode side by side set and lift it once."""

    def __init__(self) -> None:
        self.lock, self.users = threading.Lock(), 0
        self.pixels_before: int | None = None
        self.warnings_before = warnings.catch_warnings()


_limit = _Limit()


@contextmanager
def pixel_limit(max_pixels: int) -> Iterator[None]:
    """Inside, Pillow refuses an image of more pixels by its header, before it allocates anything.

    Blocks of several threads may overlap where their limits are equal.
    """
    with _limit.lock:
        _limit.users += 1
        if _limit.users == 1:
            _limit.pixels_before, _limit.warnings_before = Image.MAX_IMAGE_PIXELS, warnings.catch_warnings()
            _limit.warnings_before.__enter__()
            warnings.simplefilter("ignore")  # of damaged metadata, which is not used
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        yield
    finally:
        with _limit.lock:
            _limit.users -= 1
            if _limit.users == 0:
                Image.MAX_IMAGE_PIXELS = _limit.pixels_before
                _limit.warnings_before.__exit__(None, None, None)


def read_headers(inputs: Sequence[Input]) -> tuple[np.ndarray, np.ndarray]:
    """int32 [N] the shorter side in pixels, uint8 [N] NO_HEADER, COLOUR or GREY."""
    sides, headers = np.zeros(len(inputs), np.int32), np.zeros(len(inputs), np.uint8)
    for row, item in enumerate(inputs):
        seen = _Seen()
        try:
            with _opened(item, seen, hashed=False):
                sides[row], headers[row] = min(seen.width, seen.height), seen.header
        except _RejectedError:
            pass
    return sides, headers


def decode(inputs: Sequence[Input], target: Target) -> tuple[np.ndarray, np.ndarray]:
    """Records [N] of RECORD, and the pixels uint8 [n,C,H,W] of the n images among them that could be decoded."""
    rows = np.empty((len(inputs), target.bytes), np.uint8)
    n = 0
    found = []
    for item in inputs:
        seen, reason = _Seen(), 0
        try:
            with _opened(item, seen, hashed=True) as image:
                rows[n] = np.frombuffer(pixels_of(image, target), np.uint8)
            n += 1
        except _RejectedError as rejected:
            reason = code_of(str(rejected))
        size = (seen.width, seen.height)
        found.append((reason, seen.header, *size, seen.mode.encode(), seen.sha256, b"", 0, 0, seen.label))
    records = np.array(found, _ROW).view(RECORD)
    pixels = rows[:n].reshape(n, target.size, target.size, target.channels).transpose(0, 3, 1, 2)
    pixels = np.ascontiguousarray(pixels)
    decoded = records["reason"] == 0
    digests = b"".join([hashlib.sha256(image.data).digest() for image in pixels])
    records["pixel_sha256"][decoded] = np.frombuffer(digests, np.uint8).reshape(n, 32)
    records["mean"][decoded], records["std"][decoded] = _mean_and_std(pixels.reshape(n, target.bytes))
    return records, pixels


def _mean_and_std(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 [N] each, of uint8 [N,P]. Sums of integers, which float64 holds exactly; so the order cannot matter."""
    n, size = pixels.shape
    mean, std = np.zeros(n), np.zeros(n)
    step = max(1, _STATISTICS_BYTES // size)
    for start in range(0, n, step):
        part = slice(start, start + step)
        values = pixels[part].astype(np.float64)
        total, squares = values.sum(axis=1), np.einsum("np,np->n", values, values)
        # Python's integers: P times the squares may exceed 64 bits.
        variance = [size * int(square) - int(one) ** 2 for one, square in zip(total, squares, strict=True)]
        mean[part], std[part] = total / size, np.sqrt(np.array(variance, np.float64)) / size
    return mean, std


@contextmanager
def _opened(item: Input, seen: _Seen, *, hashed: bool) -> Iterator[Image.Image]:
    """The image, its pixels not yet decoded; what is known of it goes into `seen`.

    Whatever goes wrong, inside the block too, is raised as _RejectedError.
    """
    try:
        if callable(item):
            image, seen.label = item()
            if hashed:
                seen.sha256 = hashlib.sha256(image.tobytes()).digest()
            yield _measured(image, seen)
        else:
            with _content(item, seen, hashed=hashed) as file, Image.open(file, formats=_formats()) as image:
                yield _measured(image, seen)
    except (_RejectedError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise _RejectedError(NO_IMAGE) from None
    except UnknownValuesError:
        raise _RejectedError(UNKNOWN_VALUES) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _RejectedError(TOO_LARGE) from None
    except Exception:  # decoders raise nearly anything for bytes that break their format
        raise _RejectedError(DAMAGED) from None


def _content(path: str, seen: _Seen, *, hashed: bool) -> BinaryIO:
    """The file, or its bytes where it is small; its hash goes into `seen`."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait forever
            raise _RejectedError(SPECIAL_FILE)
        if not hashed or status.st_size > _READ_WHOLE_BYTES:
            file = open(path, "rb")  # noqa: SIM115 (closed by the caller)
        else:
            with open(path, "rb", buffering=0) as small:
                content = small.read()
            seen.sha256 = hashlib.sha256(content).digest()
            return BytesIO(content)
    except OSError:
        raise _RejectedError(UNREADABLE) from None
    if hashed:
        seen.sha256 = hashlib.file_digest(file, "sha256").digest()
        file.seek(0)
    return file


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _measured(image: Image.Image, seen: _Seen) -> Image.Image:
    seen.width, seen.height = image.size
    seen.mode = image.mode
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise _RejectedError(TOO_LARGE)
    with suppress(Exception):  # of a broken palette, which may still be decoded
        seen.header = GREY if is_grey(image) else COLOUR
    return image
