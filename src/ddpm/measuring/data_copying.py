"""C_T (Meehan, Chaudhuri and Dasgupta 2020): whether generated images are nearer to training images than real ones.

Shares of copies count images that are nearer than nearly all held-out images. C_T compares all distances, so it also
notices a model whose images are all a little too near, none of which is a copy by itself.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddpm.measuring.measured import Measured, from_influences

COPYING = -3.0
"""A model below this copies: its mean z-score over the cells is that of chance in one of 700 cells."""
CELLS = 30
"""Largest number of cells."""
HELD_OUT_PER_CELL = 30
"""Mean number of held-out images per cell, at least."""
FEWEST_IMAGES = 20
"""Generated images that a cell needs to count."""
_ROUNDS = 50


def data_copying(
    images: tuple[Tensor, np.ndarray],
    held_out: tuple[Tensor, np.ndarray],
    train: Tensor,
    *,
    seed: int,
) -> Measured | None:
    """Return C_T of N generated images by M held-out ones: negative if they are nearer to training images.

    `images` and `held_out` are features [N,D] and [M,D], each with the distances [N], [M] to the nearest training
    images; `train` are the features [T,D] of training images, or of a random part of them, whose k-means cells (by
    `seed`) divide the images. In each cell the z-score of the Mann-Whitney U statistic compares the two sets of
    distances, and C_T is the mean of the z-scores, weighted by the cells' shares of the held-out images. Cells with
    fewer than `FEWEST_IMAGES` generated or without held-out images do not count; None if no cell counts.

    0: as near as real images; below `COPYING`: copies; clearly above 0: images further from the training images than
    real ones are, as of a model that fits badly. Every z-score grows with the root of the number of images per cell.
    With 359 held-out images there are 11 cells of about 33, and 1438 exact copies have about -9; a model is below -3 if
    about a third of its images are copies, and of fewer copies the shares of copies tell more.

    The interval is that of the influences on the U statistics and on the sizes of the cells; the cells are given.
    With 10,000 images of each kind and 2048 features it takes a quarter of a minute on one core.
    """
    (features, distances), (real_features, real_distances) = images, held_out
    n, m = len(distances), len(real_distances)
    centres = k_means(train, min(CELLS, max(1, m // HELD_OUT_PER_CELL)), seed=seed)
    cells, real_cells = (_nearest(part.double(), centres).numpy() for part in (features, real_features))
    counted = [
        (own, real)
        for cell in range(len(centres))
        if (own := cells == cell).sum() >= FEWEST_IMAGES and (real := real_cells == cell).any()
    ]
    if not counted:
        return None
    total = sum(int(real.sum()) for _, real in counted)
    scores = [mann_whitney(distances[own], real_distances[real]) for own, real in counted]
    value = sum(score.z * real.sum() for score, (_, real) in zip(scores, counted, strict=True)) / total
    by_image, by_reference = np.zeros(n), np.zeros(m)
    for score, (own, real) in zip(scores, counted, strict=True):
        weight = real.sum() / total
        by_image[own] = n * weight * score.by_a
        by_reference[real] = m * (weight * score.by_b + (score.z - value) / total)
    return from_influences(float(value), by_image - by_image.mean(), by_reference - by_reference.mean())


@dataclass(frozen=True)
class ZScore:
    """The z-score of the Mann-Whitney U statistic of values a [n] and b [m]."""

    z: float
    """U less its mean under equal distributions, divided by its standard deviation without ties; negative if values of
    a are smaller."""
    by_a: np.ndarray
    """float64 [n], how each value of a moves z, its part of the number n included."""
    by_b: np.ndarray
    """float64 [m], the same of each value of b."""


def mann_whitney(a: np.ndarray, b: np.ndarray) -> ZScore:
    """Compare values a [n] and b [m] (Mann and Whitney 1947); of equal values each counts half."""
    n, m = len(a), len(b)
    of_a, of_b = _share_below(a, b), 1 - _share_below(b, a)
    scale = np.sqrt(12 * n * m / (n + m + 1))
    z = float(scale * (of_a.mean() - 0.5))
    by_a, by_b = (
        scale * (part - part.mean()) / size + z / 2 * (1 / size - 1 / (n + m + 1))
        for part, size in ((of_a, n), (of_b, m))
    )
    return ZScore(z, by_a, by_b)


def _share_below(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the share of the others [m] that are smaller than each value [n], equal ones counted half."""
    ordered = np.sort(others)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / (2 * len(others))


def k_means(points: Tensor, k: int, *, seed: int) -> Tensor:
    """Return at most k centres of points [T,D], float64 [k,D], by Lloyd's algorithm from seeded k-means++ centres."""
    points = points.double()
    random = torch.Generator().manual_seed(seed)
    rows = [int(torch.randint(len(points), (1,), generator=random))]
    least = (points - points[rows[0]]).square().sum(dim=1)
    while len(rows) < k and bool((least > 0).any()):
        rows.append(int(torch.multinomial(least, 1, generator=random)))
        least = torch.minimum(least, (points - points[rows[-1]]).square().sum(dim=1))
    centres, before = points[rows], None
    for _ in range(_ROUNDS):
        cells = _nearest(points, centres)
        if before is not None and torch.equal(cells, before):
            break
        before = cells
        sums = torch.zeros_like(centres).index_add_(0, cells, points)
        counts = cells.bincount(minlength=len(centres))[:, None]
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    return centres


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    """Return the nearest of the centres [k,D] of each point [T,D]: int64 [T]."""
    return (centres.square().sum(dim=1) - 2 * points @ centres.T).argmin(dim=1)
