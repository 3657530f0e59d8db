"""Grids of images, for people."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURE_PIXELS = 48
"""Small images are enlarged to about this height."""


def grid(images: Tensor, *, columns: int, scale: int | None = None) -> "Image":
    """Arrange uint8 images [N,C,H,W] in rows of `columns`, each enlarged `scale` times, or to about PICTURE_PIXELS."""
    from PIL import Image

    n, c, height, width = images.shape
    scale = scale or max(1, PICTURE_PIXELS // height)
    rows = -(-n // columns)
    gap = 1 if height <= 16 else 2
    canvas = torch.full((c, rows * (height + gap) + gap, columns * (width + gap) + gap), 255, dtype=torch.uint8)
    for k, image in enumerate(images):
        y, x = gap + k // columns * (height + gap), gap + k % columns * (width + gap)
        canvas[:, y : y + height, x : x + width] = image
    pixels = canvas.permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels[:, :, 0] if c == 1 else pixels)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def grid_by_class(images: Tensor, labels: Tensor | None, n: int) -> "Image":
    """Arrange the first images of each class, one class per row; without labels the first n images."""
    columns = max(1, round(n**0.5))
    if labels is None:
        return grid(images[:n], columns=columns)
    classes = labels.unique()[: max(1, n // columns)]
    chosen = [torch.nonzero(labels == c).flatten()[:columns] for c in classes]
    return grid(images[torch.cat(chosen)], columns=min(columns, max(len(c) for c in chosen)))


def before_and_after(before: np.ndarray, after: np.ndarray, *, columns: int) -> "Image":
    """Arrange images, uint8 [N,C,H,W], in rows, with what became of them below each row."""
    rows = [images[k : k + columns] for k in range(0, len(before), columns) for images in (before, after)]
    return grid(torch.from_numpy(np.concatenate(rows)), columns=columns)
