"""An opened image of any mode and size becomes uint8 [size,size,C].

What is done, in this order: the orientation that EXIF asks for; 16-bit grey scaled to 8; transparency laid over
white; grey or RGB; a centre crop to the square, or bars around it (black; white where the image is transparent);
Lanczos to the size. Of an animation the first frame counts.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

_GREY_MODES = ("1", "L", "LA", "La", "I", "F")
_ORIENTATION_KEYS = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}
_ORIENTATION_IN_KEYS = ("JPEG", "PNG", "BMP", "PPM")
"""Formats whose orientation, if any, stands under one of these keys of `info`."""


@dataclass(frozen=True)
class Target:
    """What every image becomes."""

    size: int
    channels: int
    fit: Literal["crop", "pad"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """[C,H,W]."""
        return self.channels, self.size, self.size

    @property
    def bytes(self) -> int:
        """Per image."""
        return self.channels * self.size**2


class UnknownValuesError(Exception):
    """Pixel values outside of 0..65535 or 0..1."""


def is_grey(image: Image.Image) -> bool:
    """By mode and palette; no pixel is decoded."""
    if image.mode == "P" and image.palette is not None:
        table = np.frombuffer(image.palette.tobytes(), np.uint8)
        table = table.reshape(-1, len(image.palette.mode))[:, :3]
        return bool((table == table[:, :1]).all())
    return image.mode in _GREY_MODES or image.mode.startswith("I;16")


def pixels_of(image: Image.Image, target: Target) -> bytes:
    """uint8 [size,size,C], row by row. Raises UnknownValuesError, and whatever Pillow raises for damaged bytes."""
    mode = "L" if target.channels == 1 else "RGB"
    side = min(image.size) if target.fit == "crop" else max(image.size)
    if side >= 4 * target.size:
        # A JPEG can be decoded at 1/2, 1/4 or 1/8; twice the target is left for Lanczos.
        width, height = (-(-2 * target.size * edge // side) for edge in image.size)
        image.draft(None, (width, height))
    image.load()
    if image.format not in _ORIENTATION_IN_KEYS or not _ORIENTATION_KEYS.isdisjoint(image.info):
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode == mode and "transparency" not in image.info and image.size == (target.size, target.size):
        return image.tobytes()
    flat, background = _flattened(image)
    return _square(_in_mode(flat, mode), target, background).tobytes()


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)


def _flattened(image: Image.Image) -> tuple[Image.Image, int]:
    """The image as 1, L or RGB, and the level 0..255 of bars beside it."""
    if image.mode == "I" or image.mode.startswith("I;16"):  # "I" is Pillow's mode of some 16-bit formats
        return _scaled(np.asarray(image), 65535), 0
    if image.mode == "F":
        return _scaled(np.asarray(image), 1), 0
    if image.has_transparency_data:
        layer = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), layer).convert("RGB"), 255
    return image if image.mode in ("1", "L") else _in_mode(image, "RGB"), 0


def _scaled(values: np.ndarray, highest: int) -> Image.Image:
    """0..highest to 0..255, rounded to the nearest level."""
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= highest):  # also true for NaN
        raise UnknownValuesError
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
        return image if box == (0, 0, *image.size) else image.crop(box)
    return image.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
