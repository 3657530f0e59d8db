"""Find generated images that are copies of training images, compared with held-out real images.

Images are compared in five ways. Each way has its own limit, a quantile of the distances of held-out real images to
their nearest training images:

- pixels: the whole image, pixel by pixel. This does not detect a copy that is shifted by one pixel.
- features: the extractor's features of the whole image. This ignores the differences that the extractor ignores.
- shifted: all but the outermost pixels, at the nine positions in a training image that are at most one pixel away.
- mirrored: the whole image, pixel by pixel, with the training images and their mirror images, left to right. Training
  with `train.flip` makes copies of both kinds, and each kind alone could stay below a limit of the share.
- half: the left, right, upper or lower half, relative to its contrast. Without this division blank halves, which many
  real images share, would be copies, and the limit would be too small to find any other copy.

No way is designed to detect larger shifts, other crops and scales, rotated images, other colours and contrasts, a half
in another position, a quarter, or a mixture of training images. Features may detect some of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ddpm.images import Images

CHUNK_ROWS = 4096
CHUNK_NUMBERS = 2**25
"""Largest chunk in rows and in numbers, so that 10,000 images against 60,000 need less than 0.5 GB."""

Window = tuple[slice, ...]
"""Slices along the last axes of an item."""


@dataclass(frozen=True)
class View:
    """The part of an item and the part of a training item that are compared; both have equally many numbers."""

    item: Window
    train: Window
    mirrored: bool = False
    """Whether the whole training item is mirrored, left to right, before its part is taken."""


WHOLE = (View((), ()),)
MIRRORED = (*WHOLE, View((), (), mirrored=True))


@dataclass(frozen=True)
class Nearest:
    """For each of N items, the nearest training item."""

    distance: np.ndarray
    """float64 [N], root mean square difference per number (pixels: grey levels, 0..255), or divided by the contrast."""
    index: np.ndarray
    """int64 [N]"""


@dataclass(frozen=True)
class Copies:
    """The copies that one way of comparing finds."""

    nearest: Nearest
    """For the generated images."""
    limit: float
    """An image counts as a copy if its distance to a training image is at most this."""
    share: float
    """Share of the generated images that count as copies, in 0..1."""
    held_out_share: float
    """Share of the held-out real images that would count as copies: the chance level, about the quantile."""

    @property
    def is_copy(self) -> np.ndarray:
        """bool [N]"""
        return self.nearest.distance <= self.limit


@dataclass(frozen=True)
class CopiesInEveryWay:
    """The copies among the same generated images that each of the five ways finds."""

    pixels: Copies
    features: Copies
    shifted: Copies
    mirrored: Copies
    half: Copies


def find_copies_in_every_way(
    images: tuple[Images, Images, Images],
    features: tuple[np.ndarray, np.ndarray, np.ndarray],
    *,
    quantile: float,
    device: torch.device,
    progress: bool,
) -> CopiesInEveryWay:
    """Find copies in the five ways.

    `images` uint8 [N,C,H,W] and `features` [N,D] are tuples: generated, held-out and training images.
    The time is that of matrix products of all pairs: one for pixels, nine for shifted, two for mirrored, two for half.
    10,000 generated and 10,000 held-out images of 32x32 in colour against 60,000 take half an hour on one CPU core.
    """
    views = _views(images[0].shape[1:])

    def find(what: str, of: tuple[Images, Images, Images], **compared: Any) -> Copies:
        return find_copies(*of, quantile=quantile, device=device, progress=progress, space=what, **compared)

    return CopiesInEveryWay(
        pixels=find("pixels", images, views=views["pixels"]),
        features=find("features", features),
        shifted=find("shifted", images, views=views["shifted"]),
        mirrored=find("mirrored", images, views=views["mirrored"]),
        half=find("halves", images, views=views["half"], per_contrast=True),
    )


def compared_numbers(shape: Sequence[int]) -> int:
    """Return how many numbers of two images [C,H,W] all ways compare, in which features are not counted."""
    image = torch.empty((1, *shape), dtype=torch.uint8)
    return sum(_part(image, view.item).numel() for views in _views(shape).values() for view in views)


def _views(shape: Sequence[int]) -> dict[str, tuple[View, ...]]:
    """Return the views of each way that compares images [C,H,W]."""
    return {"pixels": WHOLE, "shifted": shifts(shape), "mirrored": MIRRORED, "half": halves(shape)}


def find_copies(
    generated: Images,
    held_out: Images,
    train: Images,
    *,
    quantile: float,
    device: torch.device,
    progress: bool,
    space: str,
    views: Sequence[View] = WHOLE,
    per_contrast: bool = False,
) -> Copies:
    """Find generated items whose distance to a training item is at most a `quantile` of that of held-out real items.

    Items are uint8 images [N,C,H,W] or features [N,D]; `space` is their name in the progress bar; `views` and
    `per_contrast` are passed to `nearest`.
    """
    real, made = (
        nearest(
            items,
            train,
            device=device,
            progress=progress,
            what=f"{name}, {space}",
            views=views,
            per_contrast=per_contrast,
        )
        for name, items in (("held-out", held_out), ("generated", generated))
    )
    measurable = real.distance[np.isfinite(real.distance)]
    limit = float(np.quantile(measurable, quantile)) if len(measurable) else 0.0
    return Copies(made, limit, float(np.mean(made.distance <= limit)), float(np.mean(real.distance <= limit)))


def shifts(shape: Sequence[int]) -> tuple[View, ...]:
    """Return views that compare an image without its outermost pixels at nine positions in a training image.

    They undo a shift by one pixel, whatever the new pixels at the border are. Images below 3 pixels are compared whole.
    """
    height, width = shape[-2:]
    if min(height, width) < 3:
        return WHOLE
    inner = (slice(1, height - 1), slice(1, width - 1))
    return tuple(
        View(inner, (slice(down, height - 2 + down), slice(right, width - 2 + right)))
        for down in range(3)
        for right in range(3)
    )


def halves(shape: Sequence[int]) -> tuple[View, ...]:
    """Return views of the left, right, upper and lower half, each compared with the same half.

    The middle line of an odd number of pixels belongs to no half. Images below 2 pixels are compared whole.
    """
    height, width = shape[-2:]
    if min(height, width) < 2:
        return WHOLE
    every = slice(None)
    columns = (slice(0, width // 2), slice(width - width // 2, width))
    rows = (slice(0, height // 2), slice(height - height // 2, height))
    windows = [(every, part) for part in columns] + [(part, every) for part in rows]
    return tuple(View(window, window) for window in windows)


def nearest(
    items: Images,
    train: Images,
    *,
    device: torch.device,
    progress: bool,
    what: str,
    views: Sequence[View] = WHOLE,
    per_contrast: bool = False,
) -> Nearest:
    """Return the training item nearest to each item, by Euclidean distance in the view where it is smallest.

    `per_contrast`, for images: the distance is divided by the standard deviation of the item's own pixels within the
    view; it is 0 for a copy, about 1 for unrelated images, and infinite where the item is constant.

    Both arrays may be memory-mapped. Memory is limited by the chunk size. Distances within a chunk are rounded, since
    they come from a matrix product, so that of the nearest item is computed again: a copy has exactly 0.
    """
    from tqdm import tqdm

    numbers = math.prod(items.shape[1:])
    rows = max(1, min(CHUNK_ROWS, CHUNK_NUMBERS // numbers))
    best = torch.full((len(views), len(items)), math.inf)
    index = torch.zeros((len(views), len(items)), dtype=torch.long)
    with tqdm(total=len(train), desc=f"nearest, {what}", unit="image", delay=1, disable=not progress) as bar:
        for start in range(0, len(train), rows):
            references = _tensor(train[start : start + rows]).to(device)
            for first in range(0, len(items), rows):
                part = slice(first, first + rows)
                compared = _tensor(items[part]).to(device)
                for k, view in enumerate(views):
                    distance, column = torch.cdist(_flat(compared, view.item), _flat_train(references, view)).min(dim=1)
                    distance, column = distance.cpu(), column.cpu()
                    nearer = distance < best[k, part]
                    best[k, part] = torch.where(nearer, distance, best[k, part])
                    index[k, part] = torch.where(nearer, column + start, index[k, part])
            bar.update(len(references))
    exact = np.empty((len(views), len(items)))
    for first in range(0, len(items), rows):
        part = slice(first, first + rows)
        compared = _tensor(items[part])
        for k, view in enumerate(views):
            found = _tensor(train[index[k, part].numpy()])
            difference = _flat(compared, view.item) - _flat_train(found, view)
            distance = difference.square().mean(dim=1, dtype=torch.float64).sqrt()
            exact[k, part] = (_per_contrast(distance, compared, view) if per_contrast else distance).numpy()
    least = exact.argmin(axis=0), np.arange(len(items))
    return Nearest(exact[least], index.numpy()[least])


def _per_contrast(distance: torch.Tensor, images: torch.Tensor, view: View) -> torch.Tensor:
    """Divide by the contrast, which is measured within channels, so that a uniform colour has none."""
    seen = _part(images, view.item).flatten(2).double()
    contrast = seen.var(dim=2, correction=0).mean(dim=1).sqrt()
    return torch.where(contrast > 0, distance / contrast, math.inf)


def _tensor(items: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(items))


def _flat_train(items: torch.Tensor, view: View) -> torch.Tensor:
    return _flat(items.flip(-1) if view.mirrored else items, view.train)


def _flat(items: torch.Tensor, window: Window) -> torch.Tensor:
    return _part(items, window).float().reshape(len(items), -1)


def _part(items: torch.Tensor, window: Window) -> torch.Tensor:
    return items[(slice(None),) * (items.ndim - len(window)) + window]
