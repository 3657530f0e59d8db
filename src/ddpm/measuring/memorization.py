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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from ddpm.compute.hardware import full_float32
from ddpm.compute.processes import leads, least_of, processes, share_of
from ddpm.compute.processes import together as wait_for_all
from ddpm.images import Images
from ddpm.measuring.features.extractor import BATCH

CHUNK_ROWS = 4096
CHUNK_NUMBERS = 2**25
"""Largest chunk in rows and in numbers, so that the search needs less than 0.5 GB, whatever the number of images."""
_PIECES_UNTIL_WAIT = 16
"""Processes wait for each other after so many pieces, so that none is alone for longer than `processes.TIMEOUT`."""

Window = tuple[slice, ...]
"""Slices along the last axes of an item."""

FeaturesOf = Callable[[int, np.ndarray], np.ndarray]
"""Map the first row and the images, uint8 [n,C,H,W], of a piece of the training images to their features [n,D]."""


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
class Way:
    """A way of comparing: an item is as far from a training item as in the view in which they are nearest."""

    views: tuple[View, ...]
    per_contrast: bool = False
    """For images: the distance is divided by the standard deviation of the item's own pixels within the view; it is 0
    for a copy, about 1 for unrelated images, and infinite where the item is constant."""


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
    held_out: Nearest
    """For the held-out real images."""

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


@full_float32()
def find_copies_in_every_way(
    images: tuple[Images, Images, Images],
    features: tuple[np.ndarray, np.ndarray],
    features_of: FeaturesOf,
    *,
    quantile: float,
    device: torch.device,
    progress: bool,
    together: bool = False,
) -> CopiesInEveryWay:
    """Find copies in the five ways, in one pass over the training images.

    `images` uint8 [N,C,H,W] are generated, held-out and training images; `features` [N,D] are those of the generated
    and the held-out images. `features_of` is called once for each piece of the training images, of which only one is in
    memory at a time. An item is a copy if its distance to a training item is at most the `quantile` of the distances
    of held-out items.

    `together`: all processes of the stage call it, each searches its own run of the training images, and all return
    the same result. It is that of one process, bit by bit, with as many threads per process: the pieces are the same,
    and of equally near training images the first is taken.

    The time is that of matrix products of all pairs: one for pixels, nine for shifted, two for mirrored, two for half.
    10,000 generated and 10,000 held-out images of 32x32 in colour against 60,000 take half an hour on one CPU core.
    """
    generated, held_out, train = images
    ways = _ways(generated.shape[1:])
    by_pixels = [{name: _Search(len(items), way) for name, way in ways.items()} for items in (generated, held_out)]
    by_features = [_Search(len(items), Way(WHOLE)) for items in features]
    for start, piece in _pieces(train, progress=progress, together=together):
        described = features_of(start, piece)
        for items, searches in zip((generated, held_out), by_pixels, strict=True):
            _compare(items, list(searches.values()), piece, start=start, device=device)
        for rows, search in zip(features, by_features, strict=True):
            _compare(rows, [search], described, start=start, device=device)

    def copies(spaces: tuple[Images, Images], searches: Sequence[_Search]) -> Copies:
        made, real = (search.nearest(items, together=together) for items, search in zip(spaces, searches, strict=True))
        measurable = real.distance[np.isfinite(real.distance)]
        limit = float(np.quantile(measurable, quantile)) if len(measurable) else 0.0
        return Copies(made, limit, float(np.mean(made.distance <= limit)), float(np.mean(real.distance <= limit)), real)

    found = {name: copies((generated, held_out), [searches[name] for searches in by_pixels]) for name in ways}
    return CopiesInEveryWay(**found, features=copies(features, by_features))


def compared_numbers(shape: Sequence[int]) -> int:
    """Return how many numbers of two images [C,H,W] all ways compare, in which features are not counted."""
    image = torch.empty((1, *shape), dtype=torch.uint8)
    return sum(_part(image, view.item).numel() for way in _ways(shape).values() for view in way.views)


def _ways(shape: Sequence[int]) -> dict[str, Way]:
    """Return the ways that compare images [C,H,W]."""
    return {
        "pixels": Way(WHOLE),
        "shifted": Way(shifts(shape)),
        "mirrored": Way(MIRRORED),
        "half": Way(halves(shape), per_contrast=True),
    }


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


