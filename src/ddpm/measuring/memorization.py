"""Are images copies of training images? Judged against what real images that nobody trained on look like.

An image may be a copy in four ways, each with a limit of its own, a quantile of what held-out real images have:

- pixels: the whole image, pixel by pixel. Of a copy that is shifted by one pixel this sees nothing.
- features: the whole image as the extractor sees it, which forgives what the extractor forgives.
- shifted: all but the outermost pixels, at the nine places of a training image that are at most one pixel away.
- half: the left, right, upper or lower half, relative to its contrast. Without that, blank halves, which real images
  share by the hundred, would be copies, and among them no other copy would be found.

None of them is meant to see larger shifts, other crops and scales, mirrored and turned images, other colours and
contrasts, a half in another place, a quarter, or a mixture of several training images. Features may see some of it.
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
"""A chunk has at most so many rows and numbers, so that 10,000 images against 60,000 need under 0.5 GB."""

Window = tuple[slice, ...]
"""Along the last axes of an item."""


@dataclass(frozen=True)
class View:
    """Which part of an item is compared with which part of a training item; of as many numbers."""

    item: Window
    train: Window


WHOLE = (View((), ()),)


@dataclass(frozen=True)
class Nearest:
    """For each of N items, the training item it is nearest to."""

    distance: np.ndarray
    """float64 [N], root mean square difference per number (pixels: grey levels, 0..255), or that over the contrast."""
    index: np.ndarray
    """int64 [N]"""


@dataclass(frozen=True)
class Copies:
    """Generated images and training images, compared in one way."""

    nearest: Nearest
    """Of the generated images."""
    limit: float
    """An image at most this far from a training image counts as a copy."""
    share: float
    """Of the generated images, those that count as copies."""
    held_out_share: float
    """Of the held-out real images, those that would: what chance gives, about the quantile."""

    @property
    def is_copy(self) -> np.ndarray:
        """bool [N]"""
        return self.nearest.distance <= self.limit


@dataclass(frozen=True)
class CopiesInEveryWay:
    """The same generated images, compared in the four ways."""

    pixels: Copies
    features: Copies
    shifted: Copies
    half: Copies


def find_copies_in_every_way(
    images: tuple[Images, Images, Images],
    features: tuple[np.ndarray, np.ndarray, np.ndarray],
    *,
    quantile: float,
    device: torch.device,
    progress: bool,
) -> CopiesInEveryWay:
    """By images, uint8 [N,C,H,W], and features, [N,D], each of the generated, the held-out and the training images.

    The time is that of matrix products of all pairs: of pixels one, of shifted nine, of half two. 10,000 generated and
    10,000 held-out images of 32x32 in colour against 60,000 take half an hour of one CPU core's time.
    """
    shape = images[0].shape[1:]

    def find(what: str, of: tuple[Images, Images, Images], **compared: Any) -> Copies:
        return find_copies(*of, quantile=quantile, device=device, progress=progress, space=what, **compared)

    return CopiesInEveryWay(
        pixels=find("pixels", images),
        features=find("features", features),
        shifted=find("shifted", images, views=shifts(shape)),
        half=find("halves", images, views=halves(shape), per_contrast=True),
    )


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
    """Which generated items are nearer to a training item than a `quantile` of the held-out real ones are.

    Items are uint8 images [N,C,H,W] or features [N,D]; `space` is what the progress bar calls them; `views` and
    `per_contrast` are those of `nearest`.
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
    """An image without its outermost pixels, at the nine places of an image where it fits.

    So a shift by one pixel is undone whatever came in at the border. Images below 3 pixels are compared as they are.
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
    """Left, right, upper and lower half, each with the same half; of an odd number of pixels without the middle one.

    Images below 2 pixels have none and are compared as they are.
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
    """The training item nearest to each item, by Euclidean distance in the view where it is least.

    `per_contrast`: of images, the distance over the standard deviation of the item's own pixels within the view, 0 for
    a copy and about 1 for what has nothing in common; infinite where the item is constant there and shows nothing.

    Both may be memory-mapped. Memory is bounded by the chunks. The distances of a whole chunk are rounded (they come
    from a matrix product), so the one to the neighbour found is computed again: a copy is at 0 exactly.
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
                    distance, column = torch.cdist(_flat(compared, view.item), _flat(references, view.train)).min(dim=1)
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
            difference = _flat(compared, view.item) - _flat(found, view.train)
            distance = difference.square().mean(dim=1, dtype=torch.float64).sqrt()
            exact[k, part] = (_per_contrast(distance, compared, view) if per_contrast else distance).numpy()
    least = exact.argmin(axis=0), np.arange(len(items))
    return Nearest(exact[least], index.numpy()[least])


def _per_contrast(distance: torch.Tensor, images: torch.Tensor, view: View) -> torch.Tensor:
    """The contrast is that within a channel, so that an even colour has none."""
    seen = _part(images, view.item).flatten(2).double()
    contrast = seen.var(dim=2, correction=0).mean(dim=1).sqrt()
    return torch.where(contrast > 0, distance / contrast, math.inf)


def _tensor(items: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(items))


def _flat(items: torch.Tensor, window: Window) -> torch.Tensor:
    return _part(items, window).float().reshape(len(items), -1)


def _part(items: torch.Tensor, window: Window) -> torch.Tensor:
    return items[(slice(None),) * (items.ndim - len(window)) + window]
