"""The Fréchet distance of a window of served images from the measured ones, by their features."""

from typing import NamedTuple

import numpy as np

from ddpm.canary.kept import Kept
from ddpm.measuring.frechet import frechet_of_moments

_DIRECTIONS = 64
"""Distances are taken in this many directions at most, in which the features of the measured images vary most."""
_SPLITS = 20


class Drift(NamedTuple):
    """A Fréchet distance of served images."""

    distance: float
    by_chance: float
    """The largest distance of as many measured images, with the same classes, from other measured ones."""


def drift(features: np.ndarray, labels: np.ndarray | None, kept: Kept, *, seed: int = 0) -> Drift:
    """Compare features [N,D] of images with labels [N] with those that were kept.

    The measured images count as often as the classes of the served ones require, so that it is no drift when people ask
    for one class more often. For the distance by chance, random halves of the measured images are compared: from one of
    them N images are drawn (with replacement), and the other is the reference.
    """
    reference = kept.features.double().numpy()
    known = None if kept.labels is None or labels is None else kept.labels.numpy()
    centre = reference.mean(axis=0)
    _, _, directions = np.linalg.svd(reference - centre, full_matrices=False)
    a, b = ((each - centre) @ directions[:_DIRECTIONS].T for each in (features.astype(np.float64), reference))
    random = np.random.default_rng(seed)
    by_chance = 0.0
    for _ in range(_SPLITS):
        order = random.permutation(len(b))
        one, other = order[: len(b) // 2], order[len(b) // 2 :]
        drawn = random.choice(one, len(a), p=_weights(known, labels, one))
        by_chance = max(by_chance, _distance(b[drawn], b[other], _weights(known, labels, other)))
    return Drift(_distance(a, b, _weights(known, labels, np.arange(len(b)))), by_chance)


def _weights(known: np.ndarray | None, labels: np.ndarray | None, rows: np.ndarray) -> np.ndarray:
    """Return the weights of these measured images, [R] with sum 1, that give them the class shares of the served ones.

    Served classes of which there is no measured image are left out.
    """
    if known is None or labels is None:
        return np.full(len(rows), 1 / len(rows))
    classes = max(known.max(), labels.max()) + 1
    served, measured = (np.bincount(each, minlength=classes) for each in (labels, known[rows]))
    weights = (served / np.maximum(1, measured))[known[rows]]
    if weights.sum() == 0:
        return np.full(len(rows), 1 / len(rows))
    return weights / weights.sum()


def _distance(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    """Return the Fréchet distance of x [N,D] from y [M,D] with weights [M]."""
    mean = weights @ y
    centred = y - mean
    covariance = (centred * weights[:, None]).T @ centred / (1 - np.square(weights).sum())
    return frechet_of_moments((x.mean(axis=0), np.cov(x, rowvar=False)), (mean, covariance))
