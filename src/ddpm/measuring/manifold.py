"""Precision and recall: shares of the images of one set that are inside the manifold of another set."""

import numpy as np
import torch
from torch import Tensor

from ddpm.measuring.features.extractor import Described
from ddpm.measuring.measured import Measured, Z, variance_of, variance_of_mean
from ddpm.measuring.strata import centred, halves

_SPLITS = 12
"""Divisions of a manifold into halves, for the variance that its points cause."""


def precision_and_recall(
    images: Described, reference: Described, *, neighbours: int, seed: int | None
) -> tuple[Measured, Measured]:
    """Return precision and recall (Kynkäänniemi et al. 2019) of N images against M reference images.

    The manifold of a set is the union of balls about its points, each as large as the distance to the `neighbours`-th
    nearest other one. The values are those of torch-fidelity. The intervals are for the mean values of sets of these
    sizes, within 0 and 1. `seed` decides about the divisions into halves; with None there are none, and intervals are
    too wide.
    """
    inside_real = _share(images, reference, neighbours, seed)
    inside_made = _share(reference, images, neighbours, seed)
    return _measured(*inside_real), _measured(inside_made[0], *inside_made[:0:-1])


def _measured(share: float, by_image: np.ndarray, by_reference: np.ndarray) -> Measured:
    reach = Z * float(np.sqrt(variance_of(by_image, by_reference)))
    return Measured(share, max(0.0, share - reach), min(1.0, share + reach), by_image, by_reference)


def _share(
    points: Described, manifold: Described, neighbours: int, seed: int | None
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the share of N points inside the manifold of M points, and the influences of both, [N] and [M].

    The distances are torch-fidelity's, in float32. Those of `density_coverage` are others, centred and in float64, with
    a tolerance for ties: with them, images that repeat would have other shares than torch-fidelity's.

    The influence of a point that is averaged is whether it is inside. That of a point of the manifold is what the share
    loses without it (jackknife), scaled to the variance that halves of the manifold show: two halves are independent,
    so half of the variance of their shares is that of one share of the whole manifold, if it falls as 1 / M. The
    jackknife alone is several times too large, because the balls of neighbours stand in for each other.
    """
    from torch_fidelity.defaults import DEFAULTS
    from torch_fidelity.metric_prc import calc_cdist_part

    rows, m = DEFAULTS["prc_batch_size"], len(manifold)
    between = torch.cat([calc_cdist_part(part, manifold.features, rows) for part in points.features.split(rows)])
    among = torch.cat([calc_cdist_part(part, manifold.features, rows) for part in manifold.features.split(rows)])
    inside = (between <= among.kthvalue(neighbours + 1).values).any(dim=1).float()
    by_point = centred(inside.double().numpy(), points.strata)
    of_manifold = centred(_lost(between, among, neighbours), manifold.strata)
    random, squares = np.random.default_rng(seed), []
    for _ in range(_SPLITS if m // 2 > neighbours and seed is not None else 0):
        one, other = (
            _mean_inside(between[:, half], among[half][:, half], neighbours)
            for half in map(torch.from_numpy, halves(m, manifold.strata, random))
        )
        squares.append((one - other) ** 2 / 4)
    jackknife = variance_of_mean(of_manifold)
    scale = np.sqrt(np.mean(squares) / jackknife) if squares and jackknife > 0 else 1.0
    return inside.mean().item(), by_point, of_manifold * scale


def _mean_inside(between: Tensor, among: Tensor, neighbours: int) -> float:
    return (between <= among.kthvalue(neighbours + 1).values).any(dim=1).double().mean().item()


def _lost(between: Tensor, among: Tensor, neighbours: int) -> np.ndarray:
    """Return what the share loses without each point of the manifold, times M - 1: float64 [M].

    `between` [N,M] and `among` [M,M] are the distances to the points of the manifold. Without a point its ball is gone,
    and the balls of which it is a neighbour grow. That changes only points that are in one ball or in none.
    """
    n, m = between.shape
    ends = min(neighbours + 2, m)
    distance, nearest = among.topk(ends, largest=False)
    radius, near = distance[:, neighbours], nearest[:, 1 : neighbours + 1].numpy()  # the first is the point itself
    larger = distance[:, neighbours + 1] if ends > neighbours + 1 else torch.full_like(radius, torch.inf)
    within = between <= radius
    balls = within.sum(dim=1)

    def reached(held: int) -> tuple[Tensor, np.ndarray]:
        """Return the points in so many balls, and [2,K]: a place among them, and what is missing if it is reached."""
        rows = (balls == held).nonzero()[:, 0]
        place, ball = ((between[rows] <= larger) & ~within[rows]).nonzero().numpy().T
        return rows, np.unique(np.stack([place.repeat(near.shape[1]), near[ball].ravel()]), axis=1)

    rows, kept = reached(1)
    owner = within[rows].int().argmax(dim=1).numpy()
    lost = np.bincount(owner, minlength=m) - np.bincount(kept[1][kept[1] == owner[kept[0]]], minlength=m)
    lost = lost - np.bincount(reached(0)[1][1], minlength=m)
    return lost / n * (m - 1)
