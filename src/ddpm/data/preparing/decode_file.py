"""Decode files to records and pixels, or to the reason why they are rejected."""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from io import BytesIO
from typing import BinaryIO

import numpy as np
from PIL import Image, features

from ddpm.data.preparing import footprint, formats, picture_file
from ddpm.data.preparing import pixels as pixels_module
from ddpm.data.preparing.picture_file import Reading, RejectedError, Seen, opened, pixel_limit, rejecting
from ddpm.data.preparing.pixels import Target, pixels_of
from ddpm.data.preparing.reasons import REASONS, SPECIAL_FILE, TOO_LARGE, UNREADABLE

_READ_WHOLE_BYTES = 1 << 24
"""A larger file is hashed and decoded piece by piece."""
_STATISTICS_BYTES = 1 << 20

Input = str | Callable[[], tuple[Image.Image, int]]
"""Path of a file, or a function that returns the image and its label (-1: none)."""

RECORD = np.dtype(
    [
        ("reason", "u1"),  # 0: decoded, else the index in REASONS, counted from 1
        ("header", "u1"),  # NO_HEADER, COLOUR or GREY
        ("width", "i4"),
        ("height", "i4"),
        ("mode", "S8"),
        ("sha256", "u1", 32),  # of the file's bytes, or of the pixels where there is no file
        ("pixel_sha256", "u1", 32),
        ("mean", "f4"),
        ("std", "f4"),
        ("label", "i4"),  # -1 unless the input has one
    ]
)
"""What is stored of an image besides its prepared pixels; unknown fields are 0."""

# The same memory layout with digests as byte strings, which numpy accepts in a tuple.
_ROW = np.dtype([(name, "S32" if "sha256" in name else RECORD[name]) for name in RECORD.names or ()])


def code_of(reason: str | None) -> int:
    """Return the code of the reason in RECORD."""
    return 0 if reason is None else REASONS.index(reason) + 1


@cache
def decoder_fingerprint() -> str:
    """Return a sha256 of the code that records and pixels depend on: this code, and the versions of Pillow's codecs."""
    hashed = hashlib.sha256()
    for module in (__file__, *(str(part.__file__) for part in (formats, footprint, picture_file, pixels_module))):
        with open(module, "rb") as file:
            hashed.update(file.read())
    libraries = ("pil", "jpg", "libjpeg_turbo", "jpg_2000", "zlib", "libtiff", "webp", "avif")
    hashed.update(repr([(name, features.version(name)) for name in libraries]).encode())
    return hashed.hexdigest()


def read_headers(inputs: Sequence[Input], reading: Reading) -> tuple[np.ndarray, np.ndarray]:
    """Return int32 [N], the shorter sides in pixels, and uint8 [N], each NO_HEADER, COLOUR or GREY."""
    sides, headers = np.zeros(len(inputs), np.int32), np.zeros(len(inputs), np.uint8)
    with pixel_limit(reading.max_pixels):
        for row, item in enumerate(inputs):
            seen = Seen()
            with suppress(RejectedError), _opened(item, seen, reading, hashed=False):
                sides[row], headers[row] = min(seen.width, seen.height), seen.header
    return sides, headers


def decode(inputs: Sequence[Input], target: Target, reading: Reading) -> tuple[np.ndarray, np.ndarray]:
    """Return records [N] of RECORD, and pixels uint8 [n,C,H,W] of the n images among them that could be decoded."""
    rows = np.empty((len(inputs), target.bytes), np.uint8)
    n = 0
    found = []
    with pixel_limit(reading.max_pixels):
        for item in inputs:
            seen, reason = Seen(), 0
            try:
                with _opened(item, seen, reading, hashed=True) as image:
                    rows[n] = np.frombuffer(pixels_of(image, target, reading.white), np.uint8)
                n += 1
            except RejectedError as rejected:
                reason = code_of(rejected.reason)
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
    """Return mean and standard deviation, float64 [N] each, of uint8 [N,P].

    The sums are integers that float64 represents exactly, so the result does not depend on the order of summation.
    """
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
def _opened(item: Input, seen: Seen, reading: Reading, *, hashed: bool) -> Iterator[Image.Image]:
    """Yield the image with its pixels not yet decoded, and write its properties to `seen`. Raises RejectedError."""
    with rejecting():
        if callable(item):
            image, seen.label = item()
            if hashed:
                seen.sha256 = hashlib.sha256(image.tobytes()).digest()
            seen.measure(image)
            if image.width * image.height > reading.max_pixels:
                raise RejectedError(TOO_LARGE)
            yield image
        else:
            with _content(item, seen, reading, hashed=hashed) as file, opened(file, reading, seen) as image:
                yield image


def _content(path: str, seen: Seen, reading: Reading, *, hashed: bool) -> BinaryIO:
    """Return the open file, or its bytes if it is small, and write its hash to `seen`. Raises RejectedError."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait forever
            raise RejectedError(SPECIAL_FILE)
        if not hashed or status.st_size > _READ_WHOLE_BYTES:
            file = open(path, "rb")  # noqa: SIM115 (closed by the caller)
        else:
            with open(path, "rb", buffering=0) as small:
                content = small.read()
            seen.sha256 = hashlib.sha256(content).digest()
            return BytesIO(content)
    except OSError:
        raise RejectedError(UNREADABLE) from None
    if hashed:
        seen.sha256 = hashlib.file_digest(file, "sha256").digest()
        file.seek(0)
    return file
