"""Pictures within a page: uint8 arrays or files as data URLs."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

SHOWN_PIXELS = 48
"""Smaller images are shown enlarged by a whole factor, to about this height."""
_LARGEST_LOSSLESS = 32
"""Pixels of height up to which images are stored without loss; larger ones as JPEG."""


@dataclass(frozen=True)
class Picture:
    """A picture for an <img> element; width and height are those on the page, in CSS pixels."""

    url: str
    width: int
    height: int


def strip(images: np.ndarray, *, columns: int) -> Picture:
    """Arrange uint8 images [N,C,H,W] of one or three channels in rows of `columns`, with gaps of one pixel."""
    from PIL import Image

    n, channels, height, width = images.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    canvas = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), 255, np.uint8)
    for k, image in enumerate(images):
        y, x = k // columns * (height + 1), k % columns * (width + 1)
        canvas[y : y + height, x : x + width] = image.transpose(1, 2, 0)
    picture = Image.fromarray(canvas[:, :, 0] if channels == 1 else canvas)
    url = _url(picture, "PNG" if height <= _LARGEST_LOSSLESS else "JPEG")
    scale = max(1, round(SHOWN_PIXELS / height))
    return Picture(url, picture.width * scale, picture.height * scale)


def from_file(path: Path, *, most_pixels: int = 1600) -> Picture | None:
    """Return a PNG file as it is, or smaller if a side has more than `most_pixels`; None if it does not exist."""
    from PIL import Image

    if not path.exists():
        return None
    with Image.open(path) as opened:
        picture = opened.copy()
    picture.thumbnail((most_pixels, most_pixels))
    return Picture(_url(picture, "PNG"), picture.width, picture.height)


def _url(picture: "Image", kind: str) -> str:
    written = io.BytesIO()
    options = {"quality": 85} if kind == "JPEG" else {"optimize": True}
    picture.save(written, format=kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(written.getvalue()).decode()}"