def _pieces(train: Images, *, progress: bool, together: bool) -> Iterator[tuple[int, np.ndarray]]:
    """Yield first row and images of each piece of the training images or, `together`, of this process's share.

    Pieces begin at a multiple of the batch of the feature extractor, so that their features are those of all images.
    A process gets consecutive pieces, so it reads few shards that another one reads.
    """
    from tqdm import tqdm

    rows = max(1, _rows(train.shape[1:]) // BATCH) * BATCH
    count = math.ceil(len(train) / rows)
    own, turns = (share_of(count), math.ceil(count / processes())) if together else (slice(0, count), count)
    images = min(own.stop * rows, len(train)) - own.start * rows
    shown = progress and leads()
    with tqdm(total=images, desc="search for copies", unit="image", delay=1, disable=not shown) as bar:
        for turn in range(turns):
            if together and turn % _PIECES_UNTIL_WAIT == 0:
                wait_for_all()
            if own.start + turn < own.stop:
                start = (own.start + turn) * rows
                piece = np.array(train[start : start + rows])
                yield start, piece
                bar.update(len(piece))


class _Batch(NamedTuple):
    """Consecutive items of a set."""

    first: int
    """Row of the first one in the set."""
    here: torch.Tensor
    """On the CPU."""
    there: torch.Tensor
    """On the device."""


def _compare(
    items: Images, searches: Sequence["_Search"], train: np.ndarray, *, start: int, device: torch.device
) -> None:
    """Compare all items with training items, the rows from `start` on, in each of the searches for these items."""
    rows = _rows(items.shape[1:])
    for first in range(0, len(train), rows):
        near = torch.from_numpy(train[first : first + rows])
        references = _Batch(start + first, near, near.to(device))
        for begin in range(0, len(items), rows):
            own = torch.from_numpy(np.array(items[begin : begin + rows]))
            batch = _Batch(begin, own, own.to(device))
            for search in searches:
                search.update(batch, references)


class _Search:
    """The nearest of the training items that were compared so far, for each of `n` items and in each view."""

    def __init__(self, n: int, way: Way) -> None:
        self._way, shape = way, (len(way.views), n)
        self._rounded = torch.full(shape, math.inf)
        """By a matrix product."""
        self._exact = torch.full(shape, math.inf, dtype=torch.float64)
        self._index = torch.zeros(shape, dtype=torch.long)

    def update(self, items: _Batch, train: _Batch) -> None:
        """Compare items with training items.

        A matrix product rounds, so the distance of an item that is nearer than all before is computed again: a copy
        has exactly 0.
        """
        for k, view in enumerate(self._way.views):
            rounded, column = torch.cdist(_flat(items.there, view.item), _flat_train(train.there, view)).min(dim=1)
            rounded, column = rounded.cpu(), column.cpu()
            nearer = (rounded < self._rounded[k, items.first : items.first + len(rounded)]).nonzero()[:, 0]
            if not len(nearer):
                continue
            rows, found = items.first + nearer, column[nearer]
            difference = _flat(items.here[nearer], view.item) - _flat_train(train.here[found], view)
            self._rounded[k, rows] = rounded[nearer]
            self._exact[k, rows] = difference.square().mean(dim=1, dtype=torch.float64).sqrt()
            self._index[k, rows] = train.first + found

    def nearest(self, items: Images, *, together: bool) -> Nearest:
        """Return the nearest training items of the items or, `together`, of those that all processes have compared."""
        exact, index = self._agreed() if together else (self._exact, self._index)
        if self._way.per_contrast:
            step = _rows(items.shape[1:])
            for first in range(0, len(items), step):
                rows = slice(first, first + step)
                part = torch.from_numpy(np.array(items[rows]))
                for k, view in enumerate(self._way.views):
                    contrast = _contrast(part, view)
                    exact[k, rows] = torch.where(contrast > 0, exact[k, rows] / contrast, math.inf)
        least = exact.numpy().argmin(axis=0), np.arange(len(items))
        return Nearest(exact.numpy()[least], index.numpy()[least])

    def _agreed(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return exact distance and index by the process whose training item is nearest, and first if several are."""
        rounded = least_of(self._rounded)
        own = self._rounded == rounded
        index = least_of(torch.where(own, self._index, torch.iinfo(torch.long).max))
        return least_of(torch.where(own & (self._index == index), self._exact, math.inf)), index


def _contrast(images: torch.Tensor, view: View) -> torch.Tensor:
    """Return the contrast, which is measured within channels, so that a uniform colour has none: float64 [n]."""
    seen = _part(images, view.item).flatten(2).double()
    return seen.var(dim=2, correction=0).mean(dim=1).sqrt()


def _rows(item: Sequence[int]) -> int:
    """Return how many items of this shape are compared at a time."""
    return max(1, min(CHUNK_ROWS, CHUNK_NUMBERS // math.prod(item)))


def _flat_train(items: torch.Tensor, view: View) -> torch.Tensor:
    return _flat(items.flip(-1) if view.mirrored else items, view.train)


def _flat(items: torch.Tensor, window: Window) -> torch.Tensor:
    return _part(items, window).float().reshape(len(items), -1)


def _part(items: torch.Tensor, window: Window) -> torch.Tensor:
    return items[(slice(None),) * (items.ndim - len(window)) + window]
