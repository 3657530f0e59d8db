"""FID: the Fréchet distance of two Gaussians that have mean and covariance of two sets of features; FID at infinity.

Both have intervals from the first and second derivatives of the distance with respect to the weights of the images, in
closed form. With S1, S2 the covariances, R = S1^(1/2), and R S2 R = V diag(r^2) V', a generated image x has the
coordinates e = V' R^-1 (x - m1), and a reference image y has f = diag(1/r) V' R (y - m2): both have covariance I. In
them, with w_ij = r_i r_j / (r_i + r_j), and d_ij = 1 for i = j and 0 else,

- the influence of x is 2 (m1 - m2)·(x - m1) + |x - m1|^2 - sum_i r_i e_i^2, less its mean, and that of y likewise,
- a pair (x, x') has the influence k(e, e') beyond those of both, (y, y') has k(f, f'), and (x, y) has -k(e, f), where
  k(e, f) = 2 sum_i r_i e_i f_i + sum_ij w_ij (e_i e_j - d_ij) (f_i f_j - d_ij).

This follows from the derivatives of tr (R S2 R)^(1/2), the part of the distance that is not linear in both covariances
(Dowson and Landau 1982).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ddpm.measuring.features.extractor import Described
from ddpm.measuring.measured import Measured, Pairs, interval_of_squares, variance_of
from ddpm.measuring.strata import centred, contrasts, couples


def frechet_distance(images: Described, reference: Described) -> float:
    """Return FID (Heusel et al. 2017), at least 0: rounding can make the distance of equal sets slightly negative."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    a, b = (fid_features_to_statistics(described.features) for described in (images, reference))
    return max(0.0, fid_statistics_to_metric(a, b, verbose=False)[KEY_METRIC_FID])


def frechet_of_moments(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> float:
    """Return the Fréchet distance of two Gaussians with these means [D] and covariances [D,D], at least 0."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    one, other = ({"mu": mean, "sigma": covariance} for mean, covariance in (a, b))
    return max(0.0, fid_statistics_to_metric(one, other, verbose=False)[KEY_METRIC_FID])


def fid_and_fid_infinity(images: Described, reference: Described, *, rough: bool = False) -> tuple[Measured, Measured]:
    """Return FID, and FID at infinity, of N images against M reference images.

    FID is larger than the distance of the distributions by a bias that falls as 1/N and 1/M (Chong and Forsyth 2020),
    and differs between models. FID at infinity is FID less this bias. They fit its slope to random subsets of the
    images; here it is the slope of the second derivatives, for both sets: it has no random part, and less variance.

    The interval of FID is for the mean FID of sets of these sizes, that of FID at infinity for the distance of the
    distributions. `rough` intervals count pairs of images twice, so they are wider.
    """
    value, found = frechet_distance(images, reference), _Derivatives(images, reference)
    by_image, by_reference, pairs, bias = *found.influences, None if rough else found.pairs, found.bias
    low, high = interval_of_squares(value, float(np.sqrt(variance_of(by_image, by_reference, pairs))))
    return (
        Measured(value, low, high, by_image, by_reference, pairs),
        Measured(value - bias, low - bias, high - bias, by_image, by_reference, pairs),
    )


@dataclass(frozen=True, eq=False)
class _Side:
    """One of the two sets."""

    labels: np.ndarray | None
    whitened: np.ndarray
    """[N,D]: e or f."""
    influence: np.ndarray
    """[N]"""
    trace: float
    """Mean square distance from the mean, or from the mean of the own class."""

    @cached_property
    def couples(self) -> np.ndarray:
        return couples(len(self.whitened), self.labels)


class _Derivatives:
    """The derivatives of the distance of two sets."""

    def __init__(self, images: Described, reference: Described) -> None:
        (a, b), self._sides = (each.features.double().numpy() for each in (images, reference)), []
        means = a.mean(axis=0), b.mean(axis=0)
        x, y = a - means[0], b - means[1]
        root, inverse = _roots(np.cov(a, rowvar=False))
        squared, vectors = np.linalg.eigh(root @ np.cov(b, rowvar=False) @ root)
        self._r = r = np.sqrt(np.clip(squared, 0, None))
        self._w = np.outer(r, r) / np.maximum(np.add.outer(r, r), np.finfo(r.dtype).tiny)
        whitened = x @ (inverse @ vectors), y @ (root @ vectors * _inverse(r))
        for described, centre, step, coordinates in zip(
            (images, reference), (x, y), (means[0] - means[1], means[1] - means[0]), whitened, strict=True
        ):
            labels = described.strata
            lengths = np.einsum("nd,nd->n", centre, centre)
            influence = centred(2 * centre @ step + lengths - np.square(coordinates) @ r, labels)
            self._sides.append(_Side(labels, coordinates, influence, _within(centre, labels)))

    @property
    def influences(self) -> tuple[np.ndarray, np.ndarray]:
        return self._sides[0].influence, self._sides[1].influence

    @cached_property
    def pairs(self) -> Pairs | None:
        one, other = self._sides
        n, m = len(one.whitened), len(other.whitened)
        within_images, within_reference, between = (
            contrasts(lambda i, j: self._kernel(p.whitened[i], q.whitened[j]), p.couples, q.couples, same=p is q)  # noqa: B023
            for p, q in ((one, one), (other, other), (one, other))
        )
        if not (len(within_images) and len(within_reference) and len(between)):
            return None
        weights = (1 / n**2, 1 / m**2, 2 / (n * m))
        in_value = (weights[0] / 2, weights[1] / 2, weights[2] / 2)
        return Pairs(within_images, within_reference, between, weights, in_value)

    @property
    def bias(self) -> float:
        """The mean of the second-order terms: FID less the distance of the distributions."""
        return sum((side.trace + self._spread(side) / 2) / len(side.whitened) for side in self._sides)

    def _kernel(self, e: np.ndarray, f: np.ndarray) -> np.ndarray:
        """Return k of rows e [P,D] and f [P,D]: [P]."""
        v = e * f
        diagonal = (np.square(e) + np.square(f) - 1) @ self._r / 2
        return np.einsum("pi,pi->p", v @ self._w, v) + 2 * v @ self._r - diagonal

    def _spread(self, side: _Side) -> float:
        """Return the mean of sum_ij w_ij (e_i e_j - c_ij)^2, in which c is the mean of e_i e_j over the own class."""
        squares = np.square(side.whitened)
        total = np.einsum("ni,ni->n", squares @ self._w, squares).mean()
        n = len(squares)
        groups = [slice(None)] if side.labels is None else [side.labels == k for k in np.unique(side.labels)]
        for rows in groups:
            e = side.whitened[rows]
            total -= len(e) / n * np.sum(self._w * np.square(e.T @ e / len(e)))
        return float(total) * n / max(1, n - len(groups))


def _within(centre: np.ndarray, labels: np.ndarray | None) -> float:
    return float(sum(np.mean(np.square(centred(column, labels))) for column in centre.T))


def _roots(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the square root of a symmetric positive semi-definite matrix, and the root's pseudo-inverse."""
    values, vectors = np.linalg.eigh(matrix)
    roots = np.sqrt(np.clip(values, 0, None))
    return (vectors * roots) @ vectors.T, (vectors * _inverse(roots)) @ vectors.T


def _inverse(values: np.ndarray) -> np.ndarray:
    """Return 1 / values, and 0 for values that are 0 up to rounding."""
    kept = values > values.max() * np.sqrt(np.finfo(values.dtype).eps)
    return np.divide(1, values, out=np.zeros_like(values), where=kept)
