"""Open an image file within limits, or say why it is rejected; for preparing data and for requests to the server."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import SEEK_END
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from ddpm.data.preparing.footprint import bytes_of_icon, bytes_taken, pixels_in_icon
from ddpm.data.preparing.formats import formats_read, is_begun, unread
from ddpm.data.preparing.pixels import NearlyBlackError, UnknownValuesError, is_grey
from ddpm.data.preparing.reasons import (
    DAMAGED,
    EMPTY,
    NEARLY_BLACK,
    NO_IMAGE,
    TOO_LARGE,
    TOO_MUCH_MEMORY,
    UNKNOWN_VALUES,
    not_read,
)

NO_HEADER, COLOUR, GREY = 0, 1, 2
"""What an image's header says before its pixels are decoded; NO_HEADER if the image cannot be used."""


@dataclass(frozen=True)
class Reading:
    """Limits for reading an image, and the meaning of 16-bit values."""

    max_pixels: int
    max_bytes: int
    """Memory that one image may take until it has its prepared size."""
    white: int | None
    """The value of 16-bit grey that becomes white; None: pixels.USUAL_WHITE, and nearly black images are rejected."""


class RejectedError(Exception):
    """The image cannot be used."""

    def __init__(self, reason: str) -> None:
        """`reason` is one of reasons.REASONS."""
        super().__init__(reason)
        self.reason = reason


class Seen:
    """Properties of an image that are known so far."""

    __slots__ = ("header", "height", "label", "mode", "sha256", "width")

    def __init__(self) -> None:
        self.header, self.width, self.height, self.mode, self.sha256, self.label = NO_HEADER, 0, 0, "", b"", -1

    def measure(self, image: Image.Image) -> None:
        """Set width, height, mode and header from the image's header."""
        self.width, self.height = image.size
        self.mode = image.mode
        with suppress(Exception):  # an image with a malformed palette may still be decoded
            self.header = GREY if is_grey(image) else COLOUR


@contextmanager
def rejecting() -> Iterator[None]:
    """Convert every error inside the block to RejectedError, except MemoryError."""
    try:
        yield
    except (RejectedError, MemoryError):
        raise
    except UnknownValuesError:
        raise RejectedError(UNKNOWN_VALUES) from None
    except NearlyBlackError:
        raise RejectedError(NEARLY_BLACK) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise RejectedError(TOO_LARGE) from None
    except Exception:  # decoders raise nearly any error for malformed bytes
        raise RejectedError(DAMAGED) from None


@contextmanager
def opened(file: BinaryIO, reading: Reading, seen: Seen) -> Iterator[Image.Image]:
    """Yield the image with its pixels not yet decoded, and write its header's properties to `seen`.

    Every error except MemoryError, also one inside the block, is raised as RejectedError.
    """
    with rejecting(), pixel_limit(reading.max_pixels):
        file_bytes = file.seek(0, SEEK_END)
        if file_bytes == 0:
            raise RejectedError(EMPTY)
        pixels = pixels_in_icon(file)
        _require_room(reading, pixels=pixels, n_bytes=max(file_bytes, bytes_of_icon(pixels)))
        file.seek(0)
        try:
            image = Image.open(file, formats=formats_read())
        except UnidentifiedImageError:
            raise RejectedError(_why_unidentified(file)) from None
        with image:
            seen.measure(image)
            _require_room(reading, pixels=image.width * image.height, n_bytes=bytes_taken(image, file_bytes))
            yield image


def _require_room(reading: Reading, *, pixels: int, n_bytes: int) -> None:
    if pixels > reading.max_pixels:
        raise RejectedError(TOO_LARGE)
    if n_bytes > reading.max_bytes:
        raise RejectedError(TOO_MUCH_MEMORY)


def _why_unidentified(file: BinaryIO) -> str:
    name = unread(file)
    if name is not None:
        return not_read(name)
    return DAMAGED if is_begun(file) else NO_IMAGE


class _Limit:
    """Pillow's limit is global to the process: threads that decode at the same time set and restore it once."""

    def __init__(self) -> None:
        self.lock, self.users = threading.Lock(), 0
        self.pixels_before: int | None = None
        self.warnings_before = warnings.catch_warnings()


_limit = _Limit()


@contextmanager
def pixel_limit(max_pixels: int) -> Iterator[None]:
    """Let Pillow reject an image with more pixels by its header, before it allocates memory.

    Blocks of several threads may overlap only if their limits are equal.
    """
    with _limit.lock:
        _limit.users += 1
        if _limit.users == 1:
            _limit.pixels_before, _limit.warnings_before = Image.MAX_IMAGE_PIXELS, warnings.catch_warnings()
            _limit.warnings_before.__enter__()
            warnings.simplefilter("ignore")  # damaged metadata, which is not used
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
