"""KID: the squared maximum mean discrepancy of two sets of features, with a cubic kernel (Bińkowski et al. 2018).

The value is torch-fidelity's, the mean over random subsets of both sets, so an image counts as often as it is in a
subset, and a pair as often as both are. The influence of an image x on it is 2 c (E k(x, X) - E k(x, Y)) less its mean,
for an image that is in c times as many subsets as the average one (the Hoeffding projection); that of a pair beyond
both is 2 k(x, x') less its means over x and over x'.
"""

import numpy as np

from ddpm.measuring.features.extractor import Described
from ddpm.measuring.measured import Measured, Pairs, interval_of_squares, variance_of
from ddpm.measuring.settings import Evaluate
from ddpm.measuring.strata import centred, contrasts, couples
from ddpm.measuring.torch_fidelity_options import known_options

_ROWS = 1024
"""Rows of a kernel matrix in memory at a time."""


def kid(images: Described, reference: Described, settings: Evaluate, *, rough: bool = False) -> Measured:
    """Return KID of N images against M reference images. It has no bias: its interval is for that of infinitely many.

    With classes, in which the numbers of images are no random ones, KID is too small by what they would add. A `rough`
    interval counts pairs of images twice, so it is wider.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    options = known_options(kid_subset_size=settings.kid_subset_size, kid_subsets=settings.kid_subsets, verbose=False)
    value = kid_features_to_metric(images.features, reference.features, **options)[KEY_METRIC_KID_MEAN]
    sets = [each.features.double().numpy() for each in (images, reference)]
    labels = [each.strata for each in (images, reference)]
    counts = _counts(len(images), len(reference), size=settings.kid_subset_size, subsets=settings.kid_subsets)
    projections = [_within(sets[0]) - _between(*sets), _within(sets[1]) - _between(*sets[::-1])]
    shares = [each.sum(axis=0) * each.shape[1] / each.sum() for each in counts]
    by_image, by_reference = (
        share * centred(2 * projection, label)
        for share, projection, label in zip(shares, projections, labels, strict=True)
    )
    pairs = None if rough else _pairs(sets, labels, shares, counts)
    error = float(np.sqrt(variance_of(by_image, by_reference, pairs)))
    shift = 0.0 if pairs is None else _shift(sets, pairs)
    low, high = interval_of_squares(value + shift, error)
    return Measured(value, low - shift, high - shift, by_image, by_reference, pairs)


def _counts(n: int, m: int, *, size: int, subsets: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which images [S,N] and which reference images [S,M] are in torch-fidelity's subsets, as 0 and 1."""
    from torch_fidelity.defaults import DEFAULTS

    random = np.random.RandomState(DEFAULTS["rng_seed"])  # the generator of torch-fidelity
    found = np.zeros((subsets, n)), np.zeros((subsets, m))
    for k in range(subsets):
        for each in found:
            each[k, random.choice(each.shape[1], size, replace=False)] = 1
    return found


def _pairs(
    sets: list[np.ndarray],
    labels: list[np.ndarray | None],
    shares: list[np.ndarray],
    counts: tuple[np.ndarray, np.ndarray],
) -> Pairs | None:
    a, b = sets
    n, m = len(a), len(b)
    of_a, of_b = (couples(len(each), label) for each, label in zip(sets, labels, strict=True))
    within_a, within_b, of_both = (
        2 * contrasts(lambda i, j: _kernel(x[i], y[j]), rows, columns, same=x is y)  # noqa: B023
        for x, y, rows, columns in ((a, a, of_a, of_a), (b, b, of_b, of_b), (a, b, of_a, of_b))
    )
    if not (len(within_a) and len(within_b) and len(of_both)):
        return None
    often = [float(np.mean(np.square(share))) for share in shares]
    subsets, size = len(counts[0]), int(counts[0][0].sum())
    met = [each @ each.T for each in counts]
    within = [float(np.sum(each * (each - 1))) / (subsets * size * (size - 1)) ** 2 for each in met]
    between = float(np.sum(met[0] * met[1])) / (subsets * size**2) ** 2
    return Pairs(
        within_a,
        within_b,
        of_both,
        in_influences=(often[0] / n**2, often[1] / m**2, (often[0] + often[1]) / (n * m)),
        in_value=(within[0] / 2, within[1] / 2, between),
    )


def _shift(sets: list[np.ndarray], pairs: Pairs) -> float:
    """Return what makes KID a sum of squares: the mean that it would have for equal distributions with a bias."""
    return sum(
        float(np.mean(_kernel(x, x)) - np.mean(_within(x))) * float(np.sqrt(2 * weight))
        for x, weight in zip(sets, pairs.in_value, strict=False)
    )


def _within(x: np.ndarray) -> np.ndarray:
    """Return the mean of the kernel of each row of x [N,D] with all other rows: [N]."""
    own = _kernel(x, x)
    return (_sums(x, x) - own) / (len(x) - 1)


def _between(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the mean of the kernel of each row of x [N,D] with the rows of y [M,D]: [N]."""
    return _sums(x, y) / len(y)


def _sums(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    parts = (x[start : start + _ROWS] @ y.T / x.shape[1] + 1 for start in range(0, len(x), _ROWS))
    return np.concatenate([(part * part * part).sum(axis=1) for part in parts])  # ** 3 takes ten times as long


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the kernel of each row of x [P,D] with the same row of y [P,D]: [P]."""
    return (np.einsum("pd,pd->p", x, y) / x.shape[1] + 1) ** 3
