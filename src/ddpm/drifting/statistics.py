"""Distances of two sets of pictures, for the observed division of all pictures into two sets and for random ones.

Each function maps divisions, bool [B,N] (true: the picture is in the first set, of n pictures; every division has the
same n), to distances, float64 [B]: 0 or above for sets that are alike, and larger for sets that differ more.
"""

import math

import numpy as np
import torch

from ddpm.measuring.features.extractor import Described
from ddpm.measuring.frechet import frechet_distance

COMPONENTS = 64
"""Directions of the features that the Fréchet distance sees at most."""


def frechet(features: np.ndarray, divisions: np.ndarray) -> np.ndarray:
    """Return, for each division, how far means and covariances of features [N,D] are apart: the Fréchet distance.

    Of more than COMPONENTS features it is that of their principal components over all pictures, which do not depend on
    the division: so few pictures would not determine a covariance of more.
    """
    centred = features - features.mean(axis=0)
    if centred.shape[1] > COMPONENTS:
        centred = centred @ np.linalg.svd(centred, full_matrices=False)[2][:COMPONENTS].T
    described = Described(torch.from_numpy(centred), torch.zeros(len(centred), 0))
    first = torch.from_numpy(divisions)
    return np.array([frechet_distance(described[own], described[~own]) for own in first])


def kernel(features: np.ndarray, divisions: np.ndarray) -> np.ndarray:
    """Return, for each division, how much less alike features [N,D] are between the sets than within each of them.

    How alike two pictures are says the kernel of KID; this is the unbiased squared maximum mean discrepancy. It is KID
    of all pictures at once (Bińkowski et al. 2018), while KID is a mean over random subsets.
    """
    gram = (features @ features.T / features.shape[1] + 1) ** 3
    np.fill_diagonal(gram, 0)
    first = divisions.astype(float)
    n, m = _sizes(divisions)
    within = np.einsum("bi,bi->b", first @ gram, first)
    rows = first @ gram.sum(axis=1)  # sums of the first set with all pictures
    between = rows - within
    others = gram.sum() - within - 2 * between
    return within / (n * (n - 1)) + others / (m * (m - 1)) - 2 * between / (n * m)


def shares(classes: np.ndarray, divisions: np.ndarray) -> np.ndarray:
    """Return, for each division, how strongly the classes int64 [N] say that the sets have different class shares.

    It is the log Bayes factor for two vectors of shares against one common vector. The counts are multinomial, and the
    shares have Jeffreys' Dirichlet prior, 1/2 for each class.
    """
    _, number = np.unique(classes, return_inverse=True)
    one_hot = np.eye(number.max() + 1)[number]
    counts = divisions.astype(float) @ one_hot
    total = one_hot.sum(axis=0)
    return _log_evidence(counts) + _log_evidence(total - counts) - _log_evidence(total)


def largest_gap(values: np.ndarray, divisions: np.ndarray) -> np.ndarray:
    """Return, for each division, the largest difference of the shares of both sets that have at most some value.

    That is the largest distance of the cumulative distributions of the values [N] (Kolmogorov and Smirnov).
    """
    order = np.argsort(values, kind="stable")
    ends = np.append(np.diff(values[order]) != 0, True)  # equal values count together
    n, m = _sizes(divisions)
    first = np.cumsum(divisions[:, order], axis=1)[:, ends]
    seen = np.arange(1, len(values) + 1)[ends]
    return np.abs(first / n - (seen - first) / m).max(axis=1)


def _log_evidence(counts: np.ndarray) -> np.ndarray:
    """Return the log evidence of an order of pictures with these counts [...,K] under the prior."""
    k = counts.shape[-1]
    prior = math.lgamma(k / 2) - k * math.lgamma(0.5)
    log_gamma = torch.lgamma(torch.from_numpy(counts + 0.5)).numpy().sum(axis=-1)
    return log_gamma - torch.lgamma(torch.as_tensor(counts.sum(axis=-1) + k / 2)).numpy() + prior


def _sizes(divisions: np.ndarray) -> tuple[int, int]:
    n = int(divisions[0].sum())
    return n, divisions.shape[1] - n
