"""Estimate from its header how much memory an image takes until it has its prepared size."""

import struct
from typing import BinaryIO

from PIL import Image

_STORED = {"1": 1, "L": 1, "P": 1}
"""Bytes per pixel in Pillow's memory by mode; 2 in 16-bit modes, 4 in all others."""

_DECODING = {
    "ICO": (20, 0),
    "JPEG2000": (2, 7),
    "PPM": (13, 0),
    "QOI": (12, 0),
    "SGI": (8, 0),
    "TIFF": (8, 0),
    "WEBP": (17, 0),
}
"""By format: bytes per pixel, and additional bytes per pixel and band, that decoding takes, Pillow's copy included.
Measured for the largest variant of each format. Other formats decode directly into Pillow's memory."""
_PROGRESSIVE = (4, 2)
"""The same for a progressive JPEG, whose coefficients are all in memory before the first pixel."""
_TILE_WIDTH, _TILE_LENGTH = 322, 323
"""TIFF tags."""
_HELD = ("JPEG2000", "WEBP")
"""Formats whose whole file is in memory, for a moment twice."""


def bytes_taken(image: Image.Image, file_bytes: int) -> int:
    """Return an upper bound of the memory that decoding an opened image and `pixels.pixels_of` take."""
    stored = 2 if image.mode.startswith("I;16") else _STORED.get(image.mode, 4)
    kind = _PROGRESSIVE if "progressive" in image.info else _DECODING.get(image.format or "", (stored, 0))
    decoding = kind[0] + kind[1] * len(image.getbands())
    turned, flattened = 2 * stored, stored + 4
    per_pixel = max(decoding, turned, flattened) + 1  # 1 more for conversion to grey or reduction
    pixels = max(image.width * image.height, _pixels_in_tile(image))
    return pixels * per_pixel + (2 * file_bytes if image.format in _HELD else 0)


def _pixels_in_tile(image: Image.Image) -> int:
    """Return the pixels in a tile of a TIFF, which may be larger than the image; 0 for other images."""
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    return int(tags.get(_TILE_WIDTH, 0)) * int(tags.get(_TILE_LENGTH, 0))


def pixels_in_icon(file: BinaryIO) -> int:
    """Return the number of pixels of the largest image in a Windows icon, by that image's header; 0 for other files.

    Pillow decodes an icon when it opens it, so the limit must be checked before.
    """
    file.seek(0)
    start = file.read(6)
    pixels = 0
    if start[:4] == b"\0\0\1\0":
        entries = file.read(16 * struct.unpack("<H", start[4:])[0])
        for place in range(0, len(entries) - 15, 16):
            file.seek(*struct.unpack_from("<I", entries, place + 12))
            header = file.read(24)
            if len(header) == 24:
                png = header[:4] == b"\x89PNG"
                width, height = struct.unpack(">II", header[16:]) if png else struct.unpack("<ii", header[4:12])
                pixels = max(pixels, abs(width * height))
    return pixels


def bytes_of_icon(pixels: int) -> int:
    """Return an upper bound of the memory that decoding an icon of `pixels` pixels takes."""
    return (_DECODING["ICO"][0] + 1) * pixels
