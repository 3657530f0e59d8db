"""Whether a few images are as near to the measured ones as these are to each other, by their features."""

from typing import NamedTuple

import numpy as np
from torch import Tensor

_SPLITS = 500
"""Random splits of the measured images."""


class Nearness(NamedTuple):
    """The kernel distance of some images from the measured ones."""

    distance: float
    by_chance: float
    """The largest distance of as many measured images from the other measured ones, over random splits; at least 0."""


def nearness(drawn: Tensor, measured: Tensor, *, seed: int = 0) -> Nearness:
    """Compare features [N,D] of drawn images with those of measured ones, [R,D]; R is at least 2 N.

    The distance is the unbiased squared maximum mean discrepancy with the cubic kernel of KID (Bińkowski et al. 2018).
    """
    a, b = drawn.double().numpy(), measured.double().numpy()
    n, r = len(a), len(b)
    between, of_measured = _kernel(a, b), _kernel(b, b)
    distance = _off_diagonal_mean(_kernel(a, a)) + _off_diagonal_mean(of_measured) - 2 * between.mean()
    random = np.random.default_rng(seed)
    chosen = np.zeros((_SPLITS, r))
    for row in chosen:
        row[random.choice(r, n, replace=False)] = 1
    to_chosen = chosen @ of_measured
    diagonal, total = np.diag(of_measured), of_measured.sum(axis=0)
    inside = np.einsum("sr,sr->s", to_chosen, chosen) - chosen @ diagonal
    across = np.einsum("sr,sr->s", to_chosen, 1 - chosen)
    outside = (1 - chosen) @ total - across - (1 - chosen) @ diagonal
    rest = r - n
    splits = inside / (n * (n - 1)) + outside / (rest * (rest - 1)) - 2 * across / (n * rest)
    return Nearness(float(distance), max(0.0, float(splits.max())))


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _off_diagonal_mean(matrix: np.ndarray) -> float:
    n = len(matrix)
    return float((matrix.sum() - np.trace(matrix)) / (n * (n - 1)))
