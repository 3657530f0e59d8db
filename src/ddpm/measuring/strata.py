"""Classes as strata: images of a class vary among each other, while the number of images of each class does not.

Labels are drawn in equal numbers and held-out images are split by class, so other images would have the same numbers. A
variance over all images would add that of these numbers, which for FID is more than all the rest.
"""

from collections.abc import Callable
from math import gcd

import numpy as np

_MOST = 4000
"""Contrasts at most: their mean square then has a relative error of a few percent."""
_TURNS = 8
"""Contrasts per couple of images, at most."""

Labels = np.ndarray | None
"""int64 [N], or None for images without classes."""


def collapsed(labels: Labels) -> Labels:
    """Return the labels with all classes of a single image as one class (collapsed strata).

    A class of one image says nothing about the variance within classes: among such classes alone, it would be 0. The
    collapsed class has the variance between its classes, too, so intervals become wider, never narrower. A lone class
    of one image goes into the smallest other class.
    """
    if labels is None:
        return None
    classes, number, counts = np.unique(labels, return_inverse=True, return_counts=True)
    joined = counts == 1
    if joined.sum() == 1 and len(counts) > 1:
        joined[np.argsort(counts, kind="stable")[1]] = True
    return np.where(joined[number], classes[joined.argmax()], labels)


def centred(values: np.ndarray, labels: Labels) -> np.ndarray:
    """Return values [N] less the mean of their class, enlarged so that their mean square is that of one degree less.

    Each class costs a degree of freedom: the mean square is that of an unbiased variance times (N - 1) / N.
    """
    if labels is None:
        return values - values.mean()
    _, number, counts = np.unique(labels, return_inverse=True, return_counts=True)
    found = values - (np.bincount(number, values) / counts)[number]
    return found * np.sqrt((len(values) - 1) / max(1, len(values) - len(counts)))


def couples(n: int, labels: Labels) -> np.ndarray:
    """Return rows int64 [2,K] of couples of images that are of the same class; no image is in two of them."""
    if labels is None:
        return np.arange(n // 2 * 2).reshape(-1, 2).T
    order = np.argsort(labels, kind="stable")
    of_sorted = np.asarray(labels)[order]
    place = np.arange(n) - np.searchsorted(of_sorted, of_sorted)
    first = np.flatnonzero((place[:-1] % 2 == 0) & (of_sorted[:-1] == of_sorted[1:]))
    return np.stack([order[first], order[first + 1]])


def contrasts(
    kernel: Callable[[np.ndarray, np.ndarray], np.ndarray], rows: np.ndarray, columns: np.ndarray, *, same: bool
) -> np.ndarray:
    """Return half of k(x1,y1) - k(x1,y2) - k(x2,y1) + k(x2,y2) for some couples (x1,x2) and (y1,y2): float64 [P].

    `rows` [2,K] and `columns` [2,L] are couples, and `kernel` maps rows [P] and columns [P] to values [P]. Their
    mean square is that of the kernel less its means over the class of either argument, which need not be computed.
    `same`: both are couples of one set, and none is compared with itself. Empty if there are too few couples.
    """
    k, m = rows.shape[1], columns.shape[1]
    if min(k, m) < 1 + same:
        return np.zeros(0)
    at = np.arange(min(_MOST, _TURNS * max(k, m)))
    if same:
        i = at % k
        j = (i + 1 + at // k % (k - 1)) % k
    else:
        i, j = at % k, (at + at // (k * m // gcd(k, m))) % m
    (x1, x2), (y1, y2) = rows[:, i], columns[:, j]
    return (kernel(x1, y1) - kernel(x1, y2) - kernel(x2, y1) + kernel(x2, y2)) / 2


def halves(n: int, labels: Labels, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of two disjoint halves of n images, with half of each class in both, as far as it is even."""
    order = random.permutation(n)
    if labels is not None:
        order = order[np.argsort(np.asarray(labels)[order], kind="stable")]
    return np.sort(order[: n // 2 * 2 : 2]), np.sort(order[1::2])
