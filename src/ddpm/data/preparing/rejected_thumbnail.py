"""A small picture of a file that was rejected, so that a person can judge the reason."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
from PIL import Image, ImageFile

from ddpm.data.preparing.picture_file import Reading, Seen, opened
from ddpm.data.preparing.reasons import DAMAGED, NEARLY_BLACK, OUTSIDE_CLASSES, OUTSIDE_SPLITS, UNKNOWN_VALUES

SHOWN = (DAMAGED, NEARLY_BLACK, UNKNOWN_VALUES, OUTSIDE_SPLITS, OUTSIDE_CLASSES)
"""Reasons of files that may have pixels and are within the limits of size and memory."""
_BACKGROUND = 128


def thumbnail(path: str, reading: Reading, *, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return uint8 `shape` [C,S,S]: the whole picture on grey, what is missing of a damaged one black; None if none.

    Values of more than 8 bits are stretched to the whole range.
    """
    channels, side, _ = shape
    mode = "L" if channels == 1 else "RGB"
    with suppress(Exception), _incomplete_files(), open(path, "rb") as file, opened(file, reading, Seen()) as image:
        image.draft(mode, (side, side))
        small = _eight_bits(image).convert(mode)
        small.thumbnail((side, side))
        canvas = Image.new(mode, (side, side), (_BACKGROUND,) * channels if channels > 1 else _BACKGROUND)
        canvas.paste(small, ((side - small.width) // 2, (side - small.height) // 2))
        return np.asarray(canvas).reshape(side, side, channels).transpose(2, 0, 1)
    return None


def _eight_bits(image: Image.Image) -> Image.Image:
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.nan_to_num(np.asarray(image, np.float64), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    return Image.fromarray(((values - low) * (255 / ((high - low) or 1.0))).astype(np.uint8))


@contextmanager
def _incomplete_files() -> Iterator[None]:
    """Let Pillow return what it could decode of a file that is cut off. The setting is global to the process."""
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
