"""Convert an opened image of any mode and size to uint8 [size,size,C], or to grey or RGB of its own size.

Steps in this order: rotate by the EXIF orientation; scale 16-bit grey to 8 bits; composite transparency over white;
convert to grey or RGB; and, if a size is set, make the image square by a centre crop or by bars around it (black, or
white for a transparent image) and resize it with Lanczos. An animation becomes its first frame.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

_GREY_MODES = ("1", "L", "LA", "La", "I", "F")
_ORIENTATION_KEYS = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}
_ORIENTATION_IN_KEYS = ("JPEG", "PNG", "BMP", "PPM")
"""Formats whose orientation, if any, is under one of these keys of `info`."""
USUAL_WHITE = 65535
"""White of 16-bit grey."""
_NEARLY_BLACK = 4095
"""Largest value of 12-bit cameras and scanners; read as 16 bits it would be 1/16 of white."""
_SCALED_BY_PILLOW = ("JPEG2000", "PPM")
"""Formats that store which value is white; Pillow scales it to 65535."""
_BITS_PER_SAMPLE = 258
_ROWS_BYTES = 1 << 20
"""About this many bytes are converted at a time, so that memory never contains a second full copy of the image."""


@dataclass(frozen=True)
class Target:
    """Size, channels and fit of every prepared image."""

    size: int
    channels: int
    fit: Literal["crop", "pad"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """[C,H,W]."""
        return self.channels, self.size, self.size

    @property
    def bytes(self) -> int:
        """Bytes per image."""
        return self.channels * self.size**2


class UnknownValuesError(Exception):
    """Pixel values outside of 0..65535 (or 0..white) or 0..1."""


class NearlyBlackError(Exception):
    """16-bit values all below 4096, with neither the file nor the settings defining white."""


def is_grey(image: Image.Image) -> bool:
    """Whether the image is grey by its mode and palette; no pixel is decoded."""
    if image.mode == "P" and image.palette is not None:
        table = np.frombuffer(image.palette.tobytes(), np.uint8)
        table = table.reshape(-1, len(image.palette.mode))[:, :3]
        return bool((table == table[:, :1]).all())
    return image.mode in _GREY_MODES or image.mode.startswith("I;16")


def pixels_of(image: Image.Image, target: Target, white: int | None) -> bytes:
    """Return uint8 [size,size,C] as bytes, row by row.

    `white` is the value of 16-bit grey that becomes 255; None is USUAL_WHITE.

    Raises UnknownValuesError, NearlyBlackError, and whatever Pillow raises for damaged bytes.
    """
    mode = _mode(target.channels)
    side = min(image.size) if target.fit == "crop" else max(image.size)
    if side >= 4 * target.size:
        # A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size; keep at least twice the target for Lanczos.
        width, height = (-(-2 * target.size * edge // side) for edge in image.size)
        image.draft(None, (width, height))
    _load_upright(image, white)
    if image.mode == mode and "transparency" not in image.info and image.size == (target.size, target.size):
        return image.tobytes()
    flat, background = _flattened(image, white)
    return _square(_in_mode(flat, mode), target, background).tobytes()


def whole_picture(image: Image.Image, channels: int, white: int | None) -> Image.Image:
    """Return the image in its own size as L or RGB, with the pixels that `pixels_of` gives for equal sizes."""
    _load_upright(image, white)
    return _in_mode(_flattened(image, white)[0], _mode(channels))


def _mode(channels: int) -> str:
    return "L" if channels == 1 else "RGB"


def _load_upright(image: Image.Image, white: int | None) -> None:
    was_16_bit = white is None and any(
        tile.codec_name == "SGI16" or ";16" in str(tile.args) for tile in getattr(image, "tile", ())
    )
    image.load()
    if was_16_bit and image.mode in ("L", "LA", "RGB", "RGBA") and image.format not in _SCALED_BY_PILLOW:
        highest = max(_highest(image.getchannel(band)) for band in image.getbands() if band != "A")
        if 0 < highest <= _NEARLY_BLACK >> 8:  # Pillow kept only the upper eight bits
            raise NearlyBlackError
    if image.format not in _ORIENTATION_IN_KEYS or not _ORIENTATION_KEYS.isdisjoint(image.info):
        ImageOps.exif_transpose(image, in_place=True)


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)


def _flattened(image: Image.Image, white: int | None) -> tuple[Image.Image, int]:
    """Return the image as 1, L or RGB, and the level 0..255 of bars beside it."""
    if image.mode == "I" or image.mode.startswith("I;16"):  # "I" is Pillow's mode of some 16-bit formats
        return _scaled(image, _white_of(image, white)), 0
    if image.mode == "F":
        return _scaled(image, 1), 0
    if image.has_transparency_data:
        return _by_rows(image, "RGB", _over_white), 255
    return image if image.mode in ("1", "L") else _in_mode(image, "RGB"), 0


def _over_white(image: Image.Image) -> Image.Image:
    layer = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), layer).convert("RGB")


def _by_rows(image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Return the image converted to `mode` by a function that treats every pixel independently."""
    width, height = image.size
    step = max(1, _ROWS_BYTES // (4 * width))
    if step >= height:
        return convert(image)
    converted = Image.new(mode, image.size)
    for top in range(0, height, step):
        rows = image.crop((0, top, width, min(top + step, height)))
        converted.paste(convert(rows), (0, top))
    return converted


def _white_of(image: Image.Image, white: int | None) -> int:
    """Return the value that becomes 255: that of the file, else `white`, else USUAL_WHITE.

    Raises NearlyBlackError if neither file nor `white` defines it and all values are below 4096.
    """
    if image.format in _SCALED_BY_PILLOW:
        return USUAL_WHITE
    if image.format == "TIFF" and getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE) == (12,):
        return _NEARLY_BLACK
    if white is None and 0 < _highest(image) <= _NEARLY_BLACK:
        raise NearlyBlackError
    return USUAL_WHITE if white is None else white


def _highest(image: Image.Image) -> float:
    """Return the largest value of an image with one band."""
    _, highest = image.getextrema()
    assert isinstance(highest, int | float)
    return highest


def _scaled(image: Image.Image, highest: int) -> Image.Image:
    """Scale 0..highest to 0..255, rounded to the nearest level. Raises UnknownValuesError for values outside."""

    def scaled(rows: Image.Image) -> Image.Image:
        values = np.asarray(rows)
        low, high = values.min(), values.max()
        if not (low >= 0 and high <= highest):  # also true for NaN
            raise UnknownValuesError
        return Image.fromarray(np.rint(values * (255 / highest)).astype(np.uint8))

    return _by_rows(image, "L", scaled)


def _square(image: Image.Image, target: Target, background: int) -> Image.Image:
    """Return [size,size], by a centre crop or with bars on two sides."""
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
        return image if box == (0, 0, *image.size) else image.crop(box)
    return image.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
